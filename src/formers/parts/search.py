"""Search: for every query the keys with the largest inner products, among those that a mask lets it see.

`search_plainly` is the slow twin: all scores, a mask for each pair, one top-k. `search_exactly` finds the same, three ways
cheaper:

- Queries of one segment see the same entries (`Mask.grain`), so visibility is asked once a segment, and entries that none
  of them sees cost nothing.
- Scores of all entries come from one matrix product for a chunk of queries, never of all queries at once.
- The top k are found by a tournament: largest of 8, largest of 8 of those, ..; the k largest entries stand in the k groups
  with the largest winners, so going down again only 8 k candidates a level have to be looked at. Top-k over all 65,536
  scores of a query takes ten times as long as the product that makes them.

Scores have the type of the queries. In bf16 entries that are equal to its 8 bits rank as equal, whichever is nearer; of
65,536 random entries the nearest 32 are then right to 99%.

Measured on one core with AMX (bf16, batch 2, 6 heads, 512 queries of 64, k = 32; CPU time): 0.10 s at 8,192 entries, 0.26 s at
65,536, of which the product takes 0.02 and 0.09 s. A top-k over all scores would take 0.9 s more.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from formers.axes import Queries
from formers.parts.masks import Mask
from formers.parts.positions import Positions
from formers.parts.storage import Vectors

SCORES_AT_A_TIME = {"cpu": 9 << 20, "other": 1 << 28}
"""Scores that are held at once: 18 MB in bf16 on a CPU, more where memory is fast and each call costs."""

QUERIES_A_TILE = 64
"""Chunks of queries are multiples of it where they can be: units for matrices waste a third of their time on 127."""

FAN = 8
"""Entries in a group of the tournament."""

QUERIES_A_RUN = 16
"""Visibility is worked out a run at a time where runs of queries that see the same are at least this long on average."""


@dataclass
class Nearest:
    """scores [batch, heads, queries, k], -inf where there is no such key, and slots, which mean nothing there."""

    scores: Float[Tensor, "batch heads queries k"]
    slots: Int[Tensor, "batch heads queries k"]

    @property
    def present(self) -> Bool[Tensor, "batch heads queries k"]:
        return self.scores > -torch.inf


@dataclass(frozen=True)
class Asked:
    """A question to a search.

    q, positions  the queries and where they stand         mask, k  what they may see, and how many they want
    rows          Int [batch]  which row of the store each row of queries asks; None: its own
    shared        each row of queries asks all rows of the store, whatever `rows` says (`look_up` sees to that, not a search)
    """

    q: Queries
    positions: Positions
    mask: Mask
    k: int
    rows: Int[Tensor, " batch"] | None = None
    shared: bool = False

    def store_rows(self) -> list[int]:
        return list(range(len(self.q))) if self.rows is None else self.rows.tolist()

    def nothing(self) -> Nearest:
        """An answer that is still empty."""
        shape = (*self.q.shape[:3], self.k)
        return Nearest(self.q.new_full(shape, -torch.inf), self.q.new_zeros(shape, dtype=torch.long))


@dataclass(frozen=True)
class Store:
    """What is searched: keys and values [batch, heads, slots, d] and where each slot's token stood.

    number  Int [batch, slots]  tells whether a slot still holds what it held: no two entries of a row share one
    built   what a search has made of each row and may keep from one look-up to the next
    """

    keys: Vectors
    values: Vectors
    positions: Positions
    number: Int[Tensor, "batch slots"]
    built: dict[int, Any] = field(default_factory=dict)


@runtime_checkable
class Search(Protocol):
    def search(self, asked: Asked, store: Store) -> Nearest: ...


@dataclass(frozen=True)
class Exact:
    """Finds exactly the nearest (see the head of this file)."""

    def search(self, asked: Asked, store: Store) -> Nearest:
        return search_exactly(asked, store.keys, store.positions)


# --- the slow twin --------------------------------------------------------------------------------------------------


@torch.no_grad()
def search_plainly(asked: Asked, keys: Vectors, k_positions: Positions) -> Nearest:
    """The `k` nearest keys, nearest first; heads may share keys (grouped). Holds queries x entries in full."""
    q, k = asked.q, min(asked.k, keys.shape[2])
    rows = torch.tensor(asked.store_rows(), device=q.device)
    there = k_positions.rows(keys.shape[0]).map(lambda p: p[rows])
    part = torch.stack([keys.part(row, slice(None), slice(None)) for row in rows.tolist()])
    scores = q @ part.to(q.dtype).repeat_interleave(q.shape[1] // part.shape[1], 1).transpose(-1, -2)
    visible = _visible(asked.mask, asked.positions, there)
    top = scores.masked_fill(~visible[:, None], -torch.inf).topk(k, -1)
    found = asked.nothing()
    found.scores[..., :k], found.slots[..., :k] = top.values, top.indices
    return found


def _visible(mask: Mask, q: Positions, k: Positions) -> Bool[Tensor, "batch queries keys"]:
    """Which key each query sees: what the mask says, of queries and keys that are there."""
    allowed = mask.allows(q.as_queries(), k.as_keys())
    return (allowed & q.present[:, None, :, None] & k.present[:, None, None]).squeeze(1)


# --- the fast way ---------------------------------------------------------------------------------------------------


@torch.no_grad()
def search_exactly(asked: Asked, keys: Vectors, k_positions: Positions) -> Nearest:
    """The `k` nearest keys, nearest first; heads may share keys (grouped)."""
    heads, n = keys.shape[1], keys.shape[2]
    b, h, t, d = asked.q.shape
    q, best = asked.q.reshape(b, heads, h // heads, t, d), asked.nothing()
    scores, slots = (answer.view(*q.shape[:4], asked.k) for answer in (best.scores, best.slots))
    there, room = k_positions.rows(keys.shape[0]), _Room(q)
    for row, store in enumerate(asked.store_rows()):
        for queries, visible in _pieces(asked, row, there.map(lambda p, store=store: p[store : store + 1])):
            entries, hidden = _range(visible)
            if entries.stop > entries.start:
                piece = q[row, :, :, queries]  # [heads, sharing, m, d]
                into = scores[row, :, :, queries], slots[row, :, :, queries]
                _search_piece(piece, keys, store, entries, hidden, into, min(asked.k, n), room)
    return best


def _pieces(asked: Asked, row: int, there: Positions) -> Iterator[tuple[slice, Tensor]]:
    """Runs of queries of a row with what they see, [keys] for all of a run alike or [m, keys]. Nothing is worked out for
    two queries that surely see the same; on other devices than a CPU, where asking would make it wait, for each."""
    own = asked.positions if len(asked.positions.index) == 1 else asked.positions.map(lambda p: p[row : row + 1])
    runs = list(_runs(own, asked.mask.grain)) if own.index.device.type == "cpu" else []
    if runs and len(runs) * QUERIES_A_RUN <= max(own.length, QUERIES_A_RUN):
        for run in runs:
            first = own.slice(run.start, run.start + 1)
            yield run, _visible(asked.mask, first, there)[0, 0]
        return
    step = max(1, _budget(asked.q) // (8 * max(1, there.length)))
    for start in range(0, own.length, step):
        queries = slice(start, min(start + step, own.length))
        yield queries, _visible(asked.mask, own.slice(queries.start, queries.stop), there)[0]


def _runs(own: Positions, grain: int) -> Iterator[slice]:
    """Runs of neighbouring queries of one document and one block of `grain` indices; padding is a block of its own."""
    index = own.index[0]
    block = torch.where(index >= 0, index // grain if grain else 0, -1)
    changes = block[1:] != block[:-1]
    if own.document is not None:
        changes = changes | (own.document[0, 1:] != own.document[0, :-1])
    if own.is_global is not None:
        changes = changes | (own.is_global[0, 1:] != own.is_global[0, :-1])
    borders = [0, *((changes.nonzero()[:, 0] + 1).tolist()), len(index)]
    for start, stop in itertools.pairwise(borders):
        yield slice(start, stop)


def _range(visible: Tensor) -> tuple[slice, Tensor | None]:
    """From the first to the last entry that any query sees, and what is hidden between them: numbers of entries where all
    queries see the same [keys], else [keys, m]; None where nothing is."""
    if visible.device.type != "cpu":
        return slice(0, visible.shape[-1]), ~visible.T
    seen = (visible if visible.ndim == 1 else visible.any(0)).nonzero()[:, 0]
    if not len(seen):
        return slice(0, 0), None
    entries = slice(int(seen[0]), int(seen[-1]) + 1)
    between = visible[..., entries]
    if bool(between.all()):
        return entries, None
    return entries, (~between).nonzero()[:, 0] if visible.ndim == 1 else ~between.T


def _search_piece(
    q: Float[Tensor, "heads sharing m d"],
    keys: Vectors,
    row: int,
    entries: slice,
    hidden: Tensor | None,
    into: tuple[Tensor, Tensor],
    k: int,
    room: _Room,
) -> None:
    """The nearest of `entries` of a store's row, heads and queries in chunks of as many scores as may be held."""
    heads, sharing, m, d = q.shape
    n = entries.stop - entries.start
    budget, k = max(1, _budget(q) // n), min(k, n)
    most = queries_at_once(m, budget // sharing)
    heads_at_once = max(1, min(heads, budget // (sharing * most)))
    for first in range(0, heads, heads_at_once):
        some = slice(first, min(first + heads_at_once, heads))
        part = keys.part(row, some, entries).to(q.dtype)
        for start in range(0, m, most):
            chunk = slice(start, min(start + most, m))
            asked = q[some, :, chunk].reshape(len(part), -1, d)
            scores = room.product(part, asked.transpose(1, 2))
            if hidden is not None and hidden.ndim == 1:
                scores.index_fill_(1, hidden, -torch.inf)
            elif hidden is not None:
                scores.unflatten(-1, (sharing, -1)).masked_fill_(hidden[None, :, None, chunk], -torch.inf)
            values, slots = best_columns(scores, k)
            for target, found in zip(into, (values, slots + entries.start), strict=True):
                target[some, :, chunk, :k] = found.unflatten(1, (sharing, -1)).to(target.dtype)


def queries_at_once(queries: int, room: int) -> int:
    """Of `queries` where there is room for the scores of so many: whole tiles where it can be."""
    most = max(1, min(queries, room))
    return most // QUERIES_A_TILE * QUERIES_A_TILE or most


def _budget(q: Tensor) -> int:
    return SCORES_AT_A_TIME["cpu" if q.device.type == "cpu" else "other"]


class _Room:
    """One block of memory for the scores of every chunk in turn. On a CPU a fresh block each time would cost four times the
    product itself, in page faults."""

    def __init__(self, q: Tensor) -> None:
        self.block, self.q = q.new_empty(0), q

    def product(self, a: Tensor, b: Tensor) -> Tensor:
        shape = (len(a), a.shape[1], b.shape[2])
        size = shape[0] * shape[1] * shape[2]
        if size > len(self.block):
            self.block = self.q.new_empty(size)
        return torch.bmm(a, b, out=self.block[:size].view(shape))


# --- the tournament -------------------------------------------------------------------------------------------------


def best_columns(scores: Float[Tensor, "heads n m"], k: int) -> tuple[Tensor, Tensor]:
    """The k largest of every column, largest first, and their rows: two [heads, m, k]."""
    if scores.dtype == torch.bfloat16 and scores.device.type == "cpu":
        values, rows = _tournament(scores, k, as_bits=True)
        if bool((values[..., -1] >= 0).all()):
            return values, rows
    return _tournament(scores, k, as_bits=False)


def _tournament(scores: Tensor, k: int, *, as_bits: bool, in_order: bool = True) -> tuple[Tensor, Tensor]:
    """One level: the best groups of FAN, then the best in them and in what no group holds.

    `as_bits` compares bf16 by its bits as int16, which is four times as fast and right for groups whose largest is not
    negative. Where k scores that are not negative come out, no other group could have held one of the k largest.
    """
    n = scores.shape[1]
    if n < 2 * FAN * k:
        return scores.transpose(1, 2).contiguous().topk(k, -1, sorted=in_order)
    width = n // FAN
    groups, rest = scores[:, : FAN * width].unflatten(1, (FAN, width)), scores[:, FAN * width :]
    if as_bits:
        winners = groups.view(torch.int16).amax(1).view(torch.bfloat16)
    else:
        winners = groups.amax(1)
    group = _tournament(winners, k, as_bits=as_bits, in_order=False)[1].transpose(1, 2)  # [heads, k, m]
    held = groups.gather(2, group[:, None].expand(-1, FAN, -1, -1)).flatten(1, 2)
    values, which = torch.cat([held, rest], 1).transpose(1, 2).contiguous().topk(k, -1, sorted=in_order)
    in_rest = which >= FAN * k
    member = group.transpose(1, 2).gather(-1, which % k) + which // k * width
    return values, torch.where(in_rest, which + FAN * (width - k), member)


def nearest_of_both(a: Nearest, b: Nearest) -> Nearest:
    """The nearest of two lists for each query, as many as `a` holds."""
    scores, which = torch.cat([a.scores, b.scores], -1).topk(a.scores.shape[-1], -1)
    return Nearest(scores, torch.cat([a.slots, b.slots], -1).gather(-1, which))
