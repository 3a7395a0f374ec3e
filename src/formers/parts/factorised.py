"""Factorised attention, the fast way: strided and fixed patterns in time and memory of n x sqrt(n) (1904.10509, section 4).

Masks say what a query sees; run dense they are the slow twin. Here the same masks are read off the algebra and run by
reshaping. Tokens are laid out in chunks of `stride`, a chunk a line of a grid:

    near, strided   the chunk and the one before it hold every key of the window
    near, fixed     the chunk itself, where chunks are the pattern's blocks; else also the one before it
    far, strided    the query's column of the grid: attention along columns
    far, fixed      the summary cells, gathered from all blocks
    both            one softmax over the two; a far key that stands among the near ones is left to them, so none counts twice

Near and far keys are candidates only: which of them a query sees is always asked of the mask, so padding, documents and
the edges of a text need no code of their own.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from formers.parts.kernels import Case, expand_groups, safe_softmax
from formers.parts.masks import Mask
from formers.parts.patterns import Pattern, recognise
from formers.parts.positions import EMPTY, Place, Positions

SCORES_AT_A_TIME = 1 << 25
"""Scores of near and far keys that are held at a time, where memory allows no more: 128 MB of float32."""

GROUPS = 8
"""Groups of chunks. A group meets the far keys before its end, so 8 groups compute 9/16 of what one would."""


def refusal(case: Case) -> str | None:
    """Why `factorised` cannot do the case; None if it can."""
    pattern = recognise(case.mask)
    if pattern is None:
        return (
            "the mask is none of the strided and fixed sets (Causal() & Strided(l), Causal() & Fixed(l, c), or a half)"
        )
    if case.terms or case.dropout or case.show is not None:
        return "score terms, dropout of the weights and taps on the pattern are not implemented there"
    if case.q.shape[2] != case.k.shape[2] or not _same(case.q_positions, case.k_positions):
        return "queries and keys are not the same tokens"
    if case.q_positions.document is not None and not pattern.documents:
        return "documents see each other"
    if not case.q_positions.in_runs:
        return "the tokens of a document do not stand side by side"
    return None


def worth(case: Case) -> bool:
    """Whether `factorised` can do the case, and pays."""
    return pays(case) and refusal(case) is None


def pays(case: Case) -> bool:
    """Whether the pattern looks at less than half of the keys that a plain kernel would. Looks at no tensor."""
    pattern = recognise(case.mask)
    if pattern is None:
        return False
    length, stride = case.k.shape[2], pattern.stride
    near = stride * (1 if pattern.fixed else 2) * pattern.near
    far = length // stride * (pattern.columns[1] if pattern.columns else 1) * pattern.far
    return length > 2 * stride and 2 * (near + far) <= length


def _same(q: Positions, k: Positions) -> bool:
    return q is k or (q.start is not None and q.start == k.start and q.length == k.length)


# --- the grid -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Grid:
    """Tokens in chunks of the stride. A line of padding stands before the first, so that every chunk has one before it.

    q, k, v  [b, 1 + chunks, stride, heads, d]     index, document  [1 or b, 1 + chunks, stride]
    back     whether near keys may stand in the chunk before
    whole    the promise that tokens are start, start+1, .. in every row
    """

    q: Tensor
    k: Tensor
    v: Tensor
    index: Tensor
    document: Tensor | None
    mask: Mask
    pattern: Pattern
    back: bool
    whole: bool

    @property
    def chunks(self) -> int:
        return self.q.shape[1] - 1

    def near(self, t: Tensor, chunks: slice) -> Tensor:
        """Of [b, 1 + chunks, stride, ..]: what stands in these chunks, behind what stands before them."""
        own = t[:, chunks.start + 1 : chunks.stop + 1]
        return torch.cat([t[:, chunks.start : chunks.stop], own], 2) if self.back else own

    def place(self, shape: Callable[[Tensor], Tensor]) -> Place:
        return Place(shape(self.index), None if self.document is None else shape(self.document), None)

    def visible(self, q: Place, k: Place) -> Tensor:
        return self.mask.allows(q, k) & (q.index >= 0) & (k.index >= 0)

    def near_visible(self, chunks: slice) -> Tensor:
        """Of queries and near keys [1 or b, chunks, stride, keys]. Where chunks all stand whole, one mask serves all but the
        first, which has padding before it: padding at the end is behind every query. Then [1, 1, stride, keys]."""
        return self.visible(*_near_places(self, slice(1, 2) if self.whole and chunks.start else chunks))

    def groups(self) -> list[slice]:
        """Chunks that are run together: few enough that their scores fit, and that, where far keys are more than near ones,
        those behind them are left out."""
        b, stride, heads = self.q.shape[0], *self.q.shape[2:4]
        far = self.chunks * (self.pattern.columns[1] if self.pattern.columns else 1) * self.pattern.far
        fits = SCORES_AT_A_TIME // (b * heads * stride * (2 * stride + far))
        size = max(1, min(fits, -(-self.chunks // (GROUPS if far > 2 * stride else 1))))
        starts = [0, *range(1, self.chunks, size)] if self.whole else [*range(0, self.chunks, size)]
        return [slice(i, j) for i, j in itertools.pairwise([*starts, self.chunks])]


def _lay_out(case: Case, pattern: Pattern) -> tuple[_Grid, int]:
    """The grid, and the cells before the first token: with them chunks are the fixed pattern's blocks."""
    stride, start, length = pattern.stride, case.q_positions.start, case.q.shape[2]
    front = start % stride if pattern.fixed and start is not None else 0
    pad = (stride + front, -(front + length) % stride)

    def grid(t: Tensor) -> Tensor:  # [b, h, t, d] -> [b, lines, stride, h, d]
        return F.pad(t.transpose(1, 2), (0, 0, 0, 0, *pad)).unflatten(1, (-1, stride))

    def line(t: Tensor) -> Tensor:
        return F.pad(t, pad, value=EMPTY).unflatten(1, (-1, stride))

    p = case.q_positions
    document = None if p.document is None else line(p.document)
    k, v = expand_groups(case.k, case.q), expand_groups(case.v, case.q)
    back = not (pattern.fixed and p.start is not None)
    tensors = grid(case.q), grid(k), grid(v), line(p.index), document
    return _Grid(*tensors, case.mask, pattern, back, p.start is not None), front


def factorised(case: Case) -> Tensor:
    """Attention outputs [b, h, t, d_value] as `dense` gives them, of a case that is not refused (`attend` asks)."""
    pattern = recognise(case.mask)
    assert pattern is not None
    grid, front = _lay_out(case, pattern)
    run = _near if not pattern.far else _far_and_near_fixed if pattern.fixed else _both if pattern.near else _columns
    out = run(grid).flatten(1, 2)  # [b, cells, h, d]
    return out[:, front : front + case.q.shape[2]].transpose(1, 2)


# --- runs: each gives [b, chunks, stride, heads, d_value] ------------------------------------------------------------------


def _near(grid: _Grid) -> Tensor:
    return torch.cat([_near_of(grid, chunks) for chunks in grid.groups()], 1)


def _near_of(grid: _Grid, chunks: slice) -> Tensor:
    q = grid.q[:, chunks.start + 1 : chunks.stop + 1]
    return _kernel(q, grid.near(grid.k, chunks), grid.near(grid.v, chunks), grid.near_visible(chunks))


def _near_places(grid: _Grid, chunks: slice) -> tuple[Place, Place]:
    """Of queries [.., chunks, stride, 1] and of their near keys [.., chunks, 1, keys]."""
    q = grid.place(lambda t: t[:, chunks.start + 1 : chunks.stop + 1, :, None])
    return q, grid.place(lambda t: grid.near(t, chunks)[:, :, None])


def _columns(grid: _Grid) -> Tensor:
    """Every cell sees its column from the top: attention along columns, by the kernel's own triangle where it may."""
    q, k, v = (t[:, 1:].transpose(1, 2) for t in (grid.q, grid.k, grid.v))  # [b, stride, chunks, heads, d]
    if grid.whole:
        return _kernel(q, k, v, None).transpose(1, 2)
    above = grid.place(lambda t: t[:, 1:].transpose(1, 2)[:, :, :, None])
    return _kernel(q, k, v, grid.visible(above, grid.place(lambda t: t[:, 1:].transpose(1, 2)[:, :, None]))).transpose(
        1, 2
    )


def _both(grid: _Grid) -> Tensor:
    """Window and column in one softmax. The column's keys of the chunk itself and of the one before are near."""
    return torch.cat([_window_and_column(grid, chunks) for chunks in grid.groups()], 1)


def _window_and_column(grid: _Grid, chunks: slice) -> Tensor:
    q = grid.q[:, chunks.start + 1 : chunks.stop + 1].permute(0, 1, 3, 2, 4)  # [b, chunks, heads, stride, d]
    k, v = (grid.near(t, chunks).permute(0, 1, 3, 2, 4) for t in (grid.k, grid.v))
    near, near_visible = q @ k.transpose(-1, -2), grid.near_visible(chunks)
    if chunks.stop <= 2:
        visible = near_visible.expand(-1, q.shape[1], -1, -1)
        return (_weights(near, visible, v.dtype, blind=not grid.whole) @ v).transpose(2, 3)
    above = slice(1, chunks.stop - 1)  # all chunks but the last two of the group's last
    k_above, v_above = (t[:, above].permute(0, 2, 3, 1, 4) for t in (grid.k, grid.v))  # [b, stride, heads, above, d]
    far = q.permute(0, 3, 2, 1, 4) @ k_above.transpose(-1, -2)
    far = far.permute(0, 3, 2, 1, 4)  # [b, chunks, heads, stride, above]
    number = torch.arange(chunks.start, chunks.stop, device=q.device)[:, None, None]
    earlier = torch.arange(chunks.stop - 2, device=q.device) < number - 1  # [chunks, 1, above]
    if not grid.whole:  # else a column sees all above it
        q_place, k_place = _near_places(grid, chunks)[0], grid.place(lambda t: t[:, above].transpose(1, 2)[:, None])
        earlier = grid.visible(q_place, k_place) & earlier
    visible = _side_by_side(near_visible, earlier, q.shape[1:4:2])
    weights = _weights(torch.cat([near, far], -1), visible, v.dtype, blind=not grid.whole)
    on_near, on_far = weights.split([near.shape[-1], far.shape[-1]], -1)
    from_far = (on_far.permute(0, 3, 2, 1, 4) @ v_above).permute(0, 3, 2, 1, 4)
    return (on_near @ v + from_far).transpose(2, 3)


def _weights(scores: Tensor, visible: Tensor, dtype: torch.dtype, *, blind: bool) -> Tensor:
    """Softmax of [b, chunks, heads, stride, keys], which are overwritten, over what is visible [1 or b, chunks, stride, keys].

    blind  whether a query may see nothing. In a whole text each sees itself, and passes over large tensors are saved
    """
    if not blind:
        wide = scores.to(torch.promote_types(scores.dtype, torch.float32))
        return wide.masked_fill_(~visible[:, :, None], torch.finfo(wide.dtype).min).softmax(-1).to(dtype)
    b, chunks = scores.shape[:2]
    visible = visible.expand(b, *visible.shape[1:]).flatten(0, 1)[:, None]
    return safe_softmax(scores.flatten(0, 1), visible).to(dtype).unflatten(0, (b, chunks))


def _far_and_near_fixed(grid: _Grid) -> Tensor:
    """Summary cells, after the near keys where the pattern has both: each chunk has keys of its own for the kernel."""
    far = _Summaries.of(grid)
    return torch.cat([_summaries_and_block(grid, far, chunks) for chunks in grid.groups()], 1)


def _summaries_and_block(grid: _Grid, far: _Summaries, chunks: slice) -> Tensor:
    q, before = grid.q[:, chunks.start + 1 : chunks.stop + 1], far.before(chunks.stop - grid.pattern.near)
    if not grid.pattern.near:
        visible = grid.visible(_near_places(grid, chunks)[0], far.place(before))
        rows = _kernel(q.flatten(1, 2)[:, None], far.k[:, None, :before], far.v[:, None, :before], _one_chunk(visible))
        return rows[:, 0].unflatten(1, q.shape[1:3])
    number = torch.arange(chunks.start, chunks.stop, device=q.device)
    first_near = (number - (1 if grid.back else 0))[:, None, None] * q.shape[2]
    earlier = far.cell[:, None, None, :before] < first_near
    if grid.whole:  # a block sees the summaries of all before it that are there
        earlier = earlier & (far.index[:, None, None, :before] >= 0)
    else:
        earlier = grid.visible(_near_places(grid, chunks)[0], far.place(before)) & earlier
    visible = _side_by_side(grid.near_visible(chunks), earlier, q.shape[1:3])
    keys, values = (
        torch.cat([grid.near(t, chunks), s[:, None, :before].expand(-1, len(number), -1, -1, -1)], 2)
        for t, s in ((grid.k, far.k), (grid.v, far.v))
    )
    return _kernel(q, keys, values, visible)


def _side_by_side(near: Tensor, far: Tensor, shape: Sequence[int]) -> Tensor:
    """[.., chunks or 1, stride or 1, keys] of near and far keys as one [1 or b, chunks, stride, keys]."""
    far = far if far.dim() == 4 else far[None]
    rows = max(near.shape[0], far.shape[0])
    return torch.cat([t.expand(rows, *shape, -1) for t in (near, far)], -1)


def _one_chunk(visible: Tensor) -> Tensor:
    """[b, chunks, stride, keys] -> [b, 1, chunks * stride, keys]."""
    return visible.flatten(1, 2)[:, None]


@dataclass(frozen=True)
class _Summaries:
    """Summary cells in the order of the text. k, v [b, cells, heads, d]; index, document, cell [1 or b, cells].

    upto  how many of them stand in the first 0, 1, .. chunks, in the row that has most
    """

    k: Tensor
    v: Tensor
    index: Tensor
    document: Tensor | None
    cell: Tensor
    upto: list[int]

    @classmethod
    def of(cls, grid: _Grid) -> _Summaries:
        """Where chunks are blocks a slice of the grid; else gathered, row by row."""
        assert grid.pattern.columns is not None
        first, count = grid.pattern.columns
        cell = torch.arange(grid.chunks * grid.q.shape[2], device=grid.q.device).view(1, grid.chunks, -1)
        lines = (
            grid.k[:, 1:],
            grid.v[:, 1:],
            grid.index[:, 1:],
            None if grid.document is None else grid.document[:, 1:],
        )
        if grid.whole:
            cut = (None if t is None else t[:, :, first : first + count].flatten(1, 2) for t in (*lines, cell))
            return cls(*cut, upto=[n * count for n in range(grid.chunks + 1)])  # type: ignore[arg-type]
        return cls._gathered(*(None if t is None else t.flatten(1, 2) for t in (*lines, cell)), grid.pattern)  # type: ignore[arg-type]

    @classmethod
    def _gathered(
        cls, k: Tensor, v: Tensor, index: Tensor, document: Tensor | None, cell: Tensor, pattern: Pattern
    ) -> _Summaries:
        first, count = pattern.columns or (0, 0)
        chosen = (index >= 0) & (index % pattern.stride >= first) & (index % pattern.stride < first + count)
        upto = [0, *chosen.cumsum(-1).amax(0)[pattern.stride - 1 :: pattern.stride].tolist()]
        order = chosen.long().argsort(dim=-1, descending=True, stable=True)[:, : max(1, upto[-1])]

        def pick(t: Tensor) -> Tensor:
            return t.expand(order.shape[0], -1).gather(1, order)

        rows = order.expand(k.shape[0], -1)[..., None, None]
        k, v = (t.gather(1, rows.expand(-1, -1, *t.shape[2:])) for t in (k, v))
        index = torch.where(pick(chosen), pick(index), EMPTY)
        return cls(k, v, index, None if document is None else pick(document), pick(cell), upto)

    def before(self, chunks: int) -> int:
        """How many keys the first so many chunks hold, at least one: a kernel without keys has no graph."""
        return max(1, self.upto[chunks])

    def place(self, most: int) -> Place:
        def shape(t: Tensor) -> Tensor:
            return t[:, None, None, :most]

        return Place(shape(self.index), None if self.document is None else shape(self.document), None)


def _kernel(q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None) -> Tensor:
    """torch's kernel on [b, chunks, cells, heads, d], each chunk by itself.

    visible  [1 or b, chunks, cells, keys]; [1, 1, cells, keys] where it is the same for all; None for a triangle
    """
    b, chunks = q.shape[:2]
    q, k, v = (t.flatten(0, 1).transpose(1, 2) for t in (q, k, v))
    mask = visible
    if visible is not None and visible.shape[:2] != (1, 1):
        mask = visible.expand(b, chunks, -1, -1).flatten(0, 1)[:, None]
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=visible is None, scale=1.0)
    return out.transpose(1, 2).unflatten(0, (b, chunks))
