"""Positions travel with the tokens: where each token stands, in which document, and whether it is there at all.

Masks, relative biases, rotary angles and position tables all read :class:`Positions`; nothing reads the shape of a
tensor to guess a position. That is why cached, padded, packed and streamed calls give the same numbers.
"""

from __future__ import annotations

import enum
import functools
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Int
from torch import Tensor

EMPTY = -1
"""The index of padding and of an empty slot: nothing sees it, it takes no slot and changes nothing."""


class Layout(enum.Enum):
    """What is known of `index` without looking at the tensor (so that a compiler or a kernel may rely on it)."""

    WHOLE = "whole"  # every row is 0, 1, .., T-1 of one document: the only layout that may use a causal kernel
    OFFSET = "offset"  # every row is s, s+1, .. of one document, with one s, known, for all rows
    RAGGED = "ragged"  # anything: padding, packed documents, rows at different places


@dataclass(frozen=True)
class Place:
    """Positions shaped to broadcast against each other: [batch, 1, queries, 1] for queries, [batch, 1, 1, keys] for
    keys. Mask functions read nothing else, so they also run on the scalars that FlexAttention hands out."""

    index: Tensor
    document: Tensor | None
    is_global: Tensor | None

    @classmethod
    def of(cls, positions: Positions, shape: Callable[[Tensor], Tensor]) -> Place:
        """The place of every token, each tensor [batch, seq] shaped by `shape`."""
        document, is_global = positions.document, positions.is_global
        return cls(
            shape(positions.index),
            None if document is None else shape(document),
            None if is_global is None else shape(is_global),
        )


@dataclass(frozen=True)
class Positions:
    """Where tokens stand.

    index      Int  [1 or batch, seq]  place in the document, restarting at 0 with each; -1 is padding or an empty slot
    document   Int  [1 or batch, seq]  distinct in a row for distinct documents; None: one document a row
    place      Int  [1 or batch, seq]  what tables and rotary read; None: `index` (models in segments restart it)
    is_global  Bool [1 or batch, seq]  tokens that all see and that see all (Longformer); None: none
    start      the promise that every row is start, start+1, .. of one document; None: nothing is promised
    aligned    the promise that every row goes on one by one from a multiple of this, with padding behind at most; None: not
    behind     of keys, the promise that the first stands so many before the first query and the others follow one by one,
               where they are there and of the query's document; None: not
    """

    index: Int[Tensor, "#batch seq"]
    document: Int[Tensor, "#batch seq"] | None = None
    place: Int[Tensor, "#batch seq"] | None = None
    is_global: Bool[Tensor, "#batch seq"] | None = None
    start: int | None = None
    aligned: int | None = None
    behind: int | None = None

    @classmethod
    def whole(cls, length: int, *, device: torch.device | str | None = None) -> Positions:
        """0, 1, .., length-1 for every row."""
        return cls.offset(0, length, device=device)

    @classmethod
    def offset(cls, start: int, length: int, *, device: torch.device | str | None = None) -> Positions:
        """start, start+1, .. for every row."""
        return cls(torch.arange(start, start + length, device=device)[None], start=start)

    @classmethod
    def going_on(cls, next_index: Int[Tensor, " batch"], length: int) -> Positions:
        """Each row continues at its own next index."""
        return cls(next_index[:, None] + torch.arange(length, device=next_index.device)[None])

    @classmethod
    def from_attention_mask(cls, keep: Tensor) -> Positions:
        """[batch, seq], 1 or True for tokens, 0 for padding on either side: tokens count from 0, padding is -1."""
        keep = keep.bool()
        return cls(torch.where(keep, keep.long().cumsum(-1) - 1, EMPTY))

    @property
    def layout(self) -> Layout:
        if self.start is None:
            return Layout.RAGGED
        return Layout.WHOLE if self.start == 0 else Layout.OFFSET

    @property
    def length(self) -> int:
        return self.index.shape[-1]

    @property
    def table_index(self) -> Int[Tensor, "#batch seq"]:
        """What tables and rotary read: `place`, or `index`, with padding clamped to 0."""
        return (self.index if self.place is None else self.place).clamp(min=0)

    @property
    def present(self) -> Bool[Tensor, "#batch seq"]:
        return self.index >= 0

    @functools.cached_property
    def from_the_start(self) -> Positions:
        """0, 1, .. up to the last of these tokens, where `start` is known: what a cache and these tokens hold together."""
        assert self.start is not None
        return Positions.offset(0, self.start + self.length, device=self.index.device)

    @property
    def in_runs(self) -> bool:
        """Whether the indices of any two tokens of one document differ as their places in the row do, with padding anywhere.

        Then runners may go by places in the row. Tensors are looked at, once, where nothing is promised; not while compiling.
        """
        if self.start is not None or self.aligned is not None:
            return True
        return not torch.compiler.is_compiling() and self._looks_in_runs

    @functools.cached_property
    def _looks_in_runs(self) -> bool:
        shift, present = self.index - torch.arange(self.length, device=self.index.device), self.present
        if self.document is None:
            least = shift.masked_fill(~present, torch.iinfo(torch.long).max).amin(-1)
            return bool((shift.masked_fill(~present, torch.iinfo(torch.long).min).amax(-1) <= least).all())
        document, order = self.document.expand_as(shift).sort(dim=-1, stable=True)
        shift, present, document = (t.flatten() for t in (shift.gather(-1, order), present.gather(-1, order), document))
        row = torch.arange(len(order), device=order.device).repeat_interleave(self.length)
        shift, document, row = shift[present], document[present], row[present]
        together = (document[1:] == document[:-1]) & (row[1:] == row[:-1])
        return not bool((together & (shift[1:] != shift[:-1])).any())

    @property
    def anchored(self) -> bool:
        """Whether every token's index is its place in the row. Tensors are looked at, once; not while compiling."""
        if self.start is not None or torch.compiler.is_compiling():
            return self.start == 0
        return self._looks_anchored

    @functools.cached_property
    def _looks_anchored(self) -> bool:
        return bool(((self.index == torch.arange(self.length, device=self.index.device)) | ~self.present).all())

    @property
    def global_slots(self) -> Int[Tensor, "#batch globals"]:
        """Where the global tokens of each row stand, in order; -1 behind them in rows that have fewer than another."""
        return self.index[:, :0] if self.is_global is None else self._looks_global

    @functools.cached_property
    def _looks_global(self) -> Tensor:
        assert self.is_global is not None
        chosen = self.is_global & self.present
        order = chosen.int().argsort(dim=-1, descending=True, stable=True)[:, : int(chosen.sum(-1).max())]
        return torch.where(chosen.expand(order.shape[0], -1).gather(-1, order), order, EMPTY)

    def at(self, slots: Int[Tensor, "#batch chosen"]) -> Positions:
        """The tokens that stand in these places of each row; a place of -1 is padding."""
        rows = max(len(slots), len(self.index))

        def pick(t: Tensor) -> Tensor:
            return t.expand(rows, -1).gather(-1, slots.clamp(min=0).expand(rows, -1))

        chosen = self.map(pick)
        return replace(chosen, index=chosen.index.masked_fill(slots < 0, EMPTY))

    def as_queries(self) -> Place:
        return Place.of(self, lambda t: t[:, None, :, None])

    def as_keys(self) -> Place:
        return Place.of(self, lambda t: t[:, None, None, :])

    def map(self, function: Callable[[Tensor], Tensor], start: int | None = None) -> Positions:
        """`function` applied to every tensor; `start` is what is still promised afterwards."""
        fields = (self.index, self.document, self.place, self.is_global)
        return Positions(*(None if t is None else function(t) for t in fields), start=start)  # type: ignore[arg-type]

    def slice(self, start: int, stop: int) -> Positions:
        """Tokens start..stop-1."""
        return self.map(lambda t: t[:, start:stop], None if self.start is None else self.start + start)

    def rows(self, batch_size: int) -> Positions:
        """The same positions with the batch axis written out."""
        return self.map(lambda t: t.expand(batch_size, -1), self.start)


def in_step(q: Positions, k: Positions) -> int | None:
    """How far the first key stands before the first query, where that is promised and the others follow one by one: then the
    distance of a pair follows from its places. None: tensors have to be asked."""
    if q.start is not None and k.start is not None:
        return q.start - k.start
    return 0 if k is q and q.aligned is not None else k.behind


def concatenate(first: Positions, second: Positions) -> Positions:
    """Positions of `first` followed by `second` along the sequence, as keys are when a cache precedes fresh tokens."""
    batch = max(first.index.shape[0], second.index.shape[0])
    first, second = first.rows(batch), second.rows(batch)
    follows = first.start is not None and second.start == first.start + first.length
    return Positions(
        torch.cat([first.index, second.index], -1),
        _join(first.document, second.document, first, second),
        None,
        _join(first.is_global, second.is_global, first, second),
        start=first.start if follows else None,
    )


def _join(a: Tensor | None, b: Tensor | None, first: Positions, second: Positions) -> Tensor | None:
    if a is None and b is None:
        return None
    dtype = (a if a is not None else b).dtype  # type: ignore[union-attr]
    a = torch.zeros_like(first.index, dtype=dtype) if a is None else a
    b = torch.zeros_like(second.index, dtype=dtype) if b is None else b
    return torch.cat([a, b], -1)
