"""Parity of encoders with transformers, head by head: every layer's hidden states, logits, loss and every gradient.

    ours, theirs, table = twins("bert", "token", **sizes)
    compare(ours, theirs, table, batch("right", head="token", ...)).assert_within(1e-9)

Both sides are given the same ids, position ids, token types and labels; padding is left out of the comparison.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import formers
from formers.models.registry import configure, spec
from formers.parts.positions import Positions
from formers.parts.taps import listen
from formers.training.loss import IGNORE, cross_entropy
from formers.weights import Table
from tests.parity.harness import NO_SPECIAL_TOKENS, carry, random_ids, randomise

ROWS = ("pair", "sequence", "choice", "pooler")
"""Heads that read a row by its first token."""
SIDES = (("whole", "sdpa"), ("right", "sdpa"), ("right", "eager"), ("left", "sdpa"))
"""Where rows are padded, and by which code of theirs attention is computed."""
LENGTHS = [23, 17, 5, 1]
CHOSEN = torch.tensor([2])
"""Which text is right, of those to choose from."""
FLOOR = 1e-3
"""The least number that a difference is divided by: some gradients are 0 by symmetry, as of what a softmax leaves out."""


@dataclass(frozen=True)
class Differences:
    """Largest differences, each relative to the largest number of the reference's tensor (or to FLOOR)."""

    hidden: dict[str, float]
    logits: float
    loss: float
    gradients: dict[str, float]

    @property
    def worst(self) -> float:
        return max(*self.hidden.values(), self.logits, self.loss, *self.gradients.values())

    def assert_within(self, tolerance: float) -> None:
        """Written so that not-a-number is not within."""
        every = self.hidden | {"logits": self.logits, "loss": self.loss} | self.gradients
        beyond = {name: gap for name, gap in every.items() if not gap <= tolerance}
        assert not beyond, beyond


@dataclass(frozen=True)
class Batch:
    """Ids with their positions, types and labels; what does not belong to a head is not used."""

    ids: Tensor
    positions: Positions
    types: Tensor | None
    tokens: Tensor
    rows: Tensor
    starts: Tensor
    ends: Tensor

    @property
    def real(self) -> Tensor:
        return self.positions.present.expand_as(self.ids)

    @property
    def is_whole(self) -> bool:
        return bool(self.real.all())


def cases(heads: Iterable[str]) -> list[tuple[str, str, str]]:
    """Every head with every side and attention. Not those that read a row by its first token with padding on the left: there
    transformers reads the padding."""
    of_row = (*ROWS, "pretraining")
    return [(head, side, code) for head in heads for side, code in SIDES if side != "left" or head not in of_row]


def twins(name: str, head: str, *, seed: int = 1, random: bool = True, attention: str = "sdpa", **sizes: Any) -> Any:
    """Our model, transformers' class of the head with the same weights (random, or as it initialises them), and the table."""
    module, config = spec(name).load(), configure(name, None, head=head, **sizes)
    settings = module.FOREIGN.write(config) | NO_SPECIAL_TOKENS
    torch.manual_seed(seed)
    theirs_config = transformers.AutoConfig.for_model(**settings)
    theirs_config._attn_implementation = attention
    theirs = getattr(transformers, settings["architectures"][0])(theirs_config).double().eval()
    if random:
        randomise(theirs, seed)
    ours, table = module.MODEL(config).double().eval(), module.weights(config)
    carry(theirs, ours, table)
    return ours, theirs, table


def batch(side: str, *, vocab_size: int, num_labels: int, num_types: int, seed: int = 0) -> Batch:
    """Random ids of texts of LENGTHS padded on a side (``whole``: none is padded), with labels for every head."""
    generator = torch.Generator().manual_seed(seed)
    lengths, longest = torch.tensor(LENGTHS), max(LENGTHS)
    place = torch.arange(longest)[None]
    index = {
        "whole": place,
        "left": (place - (longest - lengths[:, None])).clamp(min=-1),
        "right": torch.where(place < lengths[:, None], place, -1),
    }[side]
    positions = Positions.whole(longest) if side == "whole" else Positions(index)
    shape = (len(lengths), longest)
    real = positions.present.expand(shape)

    def draw(high: int, shape: tuple[int, ...]) -> Tensor:
        return torch.randint(0, high, shape, generator=generator)

    scored = real & (torch.rand(shape, generator=generator) < 0.4)
    first = real.long().argmax(-1)
    last = longest - 1 - real.flip(-1).long().argmax(-1)
    return Batch(
        random_ids(*shape, vocab_size, seed=seed),
        positions,
        draw(num_types, shape) if num_types else None,
        torch.where(scored, draw(10**6, shape), IGNORE),
        draw(num_labels, shape[:1]),
        (first + last) // 2,
        last,
    )


# --- both sides -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    hidden: dict[str, Tensor]
    logits: Tensor
    pair: Tensor | None
    loss: Tensor


def ours_of(model: Any, given: Batch) -> Answer:
    """Our model's answer. The loss of masked tokens and of labelled ones comes out of chunks, as in training."""
    types = {} if given.types is None else {"token_types": given.types}
    embedded: list[Tensor] = []
    reads = getattr(model, "widen", model.embedding)  # what the first layer is given
    hook = reads.register_forward_hook(lambda m, args, out: embedded.append(out))
    with listen(model, "trunk.stream.*") as seen:
        hidden, _ = model.body(given.ids, given.positions, **types)
        streams = [seen[f"trunk.stream.{i}"][0] for i in range(len(model.trunk.order))]
    hook.remove()
    out = model.answer(hidden, given.positions, None)
    named = {"embedding": embedded[0]} | {f"layer {i}": stream for i, stream in enumerate(streams)}
    return Answer(named, out.logits, out.pair, our_loss(model, given, hidden, out))


def our_loss(model: Any, given: Batch, hidden: Tensor, out: Any) -> Tensor:
    head = model.config.head
    if head in ("masked_token", "pretraining", "token"):
        total, count = cross_entropy(hidden, model.head, token_labels(model, given))
        loss = total / count
        return loss if out.pair is None else loss + F.cross_entropy(out.pair, given.rows)
    return loss_of_logits(head, given, out.logits)


def token_labels(model: Any, given: Batch) -> Tensor:
    labels = model.config.num_labels if model.config.head == "token" else model.config.vocab_size
    return torch.where(given.tokens == IGNORE, IGNORE, given.tokens % labels)


def loss_of_logits(head: str, given: Batch, logits: Tensor) -> Tensor:
    """Of heads that read rows, of spans among real tokens, and of bodies a weighted sum."""
    if head in ("pair", "sequence"):
        return F.cross_entropy(logits, given.rows)
    if head == "choice":
        return F.cross_entropy(logits.T, CHOSEN)
    if head == "span":
        starts, ends = logits.masked_fill(~given.real[..., None], -torch.inf).unbind(-1)
        return (F.cross_entropy(starts, given.starts) + F.cross_entropy(ends, given.ends)) / 2
    kept = logits if head == "pooler" else logits[given.real]
    return (kept * torch.randn(kept.shape, generator=torch.Generator().manual_seed(0), dtype=kept.dtype)).sum()


def theirs_of(model: nn.Module, head: str, given: Batch, labels: Tensor) -> Answer:
    """transformers' answer, by its own loss wherever it has one that leaves padding out."""
    inputs: dict[str, Any] = {"input_ids": given.ids, "output_hidden_states": True}
    if given.types is not None:
        inputs["token_type_ids"] = given.types
    if not given.is_whole:
        position_ids = given.positions.index.expand_as(given.ids).clamp(min=0)
        inputs |= {"attention_mask": given.real.long(), "position_ids": position_ids}
    if head in ("masked_token", "pretraining", "token"):
        inputs["labels"] = labels
    if head == "pretraining":
        name = "sentence_order_label" if hasattr(model, "sop_classifier") else "next_sentence_label"
        inputs[name] = given.rows
    if head in ("pair", "sequence"):
        inputs["labels"] = given.rows
    if head == "choice":  # one batch, each of its texts a choice; DistilBERT would not take position ids apart
        inputs.pop("position_ids", None)
        inputs = {name: t[None] if isinstance(t, Tensor) else t for name, t in inputs.items()} | {"labels": CHOSEN}
    if head == "span" and given.is_whole:
        inputs |= {"start_positions": given.starts, "end_positions": given.ends}
    out = model(**inputs)
    logits, pair = their_logits(head, out)
    first, *rest = out.hidden_states
    hidden = {"embedding": first} | {f"layer {i}": layer for i, layer in enumerate(rest)}
    loss = getattr(out, "loss", None)
    return Answer(hidden, logits, pair, loss_of_logits(head, given, logits) if loss is None else loss)


def their_logits(head: str, out: Any) -> tuple[Tensor, Tensor | None]:
    if head == "pretraining":
        return (
            out.prediction_logits,
            out.seq_relationship_logits if "seq_relationship_logits" in out else out.sop_logits,
        )
    if head == "span":
        return torch.stack([out.start_logits, out.end_logits], -1), None
    if head in ("pooler", "none"):
        return (out.pooler_output if head == "pooler" else out.last_hidden_state), None
    return (out.logits.T if head == "choice" else out.logits), None


# --- comparing --------------------------------------------------------------------------------------------------------


def compare(ours: Any, theirs: nn.Module, table: Table, given: Batch) -> Differences:
    """Everything of both models on one batch. Padding is left out: hidden states and logits of tokens at index -1."""
    head, real = ours.config.head, given.real
    mine, other = ours_of(ours, given), theirs_of(theirs, head, given, token_labels(ours, given))
    assert mine.hidden.keys() == other.hidden.keys()
    hidden = {name: _gap(mine.hidden[name][real], other.hidden[name][real]) for name in mine.hidden}
    kept = slice(None) if head in ROWS else real
    logits = _gap(mine.logits[kept], other.logits[kept])
    assert (mine.pair is None) == (other.pair is None)
    if mine.pair is not None and other.pair is not None:
        logits = max(logits, _gap(mine.pair, other.pair))
    their_gradients, problems = table.partial(_gradients(theirs, other.loss))
    assert not problems, problems
    our_gradients = _gradients(ours, mine.loss)
    assert our_gradients.keys() <= their_gradients.keys(), our_gradients.keys() - their_gradients.keys()
    gradients = {name: _gap(gradient, their_gradients[name]) for name, gradient in our_gradients.items()}
    return Differences(hidden, logits, _gap(mine.loss, other.loss), gradients)


def _gradients(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    named = dict(model.named_parameters())
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return {
        name: torch.zeros_like(named[name]) if gradient is None else gradient
        for name, gradient in zip(named, found, strict=True)
    }


def _gap(ours: Tensor, theirs: Tensor) -> float:
    ours, theirs = ours.detach(), theirs.detach()
    return float((ours - theirs).abs().max() / theirs.abs().max().clamp(min=FLOOR))


# --- folders ----------------------------------------------------------------------------------------------------------

AUTO = {
    "masked_token": "AutoModelForMaskedLM",
    "pretraining": "AutoModelForPreTraining",
    "pair": "AutoModelForNextSentencePrediction",
    "sequence": "AutoModelForSequenceClassification",
    "choice": "AutoModelForMultipleChoice",
    "token": "AutoModelForTokenClassification",
    "span": "AutoModelForQuestionAnswering",
    "pooler": "AutoModel",
    "none": "AutoModel",
}


def check_there_and_back(theirs: Any, folder: Path) -> None:
    """A folder of transformers, read and written by us: the same names, the same bits, and it opens without a word."""
    theirs.save_pretrained(folder / "theirs")
    ours = formers.load(folder / "theirs")
    formers.save(ours, folder / "ours")
    stored, written = (load_file(folder / side / "model.safetensors") for side in ("theirs", "ours"))
    assert stored.keys() == written.keys()
    assert all(torch.equal(stored[name], written[name]) for name in stored)
    auto = getattr(transformers, AUTO[ours.config.head])
    again, said = auto.from_pretrained(folder / "ours", output_loading_info=True)
    assert type(again) is type(theirs)
    assert not any(said.values()), said
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in theirs.state_dict().items())


def check_old_names(theirs: Any, folder: Path) -> None:
    """Norms of old files are called gamma and beta, and positions stand there as a buffer."""
    theirs.save_pretrained(folder)
    stored = load_file(folder / "model.safetensors")
    new_old = (("LayerNorm.weight", "LayerNorm.gamma"), ("LayerNorm.bias", "LayerNorm.beta"))
    old = {}
    for name, tensor in stored.items():
        for new, older in new_old:
            name = name.replace(new, older)
        old[name] = tensor
    assert old.keys() != stored.keys()
    old[f"{theirs.base_model_prefix}.embeddings.position_ids"] = torch.arange(71)[None]
    fresh = formers.load(folder).state_dict()
    save_file(old, folder / "model.safetensors", metadata={"format": "pt"})
    assert all(torch.equal(tensor, fresh[name]) for name, tensor in formers.load(folder).state_dict().items())
