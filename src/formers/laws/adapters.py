"""How to call a model: ours (positions, staged states), transformers' (masks, position ids, caches), or any module.

Models are told apart by what they offer: `inputs`, a `config.model_type` with an `attention_mask`, or neither. Nothing
here imports transformers.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from formers.errors import TargetError
from formers.laws.subject import Answer, ModelRaised, Subject, mode, seeded
from formers.parts.positions import Positions
from formers.parts.reversible import Reversible, set_rebuild
from formers.parts.trunk import Trunk, set_recompute

LENGTH_NAMES = ("max_length", "n_positions", "max_position_embeddings", "block_size", "context_length", "max_seq_len")
"""Where a config may say how long a text may be."""


def adapt(
    model: nn.Module,
    *,
    vocab_size: int | None = None,
    fresh: bool = False,
    tokenizer: Any = None,
    length: int | None = None,
) -> Subject:
    """The subject that knows how to call `model`. Raises TargetError where nothing here does."""
    if not isinstance(model, nn.Module):
        raise TargetError(f"a {type(model).__name__} was given to certify", "a torch.nn.Module")
    model = getattr(model, "_orig_mod", model)  # what torch.compile wraps
    config = getattr(model, "config", None)
    lengths = [getattr(config, name, None) for name in LENGTH_NAMES]
    max_length = next((n for n in lengths if isinstance(n, int)), None)
    vocab_size = vocab_size or getattr(config, "vocab_size", None)
    subject = _kind(model)(model, model, vocab_size or 0, max_length, fresh, tokenizer)
    width = _probe(subject, min(3, max_length or 3, length or 3))
    return subject if vocab_size else replace(subject, vocab_size=width)


def _kind(model: nn.Module) -> type[Subject]:
    inputs: Any = getattr(model, "inputs", None)
    if isinstance(inputs, frozenset | set) and "input_ids" not in inputs:
        return FromSource if "source" in inputs else OurModel
    if hasattr(getattr(model, "config", None), "model_type") and "attention_mask" in _parameters(model):
        return TransformersModel
    return AnyModule


def _probe(subject: Subject, length: int) -> int:
    """Call the model once; the width of its logits."""
    ids = torch.zeros(2, length, dtype=torch.long, device=subject.device)
    with torch.no_grad(), mode(subject.model, False):
        logits = subject(ids).logits
    if logits.ndim != 3 or logits.shape[:2] != ids.shape or not logits.is_floating_point():
        given = f"{logits.dtype} {tuple(logits.shape)}"
        raise TargetError(
            f"{type(subject.model).__name__} gave {given} for input ids {tuple(ids.shape)}",
            "floating logits [batch, seq, vocab]",
        )
    return logits.shape[-1]


def _parameters(model: nn.Module) -> Any:
    return inspect.signature(model.forward).parameters


def logits_of(output: Any) -> Tensor:
    """The logits in what a forward returned: a tensor, or something with `.logits`."""
    found = output if isinstance(output, Tensor) else getattr(output, "logits", None)
    if not isinstance(found, Tensor):
        raise TargetError(
            f"a forward returned {type(output).__name__}", "a tensor of logits, or something with .logits"
        )
    return found


# --- any module ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AnyModule(Subject):
    """A module of which only ``forward(input_ids) -> logits`` is known."""

    def forward(self, input_ids: Tensor, positions: Positions | None, state: Any) -> Answer:
        assert positions is None, "a law asked for what the model lacks"
        assert state is None, "a law asked for what the model lacks"
        return Answer(logits_of(self.model(input_ids)))

    def capabilities(self) -> dict[str, str | None]:
        alone = "its forward takes input_ids alone"
        return {
            "positions": f"no padding: {alone}",
            "documents": f"no documents: {alone}",
            "state": f"no state: {alone}",
            "staged state": f"no state: {alone}",
            "fresh weights": None if self.is_fresh else "trained weights, and nothing tells how to draw them anew",
            "recomputation": None if _has_trunk(self.model) else "it has no trunk that recomputes",
        }

    def set_recompute(self, on: bool) -> None:
        set_recompute(self.model, on)

    def set_rebuild(self, on: bool) -> None:
        set_rebuild(self.model, on)

    @property
    def rebuilds(self) -> bool:
        return any(isinstance(module, Reversible) for module in self.model.modules())


def _has_trunk(model: nn.Module) -> bool:
    return any(isinstance(module, Trunk) for module in model.modules())


# --- ours ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class OurModel(AnyModule):
    """A model of this library's contract: `inputs` says what it accepts, states are staged and committed."""

    def forward(self, input_ids: Tensor, positions: Positions | None, state: Any, source: Any = None) -> Answer:
        given = {"positions": positions, "state": state, "source": source}
        output = self.model(input_ids, **{name: value for name, value in given.items() if value is not None})
        return Answer(_by_token(output, input_ids), getattr(output, "state", None))

    def init_state(self, batch_size: int, max_length: int) -> Any:
        return self.model.init_state(batch_size, max_length)  # type: ignore[operator]

    def commit(self, state: Any) -> Any:
        return state.commit()

    def capabilities(self) -> dict[str, str | None]:
        takes: Any = self.model.inputs
        name = type(self.model).__name__
        positions = None if "positions" in takes else f"{name} takes no positions"
        state = None if "state" in takes else f"{name} keeps no state"
        fresh = (
            None if self.is_fresh or _constructor(self.original) else f"{name}(config, seed=...) builds no new model"
        )
        return super().capabilities() | {
            "positions": positions,
            "documents": positions,
            "state": state,
            "staged state": state,
            "fresh weights": fresh,
        }

    def rebuild(self, seed: int) -> nn.Module | None:
        if not _constructor(self.original):
            return None
        built = type(self.original)(self.original.config, seed=seed)
        return built.to(self.device)


SOURCE_LENGTH = 7


class FromSource(OurModel):
    """An encoder-decoder: the laws are of its decoder, every row of which writes from the same few random ids."""

    def forward(self, input_ids: Tensor, positions: Positions | None, state: Any, source: Any = None) -> Answer:
        return super().forward(input_ids, positions, state, self._source(input_ids.shape[0]) if state is None else None)

    def init_state(self, batch_size: int, max_length: int) -> Any:
        with seeded(0, self.device):  # in training mode the encoder drops
            return self.model.init_state(batch_size, max_length, source=self._source(batch_size))  # type: ignore[operator]

    def _source(self, batch_size: int) -> Tensor:
        ids = torch.randint(0, self.vocab_size, (1, SOURCE_LENGTH), generator=torch.Generator().manual_seed(0))
        return ids.to(self.device).expand(batch_size, -1)


def _by_token(output: Any, input_ids: Tensor) -> Tensor:
    """All that an output says, as logits [batch, seq, ..]: what it says of a row stands beside each of its tokens."""
    logits, pair, (rows, length) = logits_of(output), getattr(output, "pair", None), input_ids.shape
    if logits.ndim == 2 and len(logits) == rows:
        logits = logits[:, None].expand(rows, length, -1)
    return logits if pair is None else torch.cat([logits, pair[:, None].expand(rows, length, -1)], -1)


def _constructor(model: nn.Module) -> bool:
    """``type(model)(config, seed=...)`` builds a new one."""
    parameters = list(inspect.signature(type(model)).parameters)
    return hasattr(model, "config") and parameters[:1] == ["config"] and parameters[1:] == ["seed"]


# --- transformers' ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cached:
    """transformers' cache and which of the tokens in it are real, Bool [batch, seq]. The forward itself advances it."""

    cache: Any
    keep: Tensor


@dataclass(frozen=True)
class TransformersModel(Subject):
    """A model that is called as those of transformers are: attention_mask, position_ids, past_key_values."""

    def forward(self, input_ids: Tensor, positions: Positions | None, state: Cached | None) -> Answer:
        if positions is None and state is None:
            return Answer(logits_of(self.model(input_ids=input_ids, **self._known(use_cache=False))))
        keep = torch.ones_like(input_ids, dtype=torch.bool) if positions is None else positions.present
        keep = keep.expand(input_ids.shape[0], -1)
        before = keep[:, :0] if state is None else state.keep
        index = before.sum(-1, keepdim=True) + keep.long().cumsum(-1) - 1
        index = index if positions is None else positions.index.expand(input_ids.shape[0], -1)
        seen = torch.cat([before, keep], -1)
        given = {"attention_mask": seen.long(), "use_cache": state is not None, "position_ids": index.clamp(min=0)}
        if state is not None:
            given["past_key_values"] = state.cache
        output = self.model(input_ids=input_ids, **self._known(**given))
        cache = getattr(output, "past_key_values", None)
        return Answer(logits_of(output), None if state is None else Cached(cache, seen))

    def init_state(self, batch_size: int, max_length: int) -> Cached:
        return Cached(None, torch.zeros(batch_size, 0, dtype=torch.bool, device=self.device))

    def commit(self, state: Cached) -> Cached:
        return state

    def lacks(self, need: str) -> str | None:
        generates = getattr(self.model, "can_generate", None)
        if need == "causal" and generates is not None and not generates():
            return "it cannot generate, so transformers takes it for bidirectional"
        return super().lacks(need)

    def capabilities(self) -> dict[str, str | None]:
        known = _parameters(self.model)
        recompute = getattr(self.model, "supports_gradient_checkpointing", False)
        return {
            "positions": None,
            "documents": "transformers has no argument that says which document a token is of",
            "state": None if "past_key_values" in known else "its forward takes no past_key_values",
            "staged state": "its cache is advanced by the forward itself",
            "fresh weights": None,
            "recomputation": None if recompute else "it has no gradient checkpointing",
        }

    def set_recompute(self, on: bool) -> None:
        model: Any = self.model
        if not hasattr(model, "activation_checkpointing_enable"):  # the older name of the same
            return model.gradient_checkpointing_enable() if on else model.gradient_checkpointing_disable()
        return model.activation_checkpointing_enable() if on else model.activation_checkpointing_disable()

    def rebuild(self, seed: int) -> nn.Module | None:
        built = type(self.original)(copy.deepcopy(self.original.config))  # type: ignore[arg-type]
        return built.to(self.device)

    def _known(self, **given: Any) -> dict[str, Any]:
        """Those that the forward names; the rest it would not understand."""
        known = _parameters(self.model).keys()
        return {name: value for name, value in given.items() if name in known}


@contextlib.contextmanager
def recomputing(subject: Subject) -> Iterator[None]:
    """Activations are recomputed in the backward pass."""
    subject.set_recompute(True)
    try:
        yield
    finally:
        subject.set_recompute(False)


@contextlib.contextmanager
def keeping(subject: Subject) -> Iterator[None]:
    """Activations are kept for the backward pass, those of reversible trunks too."""
    subject.set_rebuild(False)
    try:
        yield
    finally:
        subject.set_rebuild(True)


__all__ = [
    "AnyModule",
    "Cached",
    "FromSource",
    "ModelRaised",
    "OurModel",
    "TransformersModel",
    "adapt",
    "keeping",
    "logits_of",
    "recomputing",
]
