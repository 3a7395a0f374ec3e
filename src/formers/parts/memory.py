"""The memory: keys and values that a layer made long ago, looked up by its queries (Memorizing Transformers, 2203.08913).

A memory holds, for each batch row, up to `slots` entries: a key and a value for every key/value head, the place of the
token that they came from, its document, and the entry's number. No gradient enters what is stored. A row's entries stand
in any order; the number says which is older. How vectors are held, what is forgotten and how it is searched are objects:
parts/storage.py, parts/forgetting.py, parts/search.py. Looking up is parts/looking.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from formers.axes import Keys, Queries, Values
from formers.errors import ConfigError, StateError
from formers.parts.forgetting import Held, Oldest, Policy
from formers.parts.looking import Found as Found
from formers.parts.looking import look_up, look_up_compiled
from formers.parts.masks import Mask
from formers.parts.positions import EMPTY, Positions
from formers.parts.rings import too_long
from formers.parts.search import Asked, Exact, Nearest, Search, Store
from formers.parts.storage import Plain, Vectors, storage_for


@dataclass
class Memory:
    """Up to `slots` entries a row.

    keys      [batch, kv_heads, slots, d_head]     values  [batch, kv_heads, slots, d_value], as parts/storage.py holds them
    index     Int [batch, slots]  place in the document, -1 empty         document  Int [batch, slots]
    number    Int [batch, slots]  entries are numbered in the order they were written; -1 empty
    written   Int [batch]  entries ever written to the row
    hits      Int [batch, slots]  how often each was found, last_hit: what `written` was then; None: not counted
    policy    what goes when it is full        search  how it is searched
    overflow  "forget": what the policy says goes; "refuse": what there is no room for raises (a memory that must hold all)
    read_only nothing may be written, and a reset at the start of a document leaves it as it is
    stride    of so many tokens one is written: the last of every `stride` of its document, however the text is cut
    """

    keys: Vectors
    values: Vectors
    index: Int[Tensor, "batch slots"]
    document: Int[Tensor, "batch slots"]
    number: Int[Tensor, "batch slots"]
    written: Int[Tensor, " batch"]
    hits: Int[Tensor, "batch slots"] | None = None
    last_hit: Int[Tensor, "batch slots"] | None = None
    policy: Policy = Oldest()  # noqa: RUF009 - frozen
    search: Search = Exact()  # noqa: RUF009
    overflow: str = "forget"
    read_only: bool = False
    stride: int = 1
    built: dict[int, Any] = field(default_factory=dict, repr=False)  # what a search has made of each row

    @classmethod
    def empty(
        cls,
        batch: int,
        heads: int,
        slots: int,
        d_key: int,
        d_value: int,
        *,
        policy: Policy = Oldest(),  # noqa: B008 - frozen
        search: Search = Exact(),  # noqa: B008
        overflow: str = "forget",
        stride: int = 1,
        storage: torch.dtype | None = None,
        **kind: Any,
    ) -> Memory:
        """kind: dtype and device of the keys and values. storage: the type they are held in, where it is another; with
        torch.int8 each vector has a scale."""
        if slots < 1 or stride < 1:
            raise ConfigError(f"a memory of {slots} entries, one of {stride} tokens", "1 or more of each")
        device, dtype = kind.get("device"), storage or kind.get("dtype")
        make, where = storage_for(dtype).empty, {"dtype": dtype, "device": device}
        counts = [torch.zeros(batch, slots, dtype=torch.long, device=device) for _ in range(2 * policy.counts)]
        return cls(
            make(batch, heads, slots, d_key, **where),
            make(batch, heads, slots, d_value, **where),
            torch.full((batch, slots), EMPTY, device=device),
            torch.zeros(batch, slots, dtype=torch.long, device=device),
            torch.full((batch, slots), EMPTY, device=device),
            torch.zeros(batch, dtype=torch.long, device=device),
            *counts,
            policy=policy,
            search=search,
            overflow=overflow,
            stride=stride,
        )

    @property
    def slots(self) -> int:
        return self.index.shape[1]

    @property
    def positions(self) -> Positions:
        return Positions(self.index, self.document)

    @property
    def held(self) -> Int[Tensor, " batch"]:
        """Entries in each row."""
        return (self.number >= 0).sum(-1)

    @property
    def nbytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in self.tensors().values())

    # --- reading ------------------------------------------------------------------------------------------------------

    def look_up(self, q: Queries, positions: Positions, *, mask: Mask, k: int) -> Nearest:
        """The `k` entries of largest inner product with each query, among those the mask lets it see. Changes nothing."""
        return self.search.search(Asked(q.detach(), positions, mask, k), self.store)

    @property
    def store(self) -> Store:
        return Store(self.keys, self.values, self.positions, self.number, self.built)

    # --- writing ------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def add(
        self,
        k: Keys,
        v: Values,
        positions: Positions,
        *,
        rows: Int[Tensor, " some"] | None = None,
        found: Int[Tensor, "some heads queries k"] | None = None,
    ) -> Memory:
        """The memory with new entries. Padding (index -1) and what `stride` leaves out are not written. Takes over this
        memory's buffers.

        rows   to which rows of the memory the rows of k and v go, each at most once; None: to their own
        found  slots that a look-up before found, to be counted; others than 0 .. slots-1 count for nothing

        Raises StateError, with nothing written, where the memory is read-only, a number is not finite in its storage, or there
        is no room and nothing may be forgotten.
        """
        self.check(k, v, positions, rows=rows)
        return self._written(k, v, positions, rows=rows, found=found)

    def _written(
        self, k: Keys, v: Values, positions: Positions, *, rows: Tensor | None, found: Tensor | None
    ) -> Memory:
        rows = self._rows(rows, len(k))
        p = positions.rows(len(rows))
        written = self._writes(p)
        order = written.cumsum(-1)  # 1 for the first new entry of the row
        total = order[:, -1:]
        stays = written & (order > total - self.slots)
        row, column = stays.nonzero(as_tuple=True)
        fresh_k, fresh_v = k.detach()[row, :, column], v.detach()[row, :, column]
        if found is not None:
            self._count(found, rows)
        document = torch.zeros_like(p.index) if p.document is None else p.document
        cleared = self._make_room(rows, stays, document)
        slot = cleared[row, (order - 1 - (total - self.slots).clamp(min=0))[row, column]]
        to = rows[row]
        self.keys.write(to, slot, fresh_k)
        self.values.write(to, slot, fresh_v)
        self.index[to, slot] = p.index[row, column]
        self.document[to, slot] = document[row, column]
        self.number[to, slot] = self.written[to] + order[row, column] - 1
        ever = self.written.index_add(0, rows, total[:, 0])
        if self.hits is not None and self.last_hit is not None:
            self.hits[to, slot], self.last_hit[to, slot] = 0, ever[to]
        return replace(self, written=ever)

    def _writes(self, positions: Positions) -> Bool[Tensor, "some seq"]:
        """Which tokens become entries."""
        if self.stride == 1:
            return positions.present
        return positions.present & (positions.index % self.stride == self.stride - 1)

    def _count(self, slots: Tensor, rows: Tensor) -> None:
        if self.hits is None or self.last_hit is None:
            return
        flat = slots.flatten(1)
        flat = torch.where((flat >= 0) & (flat < self.slots), flat, self.slots)
        times = torch.zeros(len(flat), self.slots + 1, dtype=torch.long, device=flat.device)
        times = times.scatter_add_(1, flat, torch.ones_like(flat))[:, : self.slots]
        self.hits.index_add_(0, rows, times)
        self.last_hit[rows] = torch.where(times > 0, self.written[rows, None], self.last_hit[rows])

    def _rows(self, rows: Tensor | None, many: int) -> Tensor:
        if self.read_only:
            raise StateError(
                "a read-only memory was to be written", do="recall(.., write=False), or make a copy to write"
            )
        given = rows is not None and len(rows) > 0
        if rows is None:
            rows = torch.arange(len(self.index), device=self.index.device)
        if len(rows) != many or len(rows.unique()) != len(rows):
            raise StateError(f"{many} rows of keys for rows {rows.tolist()} of a memory", "one for each, and each once")
        if given and not 0 <= int(rows.min()) <= int(rows.max()) < len(self.index):
            raise StateError(f"rows {rows.tolist()} of a memory", f"0 to {len(self.index) - 1}")
        return rows

    def check(self, k: Keys, v: Values, positions: Positions, *, rows: Tensor | None = None) -> None:
        """Raise what `add` would raise."""
        rows = self._rows(rows, len(k))
        written = self._writes(positions.rows(len(rows)))
        row, column = written.nonzero(as_tuple=True)
        fresh = (("keys", self.keys, k), ("values", self.values, v))
        for name, held, x in fresh:
            if (x.shape[1], x.shape[-1]) != (held.shape[1], held.shape[-1]):
                given, wanted = ([shape[1], shape[-1]] for shape in (x.shape, held.shape))
                raise StateError(f"{name} of {given[0]} heads of {given[1]} numbers", f"{wanted[0]} of {wanted[1]}")
        bad = [name for name, held, x in fresh if not held.finite(x.detach()[row, :, column])]
        if bad:
            raise StateError(
                f"{' and '.join(bad)} that are NaN or infinite were to be written to a memory of {self.keys.dtype}",
                "finite numbers; the memory is as it was",
                "look for the step at which the model's numbers broke, or keep the memory in a wider type",
            )
        if self.overflow == "refuse" and int((self.held[rows] + written.sum(-1)).max()) > self.slots:
            raise too_long(self.slots * self.stride, int((self.held[rows] + written.sum(-1)).max()) * self.stride)

    def _make_room(self, rows: Tensor, stays: Bool[Tensor, "some seq"], document: Tensor) -> Int[Tensor, "some most"]:
        """Slots for the new entries of each row, free ones first; what stood there is gone."""
        new = stays.sum(-1)
        counted = (None, None) if self.hits is None or self.last_hit is None else (self.hits[rows], self.last_hit[rows])
        held = Held(self.number[rows], self.document[rows], *counted)
        place = torch.arange(self.slots, device=new.device)
        rank = torch.where(held.number >= 0, self.policy.rank(held), place - self.slots)
        most = int(new.max()) if len(new) else 0
        slot = rank.topk(most, largest=False, sorted=True).indices
        needed = torch.arange(most, device=new.device) < new[:, None]
        gone = torch.zeros_like(held.number, dtype=torch.bool).scatter_(1, slot, needed) & (held.number >= 0)
        also = self.policy.also(
            held, gone, torch.where(stays, document, document.gather(1, stays.long().argmax(-1)[:, None]))
        )
        self._forget(rows, also)
        return slot

    def _forget(self, rows: Tensor, gone: Tensor) -> None:
        row, slot = gone.nonzero(as_tuple=True)
        self.index[rows[row], slot] = EMPTY
        self.number[rows[row], slot] = EMPTY

    def remove(self, row: int, *, numbers: Iterable[int] | Tensor | None = None, document: int | None = None) -> Memory:
        """The memory without those entries of a row: by number, or all of a document. Their slots are free; what is not
        there is no error."""
        if self.read_only:
            raise StateError("an entry of a read-only memory was to be removed", do="make a copy to write")
        if not 0 <= row < len(self.index):
            raise StateError(f"row {row} of a memory", f"0 to {len(self.index) - 1}")
        gone = torch.zeros_like(self.index, dtype=torch.bool)
        if numbers is not None:
            asked = numbers if isinstance(numbers, Tensor) else torch.tensor(list(numbers), dtype=torch.long)
            gone[row] = torch.isin(self.number[row], asked.to(self.number.device))
        if document is not None:
            gone[row] |= self.document[row] == document
        return self._without(gone)

    # --- the node of a state ------------------------------------------------------------------------------------------

    def map_rows(self, function: Callable[[Tensor], Tensor]) -> Memory:
        mapped = {name: function(t) for name, t in self.tensors().items() if not name.startswith(("keys", "values"))}
        return replace(self, keys=self.keys.map(function), values=self.values.map(function), **mapped, built={})

    def reset(self, rows: Bool[Tensor, " batch"]) -> Memory:
        """The memory with those rows empty, and numbering anew. A read-only memory stays as it is."""
        if self.read_only:
            return self
        built = {row: made for row, made in self.built.items() if not bool(rows[row])}
        return replace(self._without(rows[:, None]), written=self.written.masked_fill(rows, 0), built=built)

    def dynamic(self) -> Memory:
        return replace(self)

    def keep(self, length: int) -> Memory:
        """Without the entries of tokens from `length` on. Raises StateError where older ones had to go for them."""
        if self.read_only:
            return self
        if bool((self.written > self.slots).any()):
            raise StateError(f"a memory of {self.slots} entries has forgotten the beginning of its text")
        return self.map_rows(torch.clone)._without(self.index >= length)

    def _without(self, gone: Bool[Tensor, "#batch #slots"]) -> Memory:
        index, number = self.index.masked_fill(gone, EMPTY), self.number.masked_fill(gone, EMPTY)
        return replace(self, index=index, number=number)

    def tensors(self) -> dict[str, Tensor]:
        names = ("index", "document", "number", "written")
        counted = {} if self.hits is None or self.last_hit is None else {"hits": self.hits, "last_hit": self.last_hit}
        return (
            self.keys.tensors("keys")
            | self.values.tensors("values")
            | {name: getattr(self, name) for name in names}
            | counted
        )

    def with_tensors(self, tensors: dict[str, Tensor]) -> Memory:
        keys, values = self.keys.with_tensors("keys", tensors), self.values.with_tensors("values", tensors)
        others = {name: t for name, t in tensors.items() if not name.startswith(("keys", "values"))}
        return replace(self, keys=keys, values=values, **others, built={})


@dataclass
class StagedMemory:
    """Entries of one call, not yet written, and what the call found."""

    memory: Memory
    k: Tensor
    v: Tensor
    positions: Positions
    rows: Tensor | None = None
    slots: Tensor | None = None
    checked: bool = False

    def check(self) -> None:
        """Raise what `commit` would raise."""
        self.memory.check(self.k, self.v, self.positions, rows=self.rows)
        self.checked = True

    def commit(self) -> Memory:
        if not self.checked:
            self.check()
        return self.memory._written(self.k, self.v, self.positions, rows=self.rows, found=self.slots)


def recall(
    memory: Memory | None,
    q: Queries,
    k: Keys,
    v: Values,
    positions: Positions,
    *,
    mask: Mask,
    most: int,
    rows: Int[Tensor, " batch"] | None = None,
    shared: bool = False,
    write: bool = True,
    asking: Positions | None = None,
) -> tuple[Found, StagedMemory | None]:
    """Look up what the mask shows of the memory, and of the fresh keys and values of this call: first read, then write.

    What a query finds depends on positions alone: a call longer than a segment finds in its own earlier segments what
    a call for each segment would have found in the memory. `q` is scaled or not: only the order of scores matters.

    rows   which row of the memory each row of the call uses; None: its own. Two halves of a batch, one after the other, find
           and write what the whole would
    shared every row finds what stands in all rows of the memory, and of the call; it still writes to its own
    asking where the queries stand; None: each token of the call has one
    write  False, or a read-only memory: nothing is staged, and nothing is noted of what was found
    """
    here = positions.rows(len(q))
    fresh = fresh_store(memory, k, v, here)
    if shared and memory is not None and memory.policy.counts:
        raise StateError(
            f"a shared memory of which {memory.policy} goes by what is found", "one that counts no look-ups"
        )
    asked = Asked(q.detach(), here if asking is None else asking.rows(len(q)), mask, most, rows, shared)
    look = look_up_compiled if torch.compiler.is_compiling() or isinstance(q, FakeTensor) else look_up
    found, slots = look(
        asked, None if memory is None else memory.store, fresh, None if memory is None else memory.search
    )
    if memory is None or memory.read_only or not write:
        return found, None
    counted = slots if memory.policy.counts else None
    return found, StagedMemory(memory, k.detach(), v.detach(), positions, rows, counted)


def fresh_store(memory: Memory | None, k: Keys, v: Values, here: Positions) -> Store:
    """Keys and values of a call as they will read once they are written."""
    k, v = k.detach(), v.detach()
    if memory is not None:
        k, v = memory.keys.rounded(k), memory.values.rounded(v)
    return Store(Plain(k), Plain(v), here, here.index)


def memory_bytes(
    batch: int,
    heads: int,
    slots: int,
    d_key: int,
    d_value: int,
    *,
    dtype: torch.dtype = torch.float32,
    policy: Policy = Oldest(),  # noqa: B008
) -> int:
    """Bytes of a memory: keys and values in `dtype` (torch.int8: and a scale each), then three numbers for an entry, two
    more where the policy counts, and one for a row, of eight bytes each."""
    kind = storage_for(dtype)
    vectors = heads * (kind.bytes_each(d_key, dtype) + kind.bytes_each(d_value, dtype))
    return batch * (slots * (vectors + 8 * (3 + 2 * policy.counts)) + 8)
