"""The key-value ring: the newest keys and values of an attention layer, each with its position."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from formers.errors import StateError
from formers.parts.positions import EMPTY, Positions, concatenate


@dataclass
class KeyValueRing:
    """The newest `capacity` keys and values of one attention layer, with their positions.

    keys      [batch, kv_heads, capacity, d_head]     values  [batch, kv_heads, capacity, d_value]
    index     Int [batch, capacity]  place in the document, -1 empty         document  Int [batch, capacity]
    written   Int [batch]  tokens ever written: the next goes to slot written % capacity
    start     the promise that every row has written exactly tokens 0 .. start-1; None: nothing is promised
    overflow  "wrap" forgets the oldest (a window); "refuse" raises at commit (a cache that must hold everything)
    most      a number that no row has written more than; None: unknown, and calls keep one shape (see `State.dynamic`)
    segment   calls that begin at a multiple of it see of what is remembered only the newest capacity - segment; None: all
    """

    keys: Tensor
    values: Tensor
    index: Int[Tensor, "batch capacity"]
    document: Int[Tensor, "batch capacity"]
    written: Int[Tensor, " batch"]
    start: int | None = 0
    overflow: str = "wrap"
    most: int | None = 0
    segment: int | None = None
    fresh: Any = None  # the staged entries that now stand in free slots, if any

    @classmethod
    def empty(
        cls,
        batch: int,
        heads: int,
        capacity: int,
        d_key: int,
        d_value: int,
        *,
        overflow: str = "wrap",
        segment: int | None = None,
        **kind: Any,
    ) -> KeyValueRing:
        device = kind.get("device")
        return cls(
            torch.zeros(batch, heads, capacity, d_key, **kind),
            torch.zeros(batch, heads, capacity, d_value, **kind),
            torch.full((batch, capacity), EMPTY, device=device),
            torch.zeros(batch, capacity, dtype=torch.long, device=device),
            torch.zeros(batch, dtype=torch.long, device=device),
            overflow=overflow,
            segment=segment,
        )

    @property
    def capacity(self) -> int:
        return self.index.shape[1]

    def extend(self, k: Tensor, v: Tensor, positions: Positions) -> tuple[Tensor, Tensor, Positions, StagedEntries]:
        """All keys and values that queries of this call may see, remembered ones first, and what to commit."""
        staged = StagedEntries(self, k.detach(), v.detach(), positions)
        if self.segment is not None and positions.aligned is not None and positions.aligned % self.segment == 0:
            return *self._newest(k, v, positions, self.capacity - self.segment), staged
        if self._may_write_ahead(k, positions):
            return *self._write_ahead(staged), staged
        if self._may_write_rows_ahead(k):
            return *self._write_rows_ahead(staged), staged
        filled = self.start if self.start is not None and self.start <= self.capacity else None
        remembered = Positions(self.index[:, :filled], self.document[:, :filled], start=None if filled is None else 0)
        if filled is not None and positions.start is not None:
            remembered = Positions(remembered.index, None, start=0)
        keys = torch.cat([self.keys[:, :, :filled].to(k.dtype), k], 2)
        values = torch.cat([self.values[:, :, :filled].to(v.dtype), v], 2)
        if filled == 0:
            return k, v, positions, staged
        return keys, values, concatenate(remembered, positions), staged

    def _newest(self, k: Tensor, v: Tensor, positions: Positions, many: int) -> tuple[Tensor, Tensor, Positions]:
        """The newest `many` that are remembered, and the fresh. Slots before the first ever written are empty."""
        slots = (self.written[:, None] - many + torch.arange(many, device=k.device)) % self.capacity

        def pick(held: Tensor, fresh: Tensor) -> Tensor:
            columns = slots[:, None, :, None].expand(-1, held.shape[1], -1, held.shape[3])
            return torch.cat([held.gather(2, columns).to(fresh.dtype), fresh], 2)

        remembered = Positions(self.index.gather(1, slots), self.document.gather(1, slots))
        return pick(self.keys, k), pick(self.values, v), replace(concatenate(remembered, positions), behind=many)

    def _may_write_ahead(self, k: Tensor, positions: Positions) -> bool:
        """Without autograd and with room, fresh entries may go straight to free slots, which nothing sees before commit."""
        static = self.start is not None and positions.start == self.start and positions.document is None
        return static and self._has_free_slots(k, self.start)

    def _may_write_rows_ahead(self, k: Tensor) -> bool:
        """The same where each row has slots of its own (prompts of different lengths); an empty ring needs no slots."""
        return self.most is not None and self.start != 0 and self._has_free_slots(k, self.most)

    def _has_free_slots(self, k: Tensor, after: int | None) -> bool:
        if after is None or torch.is_grad_enabled() or torch.compiler.is_compiling():
            return False
        return after + k.shape[2] <= self.capacity and k.dtype == self.keys.dtype

    def _write_ahead(self, staged: StagedEntries) -> tuple[Tensor, Tensor, Positions]:
        assert self.start is not None
        stop = self.start + staged.k.shape[2]
        self.keys[:, :, self.start : stop] = staged.k
        self.values[:, :, self.start : stop] = staged.v
        self.fresh = staged
        return self.keys[:, :, :stop], self.values[:, :, :stop], staged.positions.from_the_start

    def _write_rows_ahead(self, staged: StagedEntries) -> tuple[Tensor, Tensor, Positions]:
        """What is not there (index -1) stands behind the row's tokens, where the next call writes over it."""
        assert self.most is not None
        p, stop = staged.positions.rows(self.index.shape[0]), self.most + staged.k.shape[2]
        absent = ~p.present
        order = torch.where(absent, absent.cumsum(-1) + p.present.sum(-1, keepdim=True), p.present.cumsum(-1)) - 1
        staged.slots = slots = self.written[:, None] + order
        row = torch.arange(len(slots), device=slots.device)[:, None]
        self.keys[row, :, slots] = staged.k.transpose(1, 2)
        self.values[row, :, slots] = staged.v.transpose(1, 2)
        self.fresh = staged
        index = self.index[:, :stop].scatter(1, slots, p.index)
        document = None if p.document is None else self.document[:, :stop].scatter(1, slots, p.document)
        return self.keys[:, :, :stop], self.values[:, :, :stop], Positions(index, document)

    def map_rows(self, function: Callable[[Tensor], Tensor]) -> KeyValueRing:
        mapped = {name: function(tensor) for name, tensor in self.tensors().items()}
        return replace(self, **mapped, fresh=None)

    def reset(self, rows: Tensor) -> KeyValueRing:
        index, written = self.index.masked_fill(rows[:, None], EMPTY), self.written.masked_fill(rows, 0)
        start = 0 if bool(rows.all()) and self.start is not None else None
        return replace(self, index=index, written=written, start=start, fresh=None)

    def keep(self, length: int) -> KeyValueRing:
        """Raises StateError where the ring has wrapped around and forgotten the beginning."""
        if self.start is None or self.start > self.capacity:
            raise StateError(f"a window of {self.capacity} tokens has forgotten the beginning of its text")
        index, written = self.index.masked_fill(self.index >= length, EMPTY), self.written.clamp(max=length)
        return replace(self, index=index, written=written, start=length, most=length, fresh=None)

    def dynamic(self) -> KeyValueRing:
        return replace(self, start=None, most=None, fresh=None)

    def tensors(self) -> dict[str, Tensor]:
        names = ("keys", "values", "index", "document", "written")
        return {name: getattr(self, name) for name in names}

    def with_tensors(self, tensors: dict[str, Tensor]) -> KeyValueRing:
        most = int(tensors["written"].max())
        return replace(self, **tensors, start=None, most=most, fresh=None)


def too_long(room: int, given: int) -> StateError:
    """A text outgrew a state that was to hold all of it."""
    return StateError(
        f"a state made for {room} tokens was given {given}",
        "at most as many as max_length",
        "make it with model.init_state(batch_size, max_length) for the whole text",
    )


@dataclass
class StagedEntries:
    """Keys and values of one call, not yet remembered."""

    ring: KeyValueRing
    k: Tensor
    v: Tensor
    positions: Positions
    slots: Int[Tensor, "batch fresh"] | None = None  # where rows that have slots of their own were written ahead

    def commit(self) -> KeyValueRing:
        """The newest entries take their slots; padding (index -1) takes none."""
        ring, positions = self.ring, self.positions
        length = self.k.shape[2]
        if ring.start is not None and positions.start == ring.start and ring.start + length <= ring.capacity:
            return self._commit_run(ring.start, ring.start + length)
        if self.slots is not None and ring.fresh is self:
            return self._commit_written(self.slots)
        return self._commit_rows()

    def _commit_run(self, start: int, stop: int) -> KeyValueRing:
        """Every row writes the same slots: slices, and nothing at all to do for keys that were written ahead."""
        ring, positions = self.ring, self.positions
        if ring.fresh is not self:
            ring.keys[:, :, start:stop] = self.k.detach()
            ring.values[:, :, start:stop] = self.v.detach()
        ring.index[:, start:stop] = positions.index
        if positions.document is not None:
            ring.document[:, start:stop] = positions.document
        written = ring.written + (stop - start)
        return replace(ring, written=written, start=stop, most=stop, fresh=None)

    def _commit_written(self, slots: Tensor) -> KeyValueRing:
        """Keys and values stand in their slots already."""
        ring, p = self.ring, self.positions.rows(self.ring.index.shape[0])
        ring.index.scatter_(1, slots, p.index)
        if p.document is not None:
            ring.document.scatter_(1, slots, p.document)
        return self._advanced(ring.written + p.present.sum(-1))

    def _commit_rows(self) -> KeyValueRing:
        """Each row writes its own slots."""
        ring = self.ring
        p = self.positions.rows(ring.index.shape[0])
        present = p.present
        order = present.cumsum(-1)  # 1 for the first real token of the row
        total = order[:, -1:]
        if ring.overflow == "refuse" and int((ring.written + total[:, 0]).max()) > ring.capacity:
            raise too_long(ring.capacity, int((ring.written + total[:, 0]).max()))
        keep = present & (order > total - ring.capacity)  # only the newest can stay
        row, column = keep.nonzero(as_tuple=True)
        slot = (ring.written[row] + order[row, column] - 1) % ring.capacity
        ring.keys[row, :, slot] = self.k.detach().to(ring.keys.dtype)[row, :, column]
        ring.values[row, :, slot] = self.v.detach().to(ring.values.dtype)[row, :, column]
        ring.index[row, slot] = p.index[row, column]
        ring.document[row, slot] = 0 if p.document is None else p.document[row, column]
        return self._advanced(ring.written + total[:, 0])

    def _advanced(self, written: Tensor) -> KeyValueRing:
        ring = self.ring
        most = None if ring.most is None else ring.most + self.k.shape[2]
        return replace(ring, written=written, start=None, most=most, fresh=None)
