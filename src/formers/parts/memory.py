"""The memory: keys and values that a layer made long ago, looked up by its queries (Memorizing Transformers, 2203.08913).

A memory holds, for each batch row, up to `slots` entries: a key and a value for every key/value head, the place of the
token that they came from, its document, and the entry's number. No gradient enters what is stored. A row's entries stand
in any order; the number says which is older.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from formers.axes import Keys, Queries, Values
from formers.errors import StateError
from formers.parts.masks import Mask
from formers.parts.positions import EMPTY, Positions
from formers.parts.search import Nearest, nearest_of_both, search_exactly


@dataclass
class Found:
    """What queries found, nearest first.

    keys, values  [batch, heads, queries, k, d], exactly as they are stored
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


@dataclass
class Memory:
    """The newest `slots` entries of every row.

    keys      [batch, kv_heads, slots, d_head]     values  [batch, kv_heads, slots, d_value]
    index     Int [batch, slots]  place in the document, -1 empty         document  Int [batch, slots]
    number    Int [batch, slots]  entries are numbered in the order they were written; -1 empty
    written   Int [batch]  entries ever written to the row
    """

    keys: Tensor
    values: Tensor
    index: Int[Tensor, "batch slots"]
    document: Int[Tensor, "batch slots"]
    number: Int[Tensor, "batch slots"]
    written: Int[Tensor, " batch"]

    @classmethod
    def empty(cls, batch: int, heads: int, slots: int, d_key: int, d_value: int, **kind: Any) -> Memory:
        """kind: dtype and device of the keys and values."""
        device = kind.get("device")
        return cls(
            torch.zeros(batch, heads, slots, d_key, **kind),
            torch.zeros(batch, heads, slots, d_value, **kind),
            torch.full((batch, slots), EMPTY, device=device),
            torch.zeros(batch, slots, dtype=torch.long, device=device),
            torch.full((batch, slots), EMPTY, device=device),
            torch.zeros(batch, dtype=torch.long, device=device),
        )

    @property
    def slots(self) -> int:
        return self.index.shape[1]

    @property
    def positions(self) -> Positions:
        return Positions(self.index, self.document)

    # --- reading ------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def look_up(self, q: Queries, positions: Positions, *, mask: Mask, k: int) -> Nearest:
        """The `k` entries of largest inner product with each query, among those the mask lets it see."""
        return search_exactly(q, self.keys, positions, self.positions, mask=mask, k=k)

    # --- writing ------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def add(self, k: Keys, v: Values, positions: Positions) -> Memory:
        """The memory with new entries, in place of the oldest where it is full. Padding (index -1) is not written."""
        p = positions.rows(len(self.index))
        order = p.present.cumsum(-1)  # 1 for the first real token of the row
        total = order[:, -1:]
        stays = p.present & (order > total - self.slots)
        row, column = stays.nonzero(as_tuple=True)
        number = self.written[row] + order[row, column] - 1
        slot = self._places_for(stays.sum(-1))[row, (order - 1 - (total - self.slots).clamp(min=0))[row, column]]
        self.keys[row, :, slot] = k.detach().to(self.keys.dtype)[row, :, column]
        self.values[row, :, slot] = v.detach().to(self.values.dtype)[row, :, column]
        self.index[row, slot] = p.index[row, column]
        self.document[row, slot] = 0 if p.document is None else p.document[row, column]
        self.number[row, slot] = number
        return replace(self, written=self.written + total[:, 0])

    def _places_for(self, new: Int[Tensor, " batch"]) -> Int[Tensor, "batch most"]:
        """Slots for so many new entries a row: empty ones first, then those of the oldest."""
        return self.number.topk(int(new.max()), largest=False, sorted=True).indices

    # --- the node of a state ------------------------------------------------------------------------------------------

    def map_rows(self, function: Callable[[Tensor], Tensor]) -> Memory:
        return Memory(**{name: function(tensor) for name, tensor in self.tensors().items()})

    def reset(self, rows: Bool[Tensor, " batch"]) -> Memory:
        """The memory with those rows empty."""
        index, number = (t.masked_fill(rows[:, None], EMPTY) for t in (self.index, self.number))
        return replace(self, index=index, number=number, written=self.written.masked_fill(rows, 0))

    def dynamic(self) -> Memory:
        return replace(self)

    def keep(self, length: int) -> Memory:
        """Without the entries of tokens from `length` on. Raises StateError where older ones had to go for them."""
        if bool((self.written > self.slots).any()):
            raise StateError(f"a memory of {self.slots} entries has forgotten the beginning of its text")
        return self.map_rows(torch.clone)._without(self.index >= length)

    def _without(self, gone: Bool[Tensor, "batch slots"]) -> Memory:
        index, number = self.index.masked_fill(gone, EMPTY), self.number.masked_fill(gone, EMPTY)
        return replace(self, index=index, number=number)

    def tensors(self) -> dict[str, Tensor]:
        names = ("keys", "values", "index", "document", "number", "written")
        return {name: getattr(self, name) for name in names}

    def with_tensors(self, tensors: dict[str, Tensor]) -> Memory:
        return Memory(**tensors)


@dataclass
class StagedMemory:
    """Entries of one call, not yet written."""

    memory: Memory
    k: Tensor
    v: Tensor
    positions: Positions

    def commit(self) -> Memory:
        return self.memory.add(self.k, self.v, self.positions)


def recall(
    memory: Memory | None, q: Queries, k: Keys, v: Values, positions: Positions, *, mask: Mask, most: int
) -> tuple[Found, StagedMemory | None]:
    """Look up what the mask shows of the memory, and of the fresh keys and values of this call: first read, then write.

    What a query finds depends on positions alone: a call longer than a segment finds in its own earlier segments what
    a call for each segment would have found in the memory. `q` is scaled or not: only the order of scores matters.
    """
    batch, heads = q.shape[:2]
    fresh_k, fresh_v, here = k.detach(), v.detach(), positions.rows(batch)
    near = search_exactly(q, fresh_k, positions, here, mask=mask, k=most)
    if memory is None:
        return _gather(fresh_k, fresh_v, here, near, heads), None
    behind = memory.slots
    both = nearest_of_both(memory.look_up(q, positions, mask=mask, k=most), Nearest(near.scores, near.slots + behind))
    is_fresh, present = both.slots >= behind, both.present
    old = _gather(
        memory.keys, memory.values, memory.positions, Nearest(both.scores, both.slots.clamp(max=behind - 1)), heads
    )
    new = _gather(fresh_k, fresh_v, here, Nearest(both.scores, (both.slots - behind).clamp(min=0)), heads)
    wide = is_fresh[..., None]
    found = Found(
        torch.where(wide, new.keys.to(q.dtype), old.keys.to(q.dtype)),
        torch.where(wide, new.values.to(q.dtype), old.values.to(q.dtype)),
        torch.where(present, torch.where(is_fresh, new.index, old.index), EMPTY),
        torch.where(is_fresh, new.document, old.document),
    )
    return found, StagedMemory(memory, fresh_k, fresh_v, positions)


def _gather(keys: Tensor, values: Tensor, positions: Positions, near: Nearest, heads: int) -> Found:
    """The entries at `near.slots`, one by one."""
    batch, groups, n = keys.shape[:3]
    row = torch.arange(batch, device=keys.device)[:, None, None, None]
    group = (torch.arange(heads, device=keys.device) // (heads // groups))[None, :, None, None]
    document = torch.zeros_like(positions.index) if positions.document is None else positions.document
    flat = (row * groups + group) * n + near.slots
    return Found(
        keys.flatten(0, 2)[flat],
        values.flatten(0, 2)[flat],
        torch.where(near.present, positions.index[row, near.slots], EMPTY),
        document[row, near.slots],
    )
