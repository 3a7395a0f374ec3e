"""What a model may learn beside the next token, by name: each name is a view of the shards and a loss.

    next_token        the token after each                              decoders
    masked_token      what stood where tokens are masked                a masked_token head
    next_sentence     the same, and whether the second segment follows  a pretraining head (BERT)
    sentence_order    the same, and whether two segments were swapped   a pretraining head (ALBERT)
    replaced_token    which tokens another model has replaced           any encoder (ELECTRA, DeBERTa 3)
    span_corruption   the spans that a source lacks                     encoder-decoders (T5)
    source_to_target  a target, from its source                         encoder-decoders

The views are in ``formers.data``; here are the losses, each a module that is compiled, wrapped and called in the place of
`Objective`. A loss with two parts is their sum, each divided by the number of its own targets: masked tokens, and rows or
tokens. The loop divides by the masked tokens of the whole batch, so the second part is weighed to make up for that.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from formers.errors import ConfigError
from formers.parts.positions import Positions
from formers.parts.sources import Source
from formers.training.batches import number_scored
from formers.training.labelled import LabelObjective
from formers.training.loss import IGNORE, score
from formers.training.objective import Objective, body_and_head
from formers.training.precision import autocast
from formers.training.replaced import ReplacedToken, draw_tokens, replaced

Measures = dict[str, Tensor]
"""Of a second loss, by its name: sum of the losses, hits, targets [3]."""

PAIRS = {"bert": "next_sentence", "albert": "sentence_order"}
"""The pairs that a pretraining head was published with."""


class PairObjective(Objective):
    """Masked tokens, and a label for each row (1810.04805, A.2; 1909.11942, 3.1): the sum of both means."""

    second_loss: float = math.log(2)

    def forward(
        self,
        input_ids: Tensor,
        targets: Tensor,
        index: Tensor | None = None,
        document: Tensor | None = None,
        state: Any = None,
        *,
        scores: bool = False,
        aligned: int | None = None,
        token_types: Tensor | None = None,
        pair: Tensor | None = None,
        weight: Tensor | float = 1.0,
    ) -> tuple[Any, ...]:
        """As `Objective`. pair [batch], -100 none; `document` is not looked at: both segments see each other."""
        with autocast(input_ids.device.type, self.precision):
            positions = None if index is None else Positions(index)
            hidden, head, _ = body_and_head(self.model, input_ids, positions, token_types=token_types)
            rows = _wide(head.pair(hidden, positions))  # type: ignore[attr-defined]
            assert pair is not None, "batches of pairs carry their labels"
            if scores:
                return *score(hidden, head, targets), None, {"pair": _measured(rows, pair)}
            loss, count = self.loss(hidden, head, targets)
            second = F.cross_entropy(rows, pair, ignore_index=IGNORE, reduction="sum")
            return loss + weight * second, count, None

    def weights(self, batch: Any, device: str) -> dict[str, Tensor]:
        return {"weight": _per(batch.pair != IGNORE, batch, device)}


class ReplacedObjective(Objective):
    """A generator's masked tokens, and which tokens of what it wrote are not the text's (2003.10555; 2111.09543, 3.1)."""

    model: ReplacedToken
    share: ClassVar[float] = 50.0
    """Weight of the second loss (both papers)."""
    second_loss: float = 50.0 * math.log(2)

    def forward(
        self,
        input_ids: Tensor,
        targets: Tensor,
        index: Tensor | None = None,
        document: Tensor | None = None,
        state: Any = None,
        *,
        scores: bool = False,
        aligned: int | None = None,
        weight: Tensor | float = 1.0,
    ) -> tuple[Any, ...]:
        """As `Objective`. No gradient goes through what the generator writes."""
        with autocast(input_ids.device.type, self.precision):
            positions = None if index is None else Positions(index, document)
            hidden, head, _ = body_and_head(self.model.generator, input_ids, positions)
            drawn = draw_tokens(hidden, head, targets != IGNORE, seeded=scores)
            read, labels = replaced(input_ids, targets, drawn, index)
            seen, label, _ = body_and_head(self.model.discriminator, read, positions)
            if scores:
                return *score(hidden, head, targets), None, {"replaced": _measured(label(seen), labels)}
            loss, count = self.loss(hidden, head, targets)
            second, _ = self.loss(seen, label, labels)
            return loss + weight * second, count, None

    def weights(self, batch: Any, device: str) -> dict[str, Tensor]:
        return {"weight": self.share * _per(batch.index >= 0, batch, device)}


class SourceObjective(Objective):
    """What a decoder writes from a source, each target token from the true ones before it (teacher forcing)."""

    def forward(
        self,
        input_ids: Tensor,
        targets: Tensor,
        index: Tensor | None = None,
        document: Tensor | None = None,
        state: Any = None,
        *,
        scores: bool = False,
        aligned: int | None = None,
        source_ids: Tensor | None = None,
        source_index: Tensor | None = None,
    ) -> tuple[Any, ...]:
        """As `Objective`. source_ids, source_index: Int [batch, source], a text a row from 0 on with padding behind it;
        `document` is not looked at."""
        with autocast(input_ids.device.type, self.precision):
            assert source_ids is not None, "batches of sources and targets carry both"
            from_0 = None if source_index is None else Positions(source_index, aligned=source_ids.shape[1])
            source = Source(source_ids, from_0)
            positions = None if index is None else Positions(index)
            hidden, head, staged = body_and_head(self.model, input_ids, positions, source=source)
            return *self.answer(hidden, head, targets, scores=scores), staged


def _per(there: np.ndarray, batch: Any, device: str) -> Tensor:
    """What a part's sum is to be multiplied with for its mean over what is `there`, since the loop divides by the
    targets."""
    return torch.tensor(max(1, number_scored(batch)) / max(1, int(there.sum())), device=device)


def _measured(logits: Tensor, labels: Tensor) -> Tensor:
    """Sum of the losses, hits and targets of logits [.., labels]."""
    flat, flat_labels = _wide(logits.flatten(0, -2)), labels.flatten()
    losses = F.cross_entropy(flat, flat_labels, ignore_index=IGNORE, reduction="sum")
    there = flat_labels != IGNORE
    return torch.stack([losses, ((flat.argmax(-1) == flat_labels) & there).sum(), there.sum()])


def _wide(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


# --- which ------------------------------------------------------------------------------------------------------------

_LOSSES: dict[str, type[Objective]] = {
    "next_sentence": PairObjective,
    "sentence_order": PairObjective,
    "replaced_token": ReplacedObjective,
    "span_corruption": SourceObjective,
    "source_to_target": SourceObjective,
}
"""Those of the others are the cross-entropy of their targets, whatever these are: `Objective`."""


def make_objective(model: nn.Module, name: str = "auto", *, precision: str = "float32") -> Objective:
    """The loss of an objective around a model. auto: what the model's head is for; of heads that label, their targets."""
    if isinstance(model, ReplacedToken):
        name = "replaced_token"
    elif name == "auto":
        if getattr(getattr(model, "config", None), "head", None) == "sequence" and not reads_source(model):
            return LabelObjective(model, precision=precision)
        name = default_of(getattr(model, "config", None), reads_source(model)) or "next_token"
    return _LOSSES.get(name, Objective)(model, precision=precision)


def reads_source(model: Any) -> bool:
    """Whether a model, or a class of models, writes from a source."""
    return "source" in getattr(model, "inputs", ())


def default_of(config: Any, from_source: bool) -> str | None:
    """The objective that a model's head is for; None for heads that label, which learn from labelled data alone."""
    head = getattr(config, "head", None)
    if head == "masked_token":
        return "masked_token"
    if head == "pretraining":
        return PAIRS.get(getattr(config, "architecture", ""), "sentence_order")
    if head is not None:
        return None
    return "span_corruption" if from_source else "next_token"


def choose(name: str, model: Any, config: Any) -> str:
    """The objective that `name` (auto: the default) means for a model, or a class of models, and its config.

    Raises ConfigError where the model cannot learn it, or has a head that no text teaches.
    """
    from_source, head = reads_source(model), getattr(config, "head", None)
    chosen = default_of(config, from_source) if name == "auto" else name
    kind = getattr(config, "architecture", type(config).__name__)
    if chosen is None:
        raise ConfigError(
            f"a {kind} with the head {head!r} learns from labelled data, not from text alone",
            "a head that text teaches",
            "--model.head masked_token, --model.head pretraining, or --train.objective replaced_token",
        )
    wanted = _lacking(chosen, from_source, head, getattr(model, "causal", True))
    if wanted:
        raise ConfigError(f"objective {chosen!r} for a {kind}" + (f" with the head {head!r}" if head else ""), *wanted)
    return chosen


def _lacking(name: str, from_source: bool, head: str | None, causal: bool) -> tuple[str, str] | None:
    """What a model lacks for an objective: what is wanted, and what to do; None where nothing."""
    if name in ("span_corruption", "source_to_target"):
        return (
            None if from_source else ("a model that writes from a source", "train t5, or leave --train.objective out")
        )
    if from_source:
        return "span_corruption or source_to_target, since it writes from a source", "leave --train.objective out"
    if name == "next_token":
        return None if causal else ("masked_token: each of its tokens sees the next one", "leave --train.objective out")
    if name in ("next_sentence", "sentence_order"):
        return None if head == "pretraining" else ("a head for tokens and pairs", "add --model.head pretraining")
    if name == "replaced_token":
        return None if head is not None else ("an encoder", "train bert, albert or distilbert")
    return None if head == "masked_token" else ("a masked_token head", "add --model.head masked_token, on an encoder")
