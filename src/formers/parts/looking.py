"""Looking up: search a memory and the fresh keys of a call, and hand out the keys and values that were found.

All of it is without gradient, so that it can be one operation to a compiler, which neither traces the search nor makes
its shapes depend on what is found.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Size, Tensor
from torch.utils.flop_counter import register_flop_formula

from formers.parts.masks import Mask
from formers.parts.positions import EMPTY, Positions
from formers.parts.search import Asked, Exact, Nearest, Search, Store, nearest_of_both
from formers.parts.storage import Int8, Plain, Vectors


@dataclass(frozen=True)
class Askers:
    """Which tokens of a call look up.

    slots   Int [1 or batch, m]  their places in the call, -1 where a row has fewer than others; None: all do
    length  tokens of the call
    """

    slots: Int[Tensor, "#batch m"] | None
    length: int

    @classmethod
    def first_of_every(cls, stride: int, positions: Positions) -> Askers:
        """The first of every `stride` tokens of a document, however it is cut into calls. How many there are, compiled code
        has to know beforehand: where no start is promised it looks up for all, and lets the others find nothing."""
        index, length = positions.index, positions.length
        if stride == 1:
            return cls(None, length)
        if positions.start is not None:
            first = min(-positions.start % stride, length)
            return cls(torch.arange(first, length, stride, device=index.device)[None], length)
        if positions.aligned is not None:
            slots = -index[:, :1] % stride + torch.arange(0, length, stride, device=index.device)
            return cls(torch.where(slots < length, slots, EMPTY), length)
        asks = positions.present & (index % stride == 0)
        most = length if torch.compiler.is_compiling() else int(asks.sum(-1).max())
        slots = asks.int().argsort(dim=-1, descending=True, stable=True)[:, :most]
        return cls(torch.where(asks.gather(-1, slots), slots, EMPTY), length)

    def places(self, positions: Positions) -> Positions:
        return positions if self.slots is None else positions.at(self.slots)

    def pick(self, x: Tensor) -> Tensor:
        """Of [batch, heads, tokens, ..] what belongs to those that look up: [batch, heads, m, ..]."""
        return x if self.slots is None else x.gather(2, self._columns(self.slots.clamp(min=0), x))

    def spread(self, x: Tensor, others: int = 0) -> Tensor:
        """[batch, heads, m, ..] back to all tokens of the call; `others` for those that do not look up."""
        if self.slots is None:
            return x
        columns = self._columns(self.slots.where(self.slots >= 0, self.length), x)  # one place more, for none
        whole = x.new_full((*x.shape[:2], self.length + 1, *x.shape[3:]), others)
        return whole.scatter(2, columns, x)[:, :, : self.length]

    def _columns(self, slots: Tensor, x: Tensor) -> Tensor:
        return slots.view(len(slots), 1, -1, *[1] * (x.dim() - 3)).expand(*x.shape[:2], -1, *x.shape[3:])


@dataclass
class Found:
    """What queries found, nearest first.

    keys, values  [batch, heads, queries, k, d], exactly as they are stored, in the type of the queries
    index         place of each in its document, -1 where fewer than k were visible
    document      its document
    """

    keys: Float[Tensor, "batch heads queries k d_head"]
    values: Float[Tensor, "batch heads queries k d_value"]
    index: Int[Tensor, "batch heads queries k"]
    document: Int[Tensor, "batch heads queries k"]

    @property
    def present(self) -> Bool[Tensor, "batch heads queries k"]:
        return self.index >= 0


@torch.no_grad()
def look_up(asked: Asked, memory: Store | None, fresh: Store, search: Search | None) -> tuple[Found, Tensor]:
    """What the queries find in both, and its slots: those of the memory, then those of the fresh entries; -1 for none.
    Where `asked` is shared, slots are counted through all rows of the memory, and then through all of the fresh."""
    own = replace(asked, rows=None)
    if not asked.q.shape[2]:
        return _gather(fresh, own.nothing(), own), own.nothing().slots
    new = _nearest(Exact(), own, fresh)
    if memory is None or search is None:
        return _gather(fresh, new, own), torch.where(new.present, new.slots, EMPTY)
    old, behind = _nearest(search, asked, memory), memory.keys.shape[2] * (len(memory.number) if asked.shared else 1)
    if new.scores.device.type == "cpu" and not bool(new.present.any()):
        return _gather(memory, old, asked), torch.where(old.present, old.slots, EMPTY)
    both = nearest_of_both(old, Nearest(new.scores, new.slots + behind))
    slots, is_fresh = torch.where(both.present, both.slots, EMPTY), both.slots >= behind
    in_memory = _gather(memory, Nearest(both.scores, both.slots.clamp(max=behind - 1)), asked)
    in_fresh = _gather(fresh, Nearest(both.scores, (both.slots - behind).clamp(min=0)), own)
    return _either(is_fresh, in_fresh, in_memory), slots


def _nearest(search: Search, asked: Asked, store: Store) -> Nearest:
    """The nearest in a row of the store; where it is shared, in all rows, one after another."""
    if not asked.shared:
        return search.search(asked, store)
    best, n = asked.nothing(), store.keys.shape[2]
    for row in range(len(store.number)):
        rows = torch.full((len(asked.q),), row, device=asked.q.device)
        found = search.search(replace(asked, rows=rows), store)
        best = nearest_of_both(best, Nearest(found.scores, found.slots + row * n))
    return best


def _either(first: Bool[Tensor, "batch heads queries k"], a: Found, b: Found) -> Found:
    wide = first[..., None]
    return Found(
        torch.where(wide, a.keys, b.keys),
        torch.where(wide, a.values, b.values),
        torch.where(first, a.index, b.index),
        torch.where(first, a.document, b.document),
    )


def _gather(store: Store, near: Nearest, asked: Asked) -> Found:
    """The entries at `near.slots`, one by one."""
    batch, heads = near.slots.shape[:2]
    device, (groups, n) = near.slots.device, store.keys.shape[1:3]
    row = (torch.arange(batch, device=device) if asked.rows is None else asked.rows)[:, None, None, None]
    row, slots = (near.slots // n, near.slots % n) if asked.shared else (row, near.slots)
    group = (torch.arange(heads, device=device) // (heads // groups))[None, :, None, None]
    flat, place = (row * groups + group) * n + slots, row * n + slots
    p, dtype = store.positions, near.scores.dtype
    index = torch.where(near.present, p.index.flatten()[place], EMPTY)
    document = torch.zeros_like(index) if p.document is None else p.document.flatten()[place]
    return Found(store.keys.gather(flat).to(dtype), store.values.gather(flat).to(dtype), index, document)


# --- one operation to a compiler --------------------------------------------------------------------------------------

_KNOWN: dict[str, Mask] = {}
"""Masks by what they print as: an operator takes no objects."""


def _name(mask: Mask) -> str:
    _KNOWN[repr(mask)] = mask
    return repr(mask)


_name_once: Callable[[Mask], str] = torch.compiler.assume_constant_result(_name)  # type: ignore[assignment]
"""Called by a compiler when it traces, and then left as it is."""


def look_up_compiled(asked: Asked, memory: Store | None, fresh: Store, search: Search | None) -> tuple[Found, Tensor]:
    """The same as one opaque operator. A search that keeps an index of its own is left out of the graph instead."""
    if not isinstance(search, Exact | None):
        return _look_up_outside(asked, memory, fresh, search)  # type: ignore[call-arg]
    there = asked.positions if memory is None else memory.positions
    *found, slots = _operator(
        asked.q,
        [] if memory is None else _parts(memory.keys),
        [] if memory is None else _parts(memory.values),
        there.index,
        there.document,
        _parts(fresh.keys) + _parts(fresh.values),
        fresh.positions.index,
        fresh.positions.document,
        fresh.positions.is_global,
        asked.positions.index,
        asked.positions.document,
        asked.positions.is_global,
        asked.rows,
        asked.shared,
        _name_once(asked.mask),  # type: ignore[call-arg]
        asked.k,
    )
    return Found(*found), slots


@torch.compiler.disable
def _look_up_outside(asked: Asked, memory: Store | None, fresh: Store, search: Search | None) -> tuple[Found, Tensor]:
    return look_up(asked, memory, fresh, search)


def _parts(vectors: Vectors) -> list[Tensor]:
    return list(vectors.tensors("").values())


def _vectors(parts: list[Tensor]) -> Vectors:
    return Plain(*parts) if len(parts) == 1 else Int8(*parts)


_SCHEMA = """(Tensor q, Tensor[] keys, Tensor[] values, Tensor index, Tensor? document, Tensor[] fresh, Tensor fresh_index,
    Tensor? fresh_document, Tensor? fresh_is_global, Tensor q_index, Tensor? q_document, Tensor? q_is_global,
    Tensor? rows, bool shared, str mask, int k) -> (Tensor, Tensor, Tensor, Tensor, Tensor)"""


@torch.library.custom_op("formers::look_up", mutates_args=(), schema=_SCHEMA)
def _operator(
    q: Tensor,
    keys: list[Tensor],
    values: list[Tensor],
    index: Tensor,
    document: Tensor | None,
    fresh: list[Tensor],
    fresh_index: Tensor,
    fresh_document: Tensor | None,
    fresh_is_global: Tensor | None,
    q_index: Tensor,
    q_document: Tensor | None,
    q_is_global: Tensor | None,
    rows: Tensor | None,
    shared: bool,
    mask: str,
    k: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """keys, values, index, document and slots of what is found. Empty lists of keys and values: there is no memory."""
    asked = Asked(q, Positions(q_index, q_document, None, q_is_global), _KNOWN[mask], k, rows, shared)
    positions = Positions(fresh_index, fresh_document, None, fresh_is_global)
    here = Store(Plain(fresh[0]), Plain(fresh[1]), positions, fresh_index)
    there = Store(_vectors(keys), _vectors(values), Positions(index, document), index) if keys else None
    found, slots = look_up(asked, there, here, Exact() if keys else None)
    return found.keys, found.values, found.index, found.document, slots


@_operator.register_fake
def _shapes(
    q: Tensor,
    keys: list[Tensor],
    values: list[Tensor],
    index: Tensor,
    document: Tensor | None,
    fresh: list[Tensor],
    fresh_index: Tensor,
    fresh_document: Tensor | None,
    fresh_is_global: Tensor | None,
    q_index: Tensor,
    q_document: Tensor | None,
    q_is_global: Tensor | None,
    rows: Tensor | None,
    shared: bool,
    mask: str,
    k: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    shape = (*q.shape[:3], k)
    a, b, c = (q.new_empty(shape, dtype=torch.long) for _ in range(3))
    return q.new_empty(*shape, fresh[0].shape[-1]), q.new_empty(*shape, fresh[1].shape[-1]), a, b, c


@register_flop_formula(torch.ops.formers.look_up)
def _products(
    q: Size, keys: list[Size], values: list[Size], index: Size, document: Any, fresh: list[Size], *_: Any, **__: Any
) -> int:
    """Operations of the queries' products with all keys, given the shapes of tensors."""
    return 2 * math.prod(q) * (fresh[0][2] + (keys[0][2] if keys else 0))
