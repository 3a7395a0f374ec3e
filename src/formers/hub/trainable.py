"""Our models as transformers sees its own: what `formers.hub.as_transformers` gives, for the Hugging Face `Trainer`.

Needs transformers, which is why nothing else of the package imports this module.

    labels in, loss out      by what the logits are: of the next token (shifted, as transformers does), of every token, of a
                             row, of where a span starts and ends, of a pair of sentences, of one choice of several
    attention_mask           1 for tokens, 0 for padding: padding takes no place, and tokens count from 0
    position_ids             which place each token has; where they begin anew, so does a document
    token_type_ids, decoder_input_ids, decoder_attention_mask    where the model reads them

Parameters are the model's own; nothing is copied. Checkpoints that Trainer writes are folders that both libraries open.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL
from transformers.utils.generic import ModelOutput

from formers.errors import ConfigError, TargetError
from formers.hub.folders import read_as
from formers.hub.saving import MAX_SHARD_SIZE, module_of, save_beside, settings_of
from formers.parts.positions import EMPTY, Positions
from formers.parts.sources import Source
from formers.parts.trunk import set_recompute
from formers.training.loss import IGNORE
from formers.training.optimizer import decays

TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
"""What a model of ours does not say, and Trainer may set by the tokenizer that it is given."""
PAIR_LABELS = ("next_sentence_label", "sentence_order_label")
SPAN_LABELS = ("start_positions", "end_positions")
NOT_DECAYED = re.compile(r"bias|layernorm|rmsnorm|(^|\.)norm($|\.)|_norm($|\.)")
"""Names of parameters that Trainer's weight decay leaves alone."""


@dataclass
class Answer(ModelOutput):
    """What a forward gives; what it has not is no key of it."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    start_logits: Tensor | None = None
    end_logits: Tensor | None = None
    pair_logits: Tensor | None = None


def wrap(model: nn.Module) -> Wrapped:
    """See `formers.hub.as_transformers`."""
    settings: dict[str, Any] = {**dict.fromkeys(TOKEN_IDS), **settings_of(model)}
    known = not str(settings["model_type"]).startswith("formers-")
    name = settings["architectures"][0]
    theirs = getattr(transformers, name, None) if known else None
    inputs = _inputs(model, theirs)
    kind = type(name, (Wrapped,), {"forward": _forward(inputs), "__module__": __name__, "__doc__": Wrapped.__doc__})
    kind.accepts_loss_kwargs = "labels" in inputs and not {*PAIR_LABELS, *SPAN_LABELS} & set(inputs)
    kind.inputs = inputs
    config = transformers.AutoConfig.for_model(**settings) if known else transformers.PretrainedConfig(**settings)
    return kind(model, config)


def _inputs(model: nn.Module, theirs: type | None) -> tuple[str, ...]:
    """What the wrapper's forward takes. Trainer reads this signature: it says which columns of the data are for the model,
    and which of them are labels."""
    accepted = getattr(model, "inputs", frozenset({"positions"}))
    found = ["input_ids"]
    found += ["attention_mask", "position_ids"] if "positions" in accepted else []
    found += ["token_type_ids"] if "token_types" in accepted else []
    if "source" in accepted:
        found = ["input_ids", "attention_mask", "decoder_input_ids", "decoder_attention_mask"]
    labels = ["labels", *PAIR_LABELS, *SPAN_LABELS]
    if theirs is None:
        return (*found, "labels")
    stated = inspect.signature(theirs.forward).parameters  # type: ignore[attr-defined]
    return (*found, *(name for name in labels if name in stated))


def _forward(inputs: Iterable[str]) -> Any:
    def forward(self: Wrapped, input_ids: Tensor, **given: Any) -> Answer:
        return self.answer(input_ids, {name: value for name, value in given.items() if value is not None})

    place = inspect.Parameter.POSITIONAL_OR_KEYWORD
    named = [inspect.Parameter(name, place, default=None) for name in inputs]
    forward.__signature__ = inspect.Signature([inspect.Parameter("self", place), *named])  # type: ignore[attr-defined]
    return forward


class Wrapped(transformers.PreTrainedModel):
    """A model of formers with the manners of transformers; `model` is the model itself."""

    supports_gradient_checkpointing = True
    inputs: tuple[str, ...] = ()
    accepts_loss_kwargs: bool = True

    def __init__(self, model: nn.Module, config: Any) -> None:
        super().__init__(config)
        self.model: Any = model
        self.shifts = getattr(model, "causal", True) and not self.reads_source
        if self.shifts and not self._is_known:
            self.loss_type = "ForCausalLM"  # Trainer then counts the labels that are shifted
        self._undecayed = _undecayed(model)
        self.all_tied_weights_keys: dict[str, str] = {}

    @property
    def reads_source(self) -> bool:
        return "decoder_input_ids" in self.inputs

    @property
    def _is_known(self) -> bool:
        """Whether Trainer knows by the name of the class that labels are of the next token."""
        return type(self).__name__ in CAUSAL.values()

    # --- forward ------------------------------------------------------------------------------------------------------

    def answer(self, input_ids: Tensor, given: dict[str, Any]) -> Answer:
        """Logits, and the loss where there are labels."""
        count = given.pop("num_items_in_batch", None)
        unknown = sorted(given.keys() - set(self.inputs))
        if unknown:
            raise ConfigError(f"{type(self).__name__} was given {', '.join(unknown)}", f"only {', '.join(self.inputs)}")
        out = self._seq2seq(input_ids, given) if self.reads_source else self._plain(input_ids, given)
        if SPAN_LABELS[0] in self.inputs:
            starts, ends = out.logits.unbind(-1)
            return Answer(_span_loss(starts, ends, given), start_logits=starts, end_logits=ends)
        losses = []
        if "labels" in given:
            losses.append(self._loss(out.logits, given["labels"], count))
        losses += [_cross_entropy(out.pair, given[name], None) for name in PAIR_LABELS if name in given]
        if self.training and self.shifts and not losses and not self._is_known:
            raise ConfigError(
                "no labels in training", "labels", "leave label_smoothing_factor at 0, which takes them away"
            )
        return Answer(torch.stack(losses).sum() if losses else None, out.logits, pair_logits=out.pair)

    def _plain(self, input_ids: Tensor, given: Mapping[str, Any]) -> Any:
        if input_ids.ndim == 3:  # [batch, choices, seq]: each choice is a row, and what is said of it a logit
            rows = {name: value.flatten(0, 1) if value.ndim == 3 else value for name, value in given.items()}
            out = self._plain(input_ids.flatten(0, 1), rows)
            return dataclasses.replace(out, logits=out.logits.view(input_ids.shape[:2]))
        positions = positions_of(given.get("attention_mask"), given.get("position_ids"))
        inputs = {"positions": positions, "token_types": given.get("token_type_ids")}
        return self.model(input_ids, **{name: value for name, value in inputs.items() if value is not None})

    def _seq2seq(self, input_ids: Tensor, given: Mapping[str, Any]) -> Any:
        source = Source(input_ids, positions_of(given.get("attention_mask")))
        ids, positions = given.get("decoder_input_ids"), positions_of(given.get("decoder_attention_mask"))
        if (
            ids is None and getattr(self.model.config, "head", None) is not None
        ):  # a head that labels what it reads, read twice
            ids, positions = self._shifted(input_ids), source.positions
        if ids is None:
            if "labels" not in given:
                raise ConfigError(
                    "an encoder-decoder was given a source alone", "labels or decoder_input_ids beside it"
                )
            ids = self.prepare_decoder_input_ids_from_labels(given["labels"])
        return self.model(ids, source=source, **({} if positions is None else {"positions": positions}))

    def prepare_decoder_input_ids_from_labels(self, labels: Tensor) -> Tensor:
        """What the decoder reads to say `labels`: the start token, then all but their last."""
        return self._shifted(labels.masked_fill(labels == IGNORE, self.config.pad_token_id or 0))

    def _shifted(self, ids: Tensor) -> Tensor:
        return torch.cat([torch.full_like(ids[:, :1], self.model.config.start_token), ids[:, :-1]], 1)

    def _loss(self, logits: Tensor, labels: Tensor, count: Any) -> Tensor:
        if logits.ndim == 2:
            return self._row_loss(logits, labels, count)
        if self.shifts:
            labels = F.pad(labels[:, 1:], (0, 1), value=IGNORE)
        return _cross_entropy(logits, labels, count)

    def _row_loss(self, logits: Tensor, labels: Tensor, count: Any) -> Tensor:
        """Of labels of a row, as transformers tells them apart: a number, one of several, or any of several."""
        kind = self.config.problem_type
        if kind is None:
            whole = not labels.is_floating_point()
            kind = "regression" if logits.shape[-1] == 1 else "single_label" if whole else "multi_label"
        if kind.startswith("single_label"):
            return _cross_entropy(logits, labels, count)
        loss = F.mse_loss if kind == "regression" else F.binary_cross_entropy_with_logits
        each = loss(logits, labels.view_as(logits).to(logits.dtype), reduction="none")
        return each.mean() if count is None else each.sum() / count

    # --- what Trainer asks for ----------------------------------------------------------------------------------------

    def named_parameters(self, *args: Any, **given: Any) -> Iterator[tuple[str, nn.Parameter]]:
        """Trainer decays what stands here under its place among the modules, and knows norms and biases by transformers'
        names and classes; what would not decay there stands here under another name."""
        for name, parameter in super().named_parameters(*args, **given):
            yield f"{name}{'.undecayed' * (name.removeprefix('model.') in self._undecayed)}", parameter

    def save_pretrained(  # type: ignore[override]
        self,
        save_directory: str | Path,
        is_main_process: bool = True,
        state_dict: Mapping[str, Tensor] | None = None,
        max_shard_size: int | str = MAX_SHARD_SIZE,
    ) -> None:
        """A folder that ``formers.load`` and transformers open. Other files in it stay."""
        if not is_main_process:
            return
        state = None if state_dict is None else {n.removeprefix("model."): t for n, t in state_dict.items()}
        ids = {name: getattr(self.config, name, None) for name in TOKEN_IDS}
        said = {name: value for name, value in ids.items() if value is not None}
        save_beside(self.model, save_directory, state=state, settings=said, max_shard_size=max_shard_size)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Our tensors by their names here, or those of a folder that `save_pretrained` wrote, as Trainer resumes from one."""
        if self.state_dict().keys() & state_dict.keys():
            return super().load_state_dict(state_dict, strict, assign)
        read = read_as(self.model, module_of(self.model), state_dict, "the checkpoint")
        return self.model.load_state_dict(read, True, assign)

    def activation_checkpointing_enable(
        self, activation_checkpointing_kwargs: Any = None, every_n_layers: int = 1, offload: bool = False
    ) -> None:
        """Recompute each block in the backward pass."""
        if every_n_layers != 1 or offload:
            raise ConfigError(f"every_n_layers={every_n_layers}, offload={offload}", "every layer, without offload")
        set_recompute(self.model, True)

    def activation_checkpointing_disable(self) -> None:
        set_recompute(self.model, False)

    def get_input_embeddings(self) -> nn.Module:
        return self.model.tokens if hasattr(self.model, "tokens") else self.model.embedding.tokens

    def generate(self, *_: Any, **__: Any) -> Any:
        raise TargetError(
            f"{type(self).__name__} is a wrapper for training", do="formers.generate(wrapper.model, ids, ..)"
        )


def positions_of(mask: Tensor | None, places: Tensor | None = None) -> Positions | None:
    """Positions of what transformers says by attention_mask [batch, seq] and position_ids [1 or batch, seq]; None: 0, 1, .."""
    if mask is not None and mask.ndim != 2:
        raise ConfigError(
            f"an attention_mask of shape {list(mask.shape)}", "[batch, seq], 1 for tokens and 0 for padding"
        )
    if mask is not None and bool(mask.all()):
        mask = None
    if places is None:
        return None if mask is None else Positions.from_attention_mask(mask)
    if mask is not None:
        return Positions(torch.where(mask.bool(), places, EMPTY))
    begins = F.pad(places[:, 1:] <= places[:, :-1], (1, 0))
    return Positions(places, document=begins.long().cumsum(-1))


# --- losses -------------------------------------------------------------------------------------------------------------


def _cross_entropy(logits: Tensor, labels: Tensor, count: Any) -> Tensor:
    """The mean over labels that are not -100, or their sum over `count`: what Trainer counts in all of a step's batches."""
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32)).flatten(0, -2)
    if count is None:
        return F.cross_entropy(wide, labels.flatten(), ignore_index=IGNORE)
    return F.cross_entropy(wide, labels.flatten(), ignore_index=IGNORE, reduction="sum") / count


def _span_loss(starts: Tensor, ends: Tensor, given: Mapping[str, Any]) -> Tensor | None:
    """Half of each end's; an answer beyond the row is passed over."""
    if not all(name in given for name in SPAN_LABELS):
        return None
    places = [given[name].flatten().clamp(0, starts.shape[1]) for name in SPAN_LABELS]
    wanted = [place.masked_fill(place == starts.shape[1], IGNORE) for place in places]
    return (_cross_entropy(starts, wanted[0], None) + _cross_entropy(ends, wanted[1], None)) / 2


def _undecayed(model: nn.Module) -> frozenset[str]:
    """Names of parameters that Trainer would not decay in transformers' own model."""
    module = module_of(model)
    theirs = {}
    if module is not None and getattr(module, "FOREIGN", None) is not None:
        theirs = {our: rule.theirs for rule in module.weights(model.config).rules for our in rule.ours}  # type: ignore[arg-type]
    return frozenset(
        name
        for name, parameter in model.named_parameters()
        if not decays(name, parameter) or all(NOT_DECAYED.search(n.lower()) for n in theirs.get(name, (name,)))
    )
