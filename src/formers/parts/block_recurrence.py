"""Recurrence over blocks: a layer whose tokens also read state vectors, which take in block after block (2203.07852).

    block j of a document reads c_j        every token by itself, beside its attention to tokens near by
    c_{j+1} = cell(c_j, tokens of block j)        parts/state_cell.py

A block is `size` tokens of a document, by their positions: it is taken in when its last token is read, in whatever calls its
tokens came; those of earlier calls are among the remembered keys and values. So what a token is given does not depend on how
a text was cut. Gradients go through the state vectors from block to block of a call, and end where a call began, as those of
remembered keys do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from formers.axes import Hidden, Keys, Queries, Values
from formers.errors import StateError
from formers.parts.attend import attend
from formers.parts.attention import Attention, Score, Turn
from formers.parts.masks import Everything
from formers.parts.positions import EMPTY, Positions
from formers.parts.recurrence import by_segment
from formers.parts.rings import KeyValueRing
from formers.parts.state_cell import Ask, Looked, StateCell, States, turned
from formers.parts.taps import Tap

# --- where a document has got to ----------------------------------------------------------------------------------------


@dataclass
class Course:
    """State vectors as the next token finds them, and the last token that each row read.

    states    [batch, states, d_model]  of no meaning before a row's first block is whole: a document begins with learned ones
    index     Int [batch]  place of the last token in its document; -1: nothing was read
    document  Int [batch]
    """

    states: States
    index: Int[Tensor, " batch"]
    document: Int[Tensor, " batch"]

    def entering(self, run: Run, first: States, size: int) -> States:
        """What a run's tokens read: these where they go on with a document that has whole blocks, else what it begins with."""
        follows = (run.document == self.document) & (self.index >= size - 1) & (self.index < run.first)
        return torch.where((follows | ~run.any)[:, None, None], self.states.to(first.dtype), first)

    def goes_on_within(self, run: Run, size: int) -> bool:
        """Whether every row that has tokens goes on with the block it was in. Tensors are looked at."""
        same = (run.document == self.document) & (self.index >= 0) & (self.index < run.first)
        return bool(((same & (run.last // size == self.index // size)) | ~run.any).all())

    def behind(self, run: Run, states: States) -> Course:
        index = torch.where(run.any, run.last, self.index)
        return Course(states, index, torch.where(run.any, run.document, self.document))


@dataclass(frozen=True)
class Run:
    """Tokens of one block in each row: whether there are any, the places of the first and the last, and their document."""

    any: Bool[Tensor, "#batch"]
    first: Int[Tensor, "#batch"]
    last: Int[Tensor, "#batch"]
    document: Int[Tensor, "#batch"]

    @classmethod
    def of(cls, positions: Positions) -> Run:
        index, present = positions.index, positions.present
        least, most = torch.iinfo(index.dtype).min, torch.iinfo(index.dtype).max
        last = index.amax(-1)
        document = torch.zeros_like(index) if positions.document is None else positions.document
        document = document.masked_fill(~present, least).amax(-1)
        return cls(last >= 0, index.masked_fill(~present, most).amin(-1), last, document)

    def ends(self, size: int) -> Bool[Tensor, "#batch"]:
        """Which rows have read their block's last token."""
        return self.any & (self.last % size == size - 1)

    @property
    def place(self) -> Positions:
        """Where the last tokens stand."""
        return Positions(self.last[:, None], self.document[:, None])


def _may_end(run: Run, positions: Positions, size: int) -> bool:
    """Whether a block may be whole. Tensors are looked at where nothing is promised, but not while compiling."""
    if positions.start is not None:
        return (positions.start + positions.length) % size == 0
    if positions.aligned is not None or torch.compiler.is_compiling():
        return True
    return bool(run.ends(size).any())


def _begins_a_block(positions: Positions, size: int) -> bool:
    """Whether it is promised that no row is in the middle of a block."""
    known = positions.aligned if positions.start is None else positions.start
    return known is not None and known % size == 0


# --- the state ----------------------------------------------------------------------------------------------------------


@dataclass
class BlockNode:
    """What the layer remembers: keys and values near by, and the course of its state vectors.

    looked  what the maps made of the state vectors, while all rows are in the block for which it was made and nothing learns:
            a token read by itself would else cost as much as all of them do
    """

    local: KeyValueRing
    course: Course
    size: int
    looked: Looked | None = None

    def map_rows(self, function: Callable[[Tensor], Tensor]) -> BlockNode:
        course = Course(*(function(t) for t in vars(self.course).values()))
        return BlockNode(self.local.map_rows(function), course, self.size)

    def reset(self, rows: Tensor) -> BlockNode:
        course = replace(self.course, index=self.course.index.masked_fill(rows, EMPTY))
        return BlockNode(self.local.reset(rows), course, self.size)

    def dynamic(self) -> BlockNode:
        return replace(self, local=self.local.dynamic())

    def keep(self, length: int) -> BlockNode:
        """Raises StateError where a block behind `length` was taken in: state vectors do not say what they were before."""
        read = int(self.course.index.max()) + 1
        if length >= self.size and length // self.size < read // self.size:
            raise StateError(f"state vectors behind {read} tokens do not know what they were behind {length}")
        course = replace(self.course, index=self.course.index.clamp(max=length - 1))
        return BlockNode(self.local.keep(length), course, self.size)

    def tensors(self) -> dict[str, Tensor]:
        return {f"local.{name}": t for name, t in self.local.tensors().items()} | vars(self.course)

    def with_tensors(self, tensors: dict[str, Tensor]) -> BlockNode:
        local = {name.removeprefix("local."): t for name, t in tensors.items() if name.startswith("local.")}
        course = Course(*(tensors[name] for name in vars(self.course)))
        return BlockNode(self.local.with_tensors(local), course, self.size)


@dataclass
class StagedBlocks:
    """What the layer would remember after a call: nothing of it has a gradient."""

    node: BlockNode
    local: Any
    course: Course
    looked: Looked | None

    def commit(self) -> BlockNode:
        """In the types that the node had. What was made of state vectors that are rounded now is made anew."""
        states = self.course.states.to(self.node.course.states.dtype)
        looked = self.looked if states.dtype == self.course.states.dtype else None
        return BlockNode(self.local.commit(), replace(self.course, states=states), self.node.size, looked)


# --- the layer ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tokens:
    """Keys and values of tokens, and where they stand."""

    k: Keys
    v: Values
    positions: Positions

    def at(self, slots: Int[Tensor, "#batch chosen"]) -> Tokens:
        return Tokens(_columns(self.k, slots), _columns(self.v, slots), self.positions.at(slots))


class RecurrentAttention(Attention):
    """Attention to tokens near by and, in parallel, to state vectors. A sublayer: (x, positions, state, source) -> (y, staged).

    ask, turn_states  make the tokens' queries for state vectors; `mix` takes the heads of both attentions
    cell              makes the next state vectors of a block of `size` tokens
    before            0, or 1 where state vectors see the block before, too: `cell.mask` says the same
    """

    def __init__(
        self,
        project: nn.Module,
        score: Score,
        mix: nn.Module,
        *,
        ask: Ask,
        cell: StateCell,
        size: int,
        before: int,
        turn: Turn,
        turn_states: Turn,
        remember: Any,
        runner: str = "auto",
    ) -> None:
        super().__init__(project, score, mix, turn=turn, remember=remember, runner=runner)
        self.ask, self.cell, self.turn_states = ask, cell, turn_states
        self.size, self.before = size, before
        self.state_queries, self.state_pattern, self.from_states = Tap(), Tap(), Tap()

    def init_state(self, batch_size: int, max_length: int, **kind: Any) -> BlockNode:  # type: ignore[override]
        local = super().init_state(batch_size, max_length, **kind)
        assert local is not None
        nothing = torch.full((batch_size,), EMPTY, device=kind.get("device"))
        states = torch.zeros(batch_size, *self.cell.first.shape, **kind)
        return BlockNode(local, Course(states, nothing, torch.zeros_like(nothing)), self.size)

    def forward(  # type: ignore[override]
        self, x: Hidden, positions: Positions, state: BlockNode | None = None, source: Any = None
    ) -> tuple[Hidden, StagedBlocks | None]:
        q, k, v = self.project(x)
        q, k = self.turn(q, k, positions)  # type: ignore[misc]
        asked = self.state_queries(turned(self.turn_states, self.ask(x), positions))
        q, k, v = self.queries(self.score.scaled(q)), self.keys(k), self.values(v)
        fresh = seen = Tokens(k, v, positions)
        staged = None
        if state is not None:
            k, v, k_positions, staged = state.local.extend(k, v, positions)
            seen = Tokens(k, v, k_positions)
        near = self.weigh(q, seen.k, seen.v, positions, seen.positions)
        told, course, looked = self._through_blocks(asked, fresh, seen, state)
        y = self.mix(self.heads(torch.cat([near, self.from_states(told)], 1)))
        if state is None:
            return y, None
        return y, StagedBlocks(state, staged, replace(course, states=course.states.detach()), looked)

    def _through_blocks(
        self, asked: Queries, fresh: Tokens, seen: Tokens, state: BlockNode | None
    ) -> tuple[Tensor, Course, Looked | None]:
        """What each token reads of the state vectors of its block, block after block; their course behind the call; and what
        the maps made of them, where it holds for the next call."""
        pieces, found = by_segment(fresh.positions, self.size), []
        course = self._nothing(asked) if state is None else state.course
        looked = None if state is None or torch.is_grad_enabled() or torch.compiler.is_compiling() else state.looked
        for n, (slots, place) in enumerate(pieces):
            run = Run.of(place)
            if looked is None or not course.goes_on_within(run, self.size):
                looked = self.cell.look(course.entering(run, self.cell.begin(len(asked)), self.size))
            found.append(self._read(_columns(asked, slots), looked.k, looked.v, place))
            c = looked.c
            if (state is not None or n + 1 < len(pieces)) and _may_end(run, place, self.size):
                tokens = self._of_block(n, [slots for slots, _ in pieces], fresh, seen)
                after = self.cell.after(looked, tokens.k, tokens.v, run.place, tokens.positions)
                c, looked = torch.where(run.ends(self.size)[:, None, None], after, c), None
            course = course.behind(run, c)
        keeps = looked if not torch.is_grad_enabled() else None
        return _put_back(found, [slots for slots, _ in pieces], asked), course, keeps

    def _nothing(self, asked: Queries) -> Course:
        nothing = torch.full((len(asked),), EMPTY, device=asked.device)
        return Course(self.cell.begin(len(asked)), nothing, torch.zeros_like(nothing))

    def _read(self, q: Queries, k: Keys, v: Values, positions: Positions) -> Tensor:
        states = Positions.whole(k.shape[2], device=k.device)
        show = self.state_pattern if self.state_pattern.heard else None
        return attend(q, k.to(q.dtype), v.to(q.dtype), positions, states, mask=Everything(), show=show)

    def _of_block(self, n: int, slots: list[Tensor], fresh: Tokens, seen: Tokens) -> Tokens:
        """The tokens that state vectors may see of piece `n`: those of earlier calls are among what was remembered."""
        since = max(0, n - self.before)
        if since == 0 and (self.before or not _begins_a_block(fresh.positions, self.size)):
            return seen
        return fresh.at(torch.cat(slots[since : n + 1], 1))


def _columns(t: Tensor, slots: Int[Tensor, "#batch chosen"]) -> Tensor:
    """t [b, h, s, d] at `slots` of each row."""
    if len(slots) == 1:
        return t.index_select(2, slots[0].clamp(min=0))
    return t.gather(2, slots.clamp(min=0)[:, None, :, None].expand(-1, t.shape[1], -1, t.shape[3]))


def _put_back(found: list[Tensor], slots: list[Tensor], like: Tensor) -> Tensor:
    """What was found for the columns `slots`, as columns of `like`; 0 at padding."""
    whole = like.new_zeros(*like.shape[:2], like.shape[2] + 1, like.shape[3])  # one more for what is padding in a piece
    if not found:
        return whole[:, :, :-1]
    columns = torch.cat([s.expand(len(like), -1) for s in slots], 1)
    columns = torch.where(columns < 0, like.shape[2], columns)[:, None, :, None].expand(
        -1, *like.shape[1:2], -1, like.shape[3]
    )
    return whole.scatter(2, columns, torch.cat(found, 2))[:, :, :-1]
