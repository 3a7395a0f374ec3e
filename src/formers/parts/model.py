"""What every model is: body, head, and a forward that checks its inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from formers.axes import Hidden, Ids
from formers.errors import ConfigError, StateError
from formers.parts.embeddings import check_ids
from formers.parts.positions import Positions
from formers.parts.states import StagedState, State, Tree


@dataclass
class Output:
    """What a forward gives.

    logits  [batch, seq, vocab]; of heads that label: [batch, seq, labels], of those that read a row as one [batch, labels]
    state   what was staged, None where no state was given
    pair    [batch, 2] beside the logits of the tokens, of heads that pretrain on pairs of sentences
    """

    logits: Tensor
    state: StagedState | None = None
    pair: Tensor | None = None


PER_TOKEN = {"token_types": "a type for every token", "is_global": "true or false for every token"}
"""Inputs that have the shape of the ids, and what is wanted of them."""


class Model(nn.Module):
    """Base of all models. A subclass has `config`, `head`, and `run(input_ids, positions, state tree) -> hidden, staged`."""

    inputs: ClassVar[frozenset[str]] = frozenset({"positions", "state"})
    config: Any
    head: nn.Module
    trunk: nn.Module
    run: Callable[..., tuple[Hidden, Tree | None]]
    """(input_ids, positions, state tree, **the model's own inputs) -> hidden, staged tree."""

    def forward(
        self,
        input_ids: Ids,
        *,
        positions: Positions | None = None,
        state: State | StagedState | None = None,
        source: Any = None,
        token_types: Tensor | None = None,
        is_global: Tensor | None = None,
    ) -> Output:
        """Logits for the token after each of `input_ids` (or at each, in models that fill gaps).

        positions  default: 0, 1, .. for every row; with a state, each row goes on where it is
        state      what was read before, committed; it is not changed: commit `Output.state` to advance
        Raises ConfigError for an input the model does not accept and for ids that its vocabulary lacks, StateError for a
        state that does not fit.
        """
        given = {"source": source, "token_types": token_types, "is_global": is_global}
        given = {name: value for name, value in given.items() if value is not None}
        hidden, staged = self.body(input_ids, positions, state, **given)
        return self.answer(hidden, positions, staged)

    @property
    def hidden_width(self) -> int:
        """Of what the body gives the head."""
        return self.config.d_model

    def answer(self, hidden: Hidden, positions: Positions | None, staged: StagedState | None) -> Output:
        """What the head makes of `hidden`. Encoders tell a head that reads one token of a row where its tokens stand."""
        return Output(self.head(hidden), staged)

    def body(
        self, input_ids: Ids, positions: Positions | None = None, state: State | StagedState | None = None, **given: Any
    ) -> tuple[Hidden, StagedState | None]:
        """Everything before the head: hidden [batch, seq, d_model], and the staged state."""
        self._check(input_ids, positions, state, given)
        assert not isinstance(state, StagedState)
        if positions is None:
            length, device = input_ids.shape[1], input_ids.device
            positions = Positions.whole(length, device=device) if state is None else state.continue_from(length)
        if state is not None and not input_ids.shape[1]:  # nothing is read: no block is asked, and every node stays
            hidden = next(self.parameters()).new_zeros(len(input_ids), 0, self.hidden_width)
            return hidden, StagedState(state, tuple(tuple(None for _ in block) for block in state.nodes), positions)
        hidden, staged = self.run(input_ids, positions, None if state is None else state.nodes, **given)
        return hidden, None if state is None else StagedState(state, staged or (), positions)

    def init_state(
        self,
        batch_size: int,
        max_length: int,
        *,
        source: Any = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> State:
        """An empty state with room for `max_length` tokens a row. dtype and device default to the weights'.

        source  what an encoder-decoder writes from: it is read here, once. Raises ConfigError in other models.
        """
        if "state" not in self.inputs:
            raise StateError(f"{type(self).__name__} keeps no state", do="call it on the whole text")
        if dtype is not None and not dtype.is_floating_point:
            do = 'of a memory, its setting memory_storage="int8" says so' if dtype == torch.int8 else ""
            raise ConfigError(f"a state of {dtype}", "a floating-point type", do)
        weight = next(self.parameters())
        kind = {"dtype": dtype or weight.dtype, "device": device or weight.device}
        nodes = self.first_nodes(batch_size, max_length, source, **kind)
        return State(nodes, torch.zeros(batch_size, dtype=torch.long, device=kind["device"]))

    def first_nodes(self, batch_size: int, max_length: int, source: Any, **kind: Any) -> Tree:
        """The tree of an empty state."""
        if source is not None:
            raise ConfigError(f"{type(self).__name__}.init_state was given a source", "an encoder-decoder")
        return self.trunk.init_state(batch_size, max_length, **kind)  # type: ignore[operator]

    def _check(
        self, input_ids: Ids, positions: Positions | None, state: State | StagedState | None, given: dict[str, Any]
    ) -> None:
        named = given | {k: v for k, v in {"positions": positions, "state": state}.items() if v is not None}
        extra = sorted(named.keys() - self.inputs)
        if extra:
            raise ConfigError(
                f"{type(self).__name__} was given {', '.join(extra)}", "only " + ", ".join(sorted(self.inputs))
            )
        check_ids(input_ids, getattr(self.config, "vocab_size", None))
        if isinstance(state, StagedState):
            raise StateError(
                "a staged state was given to a forward",
                "a committed one",
                "state = out.state.commit(); out = model(input_ids, state=state)",
            )
        if state is not None:
            state.check(input_ids.shape[0])
        for name, wanted in PER_TOKEN.items():
            if name in given and given[name].shape != input_ids.shape:
                shapes = list(given[name].shape), list(input_ids.shape)
                raise ConfigError(f"{name} of shape {shapes[0]} for input_ids {shapes[1]}", wanted)
        if positions is not None and positions.length != input_ids.shape[1]:
            raise ConfigError(f"positions of {positions.length} tokens for {input_ids.shape[1]} input ids", "as many")
