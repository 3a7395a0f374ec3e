"""A beginning that many prompts share is read once.

    cache = PromptCache(model, max_length=512)
    generate(model, first, cache=cache)
    generate(model, second, cache=cache)      # reads only what differs from the first

Many continuations of one prompt read it once, too: the rows of a batch share what they have in common.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import nn

from formers.errors import ConfigError, StateError
from formers.generation.readers import device_of, evaluating, keeps_state, takes_source
from formers.parts.model import Model
from formers.parts.states import State


class PromptCache:
    """The state of one text, cut back and read on as prompts ask.

    max_length   room for prompt and continuation together
    read         tokens that were read through the cache so far; what prompts had beyond that was saved

    Weights that an optimizer or load_state_dict changed are noticed, and what was read is forgotten. (Changes through
    ``parameter.data`` go unnoticed, as they do by autograd.)
    """

    def __init__(self, model: nn.Module, max_length: int) -> None:
        if not isinstance(model, Model) or not keeps_state(model):
            raise ConfigError(f"{type(model).__name__} keeps no state", "a model with one", "generate without a cache")
        if takes_source(model):
            raise ConfigError(
                f"{type(model).__name__} reads its prompts as sources, each from both sides",
                "a decoder alone, for which the beginning of a prompt means the same whatever follows",
                "generate without a cache",
            )
        self.model, self.max_length, self.read = model, max_length, 0
        self._forget()

    def check(self, model: nn.Module, room: int) -> None:
        """Raise ConfigError where the cache cannot serve a generation."""
        if model is not self.model:
            raise ConfigError("a cache of another model", "a PromptCache of the model that generates")
        if room > self.max_length:
            raise ConfigError(
                f"a cache for {self.max_length} tokens, with prompt and continuation of {room}", "room for all"
            )

    def shared(self, rows: Sequence[tuple[int, ...]]) -> tuple[int, State]:
        """How many ids all rows begin with, and the state [rows] after them. At least one id a row is left to read."""
        beginning = common(rows)[: min(map(len, rows)) - 1]
        with torch.inference_mode(), evaluating(self.model.modules()):
            self._read(beginning)
            return len(beginning), self._state.fork(len(rows))

    def _read(self, ids: tuple[int, ...]) -> None:
        if self._weights != _versions(self.model):
            self._forget()
        self._cut(len(common([ids, self._ids])))
        rest = ids[len(self._ids) :]
        if rest:
            _, staged = self.model.body(torch.tensor([rest], device=device_of(self.model)), None, self._state)
            assert staged is not None
            self._state = staged.commit()
            self._ids, self.read = ids, self.read + len(rest)

    def _cut(self, length: int) -> None:
        """Keep the first `length` ids; nothing, where the model's state cannot be cut."""
        if length < len(self._ids):
            try:
                self._state, self._ids = self._state.keep(length), self._ids[:length]
            except StateError:  # a window that has moved on, or a memory that mixes what it read
                self._forget()

    def _forget(self) -> None:
        self._ids: tuple[int, ...] = ()
        self._weights = _versions(self.model)
        self._state: State = self.model.init_state(1, self.max_length)


def _versions(model: nn.Module) -> list[tuple[int, int]]:
    return [(p.data_ptr(), 0 if p.is_inference() else p._version) for p in model.parameters()]


def common(rows: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """The longest beginning of all rows."""
    first, last = min(rows), max(rows)  # in alphabetical order: what these two share all share
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))
    return tuple(a for a, _ in same)
