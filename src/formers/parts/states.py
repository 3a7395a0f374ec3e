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
from formers.parts.positions import Positions
from formers.parts.rings import KeyValueRing as KeyValueRing
from formers.parts.rings import StagedEntries as StagedEntries


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

    def keep(self, length: int) -> Node:
        """The node as it was after the first `length` tokens. Raises StateError where it has forgotten that."""
        ...

    def tensors(self) -> dict[str, Tensor]: ...

    def with_tensors(self, tensors: dict[str, Tensor]) -> Node: ...


@runtime_checkable
class Staged(Protocol):
    """What a sublayer would remember after this forward. One that may refuse has a `check` beside, which raises before any
    sublayer's buffers have moved on."""

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

    def keep(self, length: int) -> State:
        """The state after the first `length` tokens of its rows, which all read as many of one document: what a prompt
        with the same beginning goes on from. Supersedes this handle. Raises StateError where that is not known any more."""
        if self.start is None or not 0 <= length <= self.start:
            read = "rows of different lengths or documents" if self.start is None else f"{self.start} tokens"
            raise StateError(f"keep({length}) of a state that has read {read}", "at most what every row has read")
        nodes = map_tree(self.nodes, lambda node: node.keep(length))
        return self._moved_to(State(nodes, torch.full_like(self.next_index, length), self.document, length))

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
        """Advance: returns the new state and supersedes the one the forward was given. Where that is refused with a StateError
        (numbers that are not finite in a memory), that one is as it was."""
        origin = self.origin
        origin.check(origin.batch_size)
        with torch.no_grad():
            for _, staged in _nodes(self.staged):
                if hasattr(staged, "check"):
                    staged.check()
            nodes = tuple(
                tuple(old if new is None else new.commit() for old, new in zip(olds, news, strict=True))
                for olds, news in zip(origin.nodes, self.staged, strict=True)
            )
            return origin._moved_to(State(nodes, *self._where_next()))

    def _where_next(self) -> tuple[Tensor, Tensor | None, int | None]:
        origin, positions = self.origin, self.positions
        if not positions.length:
            return origin.next_index, origin.document, origin.start
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
