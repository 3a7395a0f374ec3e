"""Places in a row, and what a mask asks of them: what the runner in blocks knows before it looks at a tensor of values."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from formers.parts.extent import goes_by_distance, reach, step
from formers.parts.kernels import Case
from formers.parts.masks import Block, Mask, Span
from formers.parts.positions import Positions, in_step

BLOCK = 128
"""Queries in a block, at most. Smaller skips more and costs more calls."""
LEAST = 32
"""Queries in a block, at least: matrix products of fewer rows are slow."""


@dataclass(frozen=True)
class Line:
    """Queries and keys in slots 0, 1, .. of a row, `every` so many indices from slot to slot; the first ones' indices.

    past, future  how many slots before and behind its own a query's keys may stand; None: any number
    """

    q_first: int
    k_first: int
    t: int
    s: int
    every: int
    past: int | None
    future: int | None

    @classmethod
    def of(cls, case: Case) -> Line:
        """Where starts are known, slots are indices; else they are places in the row of keys, which queries share or follow."""
        q, k, t, s = case.q_positions.start, case.k_positions.start, case.q.shape[2], case.k.shape[2]
        if q is None or k is None:
            q, k = in_step(case.q_positions, case.k_positions) or 0, 0
        every = max(step(case.mask), 1) if q == k and t == s and goes_by_distance(case.mask) else 1
        past, future = (None if r is None else r // every for r in reach(case.mask))
        if every > 1:
            return cls(0, 0, -(-t // every), -(-t // every), every, past, future)
        return cls(q, k, t, s, 1, past, future).clipped()

    def clipped(self) -> Line:
        """No stretch of keys reaches further than the text."""
        if self.past is None or self.future is None:
            return self
        shift = self.q_first - self.k_first
        past, future = min(self.past, max(shift + self.t - 1, 0)), min(self.future, max(self.s - 1 - shift, 0))
        return replace(self, past=past, future=future)

    @property
    def is_banded(self) -> bool:
        return self.past is not None and self.future is not None

    @property
    def width(self) -> int:
        """How many keys beside its own a query sees at most, where reach is finite."""
        assert self.past is not None
        assert self.future is not None
        return self.past + self.future

    @property
    def lead(self) -> int:
        """How many slots before key 0 the keys of query 0 begin."""
        assert self.past is not None
        return self.past - (self.q_first - self.k_first) // self.every

    def plan(self, mask: Mask, size: int) -> list[tuple[list[int], list[list[int]]]]:
        """Query blocks grouped by how many key blocks they need: [(query blocks, for each its key blocks)]."""
        plan = _plan.__wrapped__ if torch.compiler.is_compiling() else _plan
        return plan(mask, self, size)

    def spans(self, first: int, length: int, size: int) -> list[Span]:
        """The indices of each block."""
        last = first + (length - 1) * self.every
        starts = range(first, last + 1, size * self.every)
        return [Span(i, min(i + (size - 1) * self.every, last)) for i in starts]


@functools.lru_cache(maxsize=64)
def _plan(mask: Mask, line: Line, size: int) -> list[tuple[list[int], list[list[int]]]]:
    q_spans, k_spans = line.spans(line.q_first, line.t, size), line.spans(line.k_first, line.s, size)
    groups: dict[int, tuple[list[int], list[list[int]]]] = {}
    for i, q_span in enumerate(q_spans):
        needed = [j for j, k_span in enumerate(k_spans) if mask.block(q_span, k_span) is not Block.NONE]
        needed = needed or [0]  # wholly hidden, and so exactly 0, but still part of the graph
        queries, keys = groups.setdefault(len(needed), ([], []))
        queries.append(i)
        keys.append(needed)
    return list(groups.values())


def block_size(line: Line, *, copied: bool = False) -> int:
    """Queries in a block. A window's keys are read where they stand, so small blocks, of which more is seen, are the fastest;
    where a backward pass adds their gradients up, or global keys are put behind them, fewer and larger ones are."""
    if not line.is_banded:
        return BLOCK
    return max(2 * LEAST, min(2 * BLOCK, line.width // 2)) if copied else max(LEAST, min(BLOCK, line.width // 8))


@dataclass(frozen=True)
class Table:
    """The global keys of each row. k, v [b, g, n, d], and their positions."""

    k: Tensor
    v: Tensor
    positions: Positions

    @classmethod
    def of(cls, case: Case) -> Table | None:
        """None where no token is global."""
        slots = case.k_positions.global_slots.expand(case.k.shape[0], -1)
        if slots.shape[1] == 0:
            return None

        def pick(x: Tensor) -> Tensor:
            return x.gather(2, slots.clamp(min=0)[:, None, :, None].expand(-1, x.shape[1], -1, x.shape[3]))

        return cls(pick(case.k), pick(case.v), case.k_positions.at(slots))

    def repeated(self, times: int) -> Table:
        """For rows that became `times` rows each."""
        k, v = (x.repeat_interleave(times, 0) for x in (self.k, self.v))
        return Table(k, v, self.positions.rows(len(self.k)).map(lambda x: x.repeat_interleave(times, 0)))
