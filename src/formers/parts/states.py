"""States: what a model remembers between calls. Time belongs to the loop, visibility to positions.

A forward reads a state and returns a *staged* one; nothing changes until the loop says ``state = out.state.commit()``.

    state = model.init_state(batch_size, max_length)
    out = model(first_ids, state=state)
    state = out.state.commit()              # now the first ids are remembered
    out = model(next_ids, state=state)      # run it twice from one state: the same output, loss and gradients

Not committing is rolling back. A handle that a commit has superseded raises when it is used again, because its buffers
have moved on. Commit outside compiled and recomputed regions, and after the backward pass.

A state is a tree: :class:`State` holds, for each *application* of a block, a node for each sublayer that remembers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from formers.errors import StateError
from formers.parts.positions import EMPTY, Positions, concatenate


@runtime_checkable
class Node(Protocol):
    """What one sublayer remembers. Every method but `advance` leaves the node as it was and returns a new one."""

    def map_rows(self, function: Callable[[Tensor], Tensor]) -> Node:
        """The node with `function` applied to every tensor, whose first axis is the batch."""
        ...

    def reset(self, rows: Bool[Tensor, " batch"]) -> Node:
        """The node with those rows empty."""
        ...

    def dynamic(self) -> Node:
        """The node promising nothing of how much it holds."""
        ...

    def tensors(self) -> dict[str, Tensor]: ...

    def with_tensors(self, tensors: dict[str, Tensor]) -> Node: ...


@runtime_checkable
class Staged(Protocol):
    """What a sublayer would remember after this forward."""

    def commit(self) -> Node:
        """The advanced node. It may take over the buffers of the node it came from."""
        ...


Tree = tuple[tuple[Any, ...], ...]
"""Per application of a block, per sublayer: a node (or staged node), or None where nothing is remembered."""


def map_tree(tree: Tree, function: Callable[[Any], Any]) -> Tree:
    return tuple(tuple(None if node is None else function(node) for node in block) for block in tree)


def _nodes(tree: Tree) -> Iterator[tuple[str, Any]]:
    for i, block in enumerate(tree):
        for j, node in enumerate(block):
            if node is not None:
                yield f"{i}.{j}", node


@dataclass
class State:
    """A model's memory of the text so far.

    nodes       the tree of what sublayers remember
    next_index  Int [batch]  where each row goes on when a call gives no positions
    document    Int [batch]  the document each row is in; None while positions carry no documents
    start       the promise that every row has seen exactly `start` tokens of one document; None: nothing is promised
                (compiled code should not specialise on a number that changes: see `dynamic`)
    """

    nodes: Tree
    next_index: Int[Tensor, " batch"]
    document: Int[Tensor, " batch"] | None = None
    start: int | None = 0
    superseded: bool = False

    @property
    def batch_size(self) -> int:
        return self.next_index.shape[0]

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors that the state holds."""
        return sum(t.numel() * t.element_size() for t in self.tensors().values())

    def check(self, batch_size: int) -> None:
        """Raise StateError where the state cannot serve this call."""
        if self.superseded:
            raise StateError(_SUPERSEDED, "the state that the last commit returned", "keep what commit() returns")
        if batch_size != self.batch_size:
            raise StateError(
                f"a state of {self.batch_size} rows was used with a batch of {batch_size}",
                do="select(rows) or fork(n) the state, or make one with model.init_state(batch_size, max_length)",
            )

    def continue_from(self, length: int) -> Positions:
        """Positions of the next `length` tokens, each row going on where it is."""
        if self.start is not None:
            return Positions.offset(self.start, length, device=self.next_index.device)
        positions = Positions.going_on(self.next_index, length)
        document = None if self.document is None else self.document[:, None].expand(-1, length)
        return Positions(positions.index, document)

    def dynamic(self) -> State:
        """The same state promising nothing of its length: every call then has the same shapes, as compiled code likes."""
        document = torch.zeros_like(self.next_index) if self.document is None else self.document
        nodes = map_tree(self.nodes, lambda node: node.dynamic())
        return self._moved_to(State(nodes, self.next_index, document, None))

    def select(self, rows: Int[Tensor, " selected"]) -> State:
        """A new state with these rows (repeated or reordered as asked, as beam search needs). This one stays valid."""
        return self._map_rows(lambda t: t.index_select(0, rows))

    def fork(self, n: int) -> State:
        """A new state in which every row stands `n` times in a row. This one stays valid."""
        return self._map_rows(lambda t: t.repeat_interleave(n, 0))

    def detach(self) -> State:
        """A copy without gradient history."""
        return self._map_rows(lambda t: t.detach().clone())

    def to(self, *args: Any, **kwargs: Any) -> State:
        """A copy on another device or of another floating-point type; positions keep their type."""

        def move(t: Tensor) -> Tensor:
            moved = t.to(*args, **kwargs)
            return moved if t.is_floating_point() else moved.to(t.dtype)

        return self._map_rows(move)

    def reset(self, rows: Bool[Tensor, " batch"]) -> State:
        """The state with those rows empty and back at index 0. Supersedes this handle."""
        if not bool(rows.any()):
            return self
        nodes = map_tree(self.nodes, lambda node: node.reset(rows))
        start = 0 if bool(rows.all()) and self.start is not None else None
        return self._moved_to(State(nodes, self.next_index.masked_fill(rows, 0), self.document, start))

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor by name, as a checkpoint stores them."""
        named = {"next_index": self.next_index}
        if self.document is not None:
            named["document"] = self.document
        for path, node in _nodes(self.nodes):
            named.update({f"{path}.{name}": tensor for name, tensor in node.tensors().items()})
        return named

    def from_tensors(self, tensors: dict[str, Tensor]) -> State:
        """A state like this one (same model, batch and length) holding the tensors that `tensors()` gave."""
        mine = self.tensors()
        optional = {"document"}
        wrong = sorted((mine.keys() ^ tensors.keys()) - optional)
        wrong += [
            f"{n} {tuple(tensors[n].shape)}, not {tuple(mine[n].shape)}"
            for n in mine.keys() & tensors.keys()
            if tensors[n].shape != mine[n].shape
        ]
        if wrong:
            raise StateError(
                f"a stored state does not fit: {', '.join(wrong)}", do="use the model and batch size it was stored with"
            )

        def load(path: str, node: Any) -> Any:
            return node.with_tensors({n[len(path) + 1 :]: t for n, t in tensors.items() if n.startswith(path + ".")})

        loaded = {path: load(path, node) for path, node in _nodes(self.nodes)}
        nodes = tuple(tuple(loaded.get(f"{i}.{j}") for j in range(len(block))) for i, block in enumerate(self.nodes))
        return State(nodes, tensors["next_index"], tensors.get("document"), None)

    def commit(self) -> State:
        raise StateError(
            "commit() was called on a state that nothing was staged on",
            "the state that a forward returned",
            "out = model(input_ids, state=state); state = out.state.commit()",
        )

    def _map_rows(self, function: Callable[[Tensor], Tensor]) -> State:
        if self.superseded:
            self.check(self.batch_size)
        nodes = map_tree(self.nodes, lambda node: node.map_rows(function))
        document = None if self.document is None else function(self.document)
        return State(nodes, function(self.next_index), document, self.start)

    def _moved_to(self, successor: State) -> State:
        """`successor` takes over this state's buffers, so this handle may not be used again."""
        self.check(self.batch_size)
        self.superseded = True
        return successor


@dataclass
class StagedState:
    """What a forward would make of a state. `commit()` makes it so; dropping it rolls back."""

    origin: State
    staged: Tree
    positions: Positions

    def commit(self) -> State:
        """Advance: returns the new state and supersedes the one the forward was given."""
        origin = self.origin
        origin.check(origin.batch_size)
        with torch.no_grad():
            nodes = tuple(
                tuple(old if new is None else new.commit() for old, new in zip(olds, news, strict=True))
                for olds, news in zip(origin.nodes, self.staged, strict=True)
            )
            return origin._moved_to(State(nodes, *self._where_next()))

    def _where_next(self) -> tuple[Tensor, Tensor | None, int | None]:
        origin, positions = self.origin, self.positions
        if positions.start is not None and origin.start is not None:
            reached = positions.start + positions.length
            return torch.full_like(origin.next_index, reached), origin.document, reached
        rows = positions.rows(origin.batch_size)
        steps = torch.arange(1, positions.length + 1, device=rows.index.device)
        last = (rows.present * steps).amax(-1)  # 0 where a row has no token in this call
        found, column = last > 0, (last - 1).clamp(min=0)[:, None]
        next_index = torch.where(found, rows.index.gather(1, column)[:, 0] + 1, origin.next_index)
        if rows.document is None:
            return next_index, origin.document, None
        before = torch.zeros_like(next_index) if origin.document is None else origin.document
        return next_index, torch.where(found, rows.document.gather(1, column)[:, 0], before), None


_SUPERSEDED = """this state was superseded by a commit and its buffers have moved on. The mistake usually reads

    out = model(ids, state=state)
    out.state.commit()                 # <- the new state is thrown away
    out = model(more, state=state)     # <- the old handle is used again

and should read

    out = model(ids, state=state)
    state = out.state.commit()
    out = model(more, state=state)
"""


# --- the key-value ring -----------------------------------------------------------------------------------------------


@dataclass
class KeyValueRing:
    """The newest `capacity` keys and values of one attention layer, with their positions.

    keys      [batch, kv_heads, capacity, d_head]     values  [batch, kv_heads, capacity, d_value]
    index     Int [batch, capacity]  place in the document, -1 empty         document  Int [batch, capacity]
    written   Int [batch]  tokens ever written: the next goes to slot written % capacity
    start     the promise that every row has written exactly tokens 0 .. start-1; None: nothing is promised
    overflow  "wrap" forgets the oldest (a window); "refuse" raises at commit (a cache that must hold everything)
    """

    keys: Tensor
    values: Tensor
    index: Int[Tensor, "batch capacity"]
    document: Int[Tensor, "batch capacity"]
    written: Int[Tensor, " batch"]
    start: int | None = 0
    overflow: str = "wrap"
    fresh: Any = None  # the staged entries that now stand in the free slots after `start`, if any

    @classmethod
    def empty(
        cls, batch: int, heads: int, capacity: int, d_key: int, d_value: int, *, overflow: str = "wrap", **kind: Any
    ) -> KeyValueRing:
        device = kind.get("device")
        return cls(
            torch.zeros(batch, heads, capacity, d_key, **kind),
            torch.zeros(batch, heads, capacity, d_value, **kind),
            torch.full((batch, capacity), EMPTY, device=device),
            torch.zeros(batch, capacity, dtype=torch.long, device=device),
            torch.zeros(batch, dtype=torch.long, device=device),
            overflow=overflow,
        )

    @property
    def capacity(self) -> int:
        return self.index.shape[1]

    def extend(self, k: Tensor, v: Tensor, positions: Positions) -> tuple[Tensor, Tensor, Positions, StagedEntries]:
        """All keys and values that queries of this call may see, remembered ones first, and what to commit."""
        staged = StagedEntries(self, k, v, positions)
        if self._may_write_ahead(k, positions):
            return *self._write_ahead(staged), staged
        filled = self.start if self.start is not None and self.start <= self.capacity else None
        remembered = Positions(self.index[:, :filled], self.document[:, :filled], start=None if filled is None else 0)
        if filled is not None and positions.start is not None:
            remembered = Positions(remembered.index, None, start=0)
        keys = torch.cat([self.keys[:, :, :filled].to(k.dtype), k], 2)
        values = torch.cat([self.values[:, :, :filled].to(v.dtype), v], 2)
        if filled == 0:
            return k, v, positions, staged
        return keys, values, concatenate(remembered, positions), staged

    def _may_write_ahead(self, k: Tensor, positions: Positions) -> bool:
        """Without autograd and with room, fresh entries may go straight to free slots, which nothing sees before commit."""
        static = self.start is not None and positions.start == self.start and positions.document is None
        if not static or torch.is_grad_enabled() or torch.compiler.is_compiling():
            return False
        return self.start + k.shape[2] <= self.capacity and k.dtype == self.keys.dtype  # type: ignore[operator]

    def _write_ahead(self, staged: StagedEntries) -> tuple[Tensor, Tensor, Positions]:
        assert self.start is not None
        stop = self.start + staged.k.shape[2]
        self.keys[:, :, self.start : stop] = staged.k
        self.values[:, :, self.start : stop] = staged.v
        self.fresh = staged
        positions = Positions.offset(0, stop, device=self.index.device)
        return self.keys[:, :, :stop], self.values[:, :, :stop], positions

    def map_rows(self, function: Callable[[Tensor], Tensor]) -> KeyValueRing:
        mapped = {name: function(tensor) for name, tensor in self.tensors().items()}
        return KeyValueRing(**mapped, start=self.start, overflow=self.overflow)

    def reset(self, rows: Tensor) -> KeyValueRing:
        index, written = self.index.masked_fill(rows[:, None], EMPTY), self.written.masked_fill(rows, 0)
        start = 0 if bool(rows.all()) and self.start is not None else None
        return KeyValueRing(self.keys, self.values, index, self.document, written, start, self.overflow)

    def dynamic(self) -> KeyValueRing:
        return KeyValueRing(**self.tensors(), start=None, overflow=self.overflow)

    def tensors(self) -> dict[str, Tensor]:
        names = ("keys", "values", "index", "document", "written")
        return {name: getattr(self, name) for name in names}

    def with_tensors(self, tensors: dict[str, Tensor]) -> KeyValueRing:
        return KeyValueRing(**tensors, start=None, overflow=self.overflow)


@dataclass
class StagedEntries:
    """Keys and values of one call, not yet remembered."""

    ring: KeyValueRing
    k: Tensor
    v: Tensor
    positions: Positions

    def commit(self) -> KeyValueRing:
        """The newest entries take their slots; padding (index -1) takes none."""
        ring, positions = self.ring, self.positions
        length = self.k.shape[2]
        if ring.start is not None and positions.start == ring.start and ring.start + length <= ring.capacity:
            return self._commit_run(ring.start, ring.start + length)
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
        return KeyValueRing(
            ring.keys, ring.values, ring.index, ring.document, ring.written + (stop - start), stop, ring.overflow
        )

    def _commit_rows(self) -> KeyValueRing:
        """Each row writes its own slots."""
        ring = self.ring
        p = self.positions.rows(ring.index.shape[0])
        present = p.present
        order = present.cumsum(-1)  # 1 for the first real token of the row
        total = order[:, -1:]
        if ring.overflow == "refuse" and int((ring.written + total[:, 0]).max()) > ring.capacity:
            longest = int((ring.written + total[:, 0]).max())
            raise StateError(
                f"a state made for {ring.capacity} tokens was given {longest}",
                "at most as many as max_length",
                "make it with model.init_state(batch_size, max_length) for the whole text",
            )
        keep = present & (order > total - ring.capacity)  # only the newest can stay
        row, column = keep.nonzero(as_tuple=True)
        slot = (ring.written[row] + order[row, column] - 1) % ring.capacity
        ring.keys[row, :, slot] = self.k.detach().to(ring.keys.dtype)[row, :, column]
        ring.values[row, :, slot] = self.v.detach().to(ring.values.dtype)[row, :, column]
        ring.index[row, slot] = p.index[row, column]
        ring.document[row, slot] = 0 if p.document is None else p.document[row, column]
        written = ring.written + total[:, 0]
        return KeyValueRing(ring.keys, ring.values, ring.index, ring.document, written, None, ring.overflow)
