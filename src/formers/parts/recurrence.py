"""Recurrence in the same layer: of earlier segments a layer sees what it gave for them (ERNIE-Doc, 2012.15688).

    Transformer-XL      h~_n = [SG(h_{n-1} of earlier segments); h_{n-1}]
    in the same layer   h~_n = [SG(h_n of earlier segments); h_{n-1}]

So a layer goes on from its own results, and what a token can be reached by does not end a memory a layer back. The price is
order: what a layer gave has to be there before the next segment is read, so a call of several segments reads them one after
another, also where there is no state, and no gradient crosses from one to the next. What a query sees still depends on
positions alone. For the tokens of its own segment that earlier calls read, what the layer was given is remembered beside.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from formers.axes import Hidden, Keys, Queries, Values
from formers.parts.attention import InputAttention, InputWindow
from formers.parts.positions import EMPTY, Positions
from formers.parts.states import KeyValueRing, StagedEntries, Tree, map_tree
from formers.parts.trunk import Blocks, PostNorm


class InputOutputWindow(InputWindow):
    """Remember the newest `size` inputs of a layer as keys, and what it gave for them as values: [batch, 1, size, d_model]."""

    def init_state(self, batch_size: int, max_length: int, **kind: Any) -> KeyValueRing:
        return self.ring(batch_size, max_length, d_value=self.d_model, **kind)


class SameLayerAttention(InputAttention):
    """Attention within segments of `segment` tokens that sees its layer's results for earlier ones. `remember` is an
    `InputOutputWindow`; a call lies in one segment of one document in each row, and `SameLayer` puts in the results."""

    def __init__(self, *slots: Any, segment: int, **named: Any) -> None:
        super().__init__(*slots, **named)
        self.segment = segment

    def look(
        self, x: Hidden, positions: Positions, state: KeyValueRing | None
    ) -> tuple[Queries, Keys, Values, Positions, Any]:
        if state is None:
            return super().look(x, positions, None)
        given, gave, k_positions, staged = state.extend(x[:, None], x[:, None], positions)
        start = positions.index.amax(-1, keepdim=True) // self.segment * self.segment
        own = (k_positions.index >= start)[:, :, None]
        q, k, v = self.project.apart(x, torch.where(own, given[:, 0], gave[:, 0]))  # type: ignore[operator]
        return self.queries(self.score.scaled(q)), self.keys(k), self.values(v), k_positions, staged


class SameLayer(PostNorm):
    """A trunk that reads segment by segment, and lets the first sublayer of each block remember what the block gave."""

    def __init__(self, blocks: Blocks, make_norm: Any, *, segment: int, **settings: Any) -> None:
        super().__init__(blocks, make_norm, **settings)
        self.segment = segment

    def forward(
        self, x: Hidden, positions: Positions, state: Tree | None = None, source: Any = None
    ) -> tuple[Hidden, Tree | None]:
        pieces = by_segment(positions, self.segment)
        if len(pieces) < 2:
            return super().forward(x, positions, state, source)
        nodes = self.init_state(*x.shape[:2], dtype=x.dtype, device=x.device) if state is None else state
        found, staged = [], None
        for slots, place in pieces:
            nodes = nodes if staged is None else map_tree(staged, _committed)
            y, staged = super().forward(x.gather(1, _columns(slots, x)), place, nodes, source)
            found.append(y)
        slots, y = torch.cat([slots.expand(len(x), -1) for slots, _ in pieces], 1), torch.cat(found, 1)
        whole = y.new_zeros(len(x), x.shape[1] + 1, y.shape[-1])  # one more for what is padding in a piece
        whole = whole.scatter(1, _columns(torch.where(slots < 0, x.shape[1], slots), y), y)
        return whole[:, :-1], None if state is None else staged

    def apply_block(
        self, i: int, x: Hidden, positions: Positions, nodes: tuple[Any, ...], source: Any
    ) -> tuple[Hidden, tuple[Any, ...]]:
        x, (staged, *others) = super().apply_block(i, x, positions, nodes, source)
        return x, (staged if staged is None else replace(staged, v=x.detach()[:, None]), *others)


def _committed(staged: StagedEntries) -> KeyValueRing:
    """The ring with what was staged, in buffers of its own: a recomputation will read the one it was staged on again."""
    return replace(staged, ring=staged.ring.map_rows(torch.clone)).commit()


Piece = tuple[Int[Tensor, "#batch seq"], Positions]
"""Where some tokens stand in each row of a call, -1 for padding, and their positions."""


def by_segment(positions: Positions, size: int) -> list[Piece]:
    """Each row's tokens segment by segment: the first piece holds those of each row's first segment of `size`, or what the
    call has of it, the next those of the second. A document begins a segment. Padding is in none."""
    length, start, aligned = positions.length, positions.start, positions.aligned
    if length == 0:
        return []
    if length == 1:
        first = length
    elif start is not None:
        first = size - start % size
    elif aligned is not None and (aligned % size == 0 or (size % aligned == 0 and length <= aligned)):
        first = size
    else:
        return _as_they_stand(positions, size)
    borders = [0, *range(first, length, size), length]
    return [_run(positions, a, b, size) for a, b in itertools.pairwise(borders)]


def _run(positions: Positions, start: int, stop: int, size: int) -> Piece:
    """Columns that all rows go through in step."""
    part = positions.slice(start, stop)
    if positions.aligned is not None and positions.aligned % size == 0:
        part = replace(part, aligned=size)
    return torch.arange(start, stop, device=positions.index.device)[None], part


def _as_they_stand(positions: Positions, size: int) -> list[Piece]:
    """Tensors are looked at: rows may enter a segment wherever they like."""
    present = positions.present
    column = torch.arange(positions.length, device=present.device).expand_as(present)
    before = torch.where(present, column, -1).cummax(-1).values.roll(1, -1)  # the token before, -1: none
    before[:, 0] = -1
    enters = present & (before < 0)
    for told in (positions.index // size, positions.document):
        if told is not None:
            enters = enters | (present & (told != told.expand_as(present).gather(1, before.clamp(min=0))))
    number = enters.cumsum(-1) - 1
    pieces = [_chosen(present & (number == n)) for n in range(int(number.max()) + 1)]
    return [(slots, positions.at(slots)) for slots in pieces]


def _chosen(which: Bool[Tensor, "#batch seq"]) -> Int[Tensor, "#batch most"]:
    """The columns of each row's chosen tokens, in order; -1 behind them in rows that have fewer than another."""
    order = which.int().argsort(dim=-1, descending=True, stable=True)[:, : int(which.sum(-1).max())]
    return torch.where(which.gather(1, order), order, EMPTY)


def _columns(slots: Int[Tensor, "#batch chosen"], x: Hidden) -> Int[Tensor, "batch chosen d_model"]:
    """As `gather` and `scatter` along the text take them."""
    return slots.clamp(min=0)[..., None].expand(len(x), -1, x.shape[-1])
