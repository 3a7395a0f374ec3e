"""Recall a piece at a time: what a call without gradient holds at once is bounded, however many neighbours are asked for.

`recall` hands out a copy of every neighbour of every query: 16 rows of 512 queries with 1,088 neighbours of 2 heads and 32
numbers each are 2.3 GB, several times over. Here some queries of one row look up, what they found is put together, and the
next follow. A softmax over all that was found is one over the pieces, so what a query found can stand as a single entry:

    logit = log sum_i exp(q . k_i)        value = sum_i softmax_i(q . k_i) v_i

whose part in any softmax, alone or beside what is near, is that of all of them together.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from formers.axes import Keys, Queries, Values
from formers.parts.attend import safe_softmax
from formers.parts.looking import Found, look_up
from formers.parts.masks import Mask
from formers.parts.memory import Memory, StagedMemory, fresh_store
from formers.parts.positions import Positions
from formers.parts.search import Asked, Store, queries_at_once

NUMBERS_AT_A_TIME = {"cpu": 1 << 22, "other": 1 << 27}
"""Of the keys of neighbours, as many of their values, and a few times that while they are gathered: 16 MB each in float32 on a
CPU, more where memory is fast and each call costs. A single query of one row is never cut."""


@dataclass
class Together:
    """What queries recalled, as one entry for each: see the head of this file.

    logit  -inf where nothing was found
    """

    logit: Float[Tensor, "batch heads queries"]
    value: Float[Tensor, "batch heads queries d_value"]

    @property
    def present(self) -> Bool[Tensor, "batch heads queries"]:
        return self.logit > -torch.inf


def numbers_of(q: Queries, most: int) -> int:
    """Of the keys that `recall` would hand out for these queries."""
    return q.numel() * most


def budget(q: Queries) -> int:
    return NUMBERS_AT_A_TIME["cpu" if q.device.type == "cpu" else "other"]


@torch.no_grad()
def recall_together(
    memory: Memory | None,
    q: Queries,
    k: Keys,
    v: Values,
    positions: Positions,
    *,
    mask: Mask,
    most: int,
    shared: bool = False,
    asking: Positions | None = None,
) -> tuple[Together, StagedMemory | None]:
    """What `recall` finds, put together with a softmax of q . k (q arrives scaled). `most` beyond what a row (where they
    are shared, all rows) may see is all of it. Without gradient, and of memories that do not count what is found."""
    here, asking = positions.rows(len(q)), (positions if asking is None else asking).rows(len(q))
    fresh = fresh_store(memory, k, v, here)
    store, search = (None, None) if memory is None else (memory.store, memory.search)
    logit = q.new_full(q.shape[:3], -torch.inf, dtype=torch.promote_types(q.dtype, torch.float32))
    value = v.new_zeros(*q.shape[:3], v.shape[-1])
    stored = here.present.sum(-1) + (0 if memory is None else memory.held)
    for row in range(len(q)):
        rows, own = slice(row, row + 1), fresh if shared else _row(fresh, row)
        wide = min(most, int(stored.sum() if shared else stored[row]))
        for some in _pieces(q, wide):
            place = asking.map(lambda p, rows=rows, some=some: p[rows, some])
            asked = Asked(q[rows, :, some], place, mask, wide, torch.tensor([row], device=q.device), shared)
            found, _ = look_up(asked, store, own, search)
            logit[rows, :, some], value[rows, :, some] = _together(asked.q, found)
    if memory is None or memory.read_only:
        return Together(logit, value), None
    return Together(logit, value), StagedMemory(memory, k.detach(), v.detach(), positions)


def _pieces(q: Queries, wide: int) -> Iterator[slice]:
    """Some queries of a row at a time; none at all where there is nothing to find."""
    heads, length, d = q.shape[1:]
    if not wide:
        return
    each = queries_at_once(length, budget(q) // (heads * wide * d))
    for start in range(0, length, each):
        yield slice(start, min(start + each, length))


def _row(fresh: Store, row: int) -> Store:
    def only(t: Tensor) -> Tensor:
        return t[row : row + 1]

    return Store(fresh.keys.map(only), fresh.values.map(only), fresh.positions.map(only), only(fresh.number))


def _together(q: Queries, found: Found) -> tuple[Tensor, Tensor]:
    """Logits [batch, heads, queries] and values [batch, heads, queries, d_value]."""
    logits = (q[..., None, :] * found.keys).sum(-1)
    pattern = safe_softmax(logits, found.present).to(found.values.dtype)
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32)).masked_fill(~found.present, -torch.inf)
    return wide.logsumexp(-1), (pattern[..., None] * found.values).sum(-2)
