"""The runner in blocks: attention that computes what a mask lets through, and little more.

What is static about a mask is read off places in the row, so that whole blocks of keys can be left out: linear in length for
a window. What is not static, padding, documents and global tokens, is looked at inside.

    chunks    a mask of finite reach: chunks of queries, each with the one stretch of keys that it can see. The stretches
              overlap and are views, so nothing is gathered and the backward pass adds up whole stretches
    groups    any other mask: groups of query blocks of equal need gather the key blocks that it does not hide wholly
    residues  where keys stand in steps of d (dilation), the d residue classes are d shorter texts without steps
    table     global keys of a row, gathered once, stand behind the keys of every chunk and are hidden among those: one
              softmax, each key once. Global queries see too much for blocks, and are run by themselves
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from formers.parts.extent import goes_by_distance, keeps_documents_apart, of_heads, tells_heads_apart
from formers.parts.kernels import ByDistance, Case, dense, expand_groups, kernel, kernel_with_bias, needs_grad, sdpa
from formers.parts.positions import Positions, in_step
from formers.parts.slots import Line, Table, block_size

# --- what it can do, and what that costs --------------------------------------------------------------------------------


def refusal(case: Case, *, look: bool = True) -> str | None:
    """Why the case cannot be run in blocks; None if it can. `look` False: as far as no tensor has to be asked."""
    q, k = case.q_positions, case.k_positions
    if torch.compiler.is_compiling() and not (q.is_global is None and k.is_global is None):
        return "which tokens are global has to be looked at, and compiled code looks at no tensor"
    if q.start is not None and k.start is not None:
        return None
    promised = in_step(q, k) is not None
    if not promised and (q.index is not k.index or q.document is not k.document):
        return "rows stand at different places, and queries and keys are not the same tokens"
    if not look and not torch.compiler.is_compiling():
        return None
    if not promised and not k.in_runs:
        return "positions are ragged: the tokens of a document do not stand side by side"
    if k.document is not None and not keeps_documents_apart(case.mask):
        return "the mask lets documents see each other"
    if not goes_by_distance(case.mask) and not (q.index is k.index and k.anchored):
        return "the mask goes by where indices lie, and rows are padded on the left or packed"
    return None


def share(case: Case) -> float:
    """Pairs of a query and a key that are computed, of all pairs."""
    masks = set(of_heads(case.mask, case.q.shape[1]))
    return sum(_share(replace(case, mask=mask)) for mask in masks) / len(masks)


def _share(case: Case) -> float:
    line = Line.of(case)
    t, s = case.q.shape[2], case.k.shape[2]
    size = block_size(line, copied=True)
    if line.is_banded:
        return -(-line.t // size) * size * (size + line.width) * line.every / (t * s)
    return sum(len(q) * len(k[0]) for q, k in line.plan(case.mask, size)) * size * size * line.every / (t * s)


def plan_blocks(case: Case, size: int) -> list[tuple[list[int], list[list[int]]]]:
    """Query blocks of `size` grouped by how many key blocks they need: [(query blocks, for each its key blocks)]."""
    return Line.of(case).plan(case.mask, size)


# --- running ------------------------------------------------------------------------------------------------------------


def blocks(case: Case) -> Tensor:
    """Attention outputs [b, h, t, d_value], as `dense` gives them."""
    return run_blocks(case)


def run_blocks(case: Case, size: int | None = None) -> Tensor:
    """`blocks` with a block size of one's own (the tests use small ones)."""
    if tells_heads_apart(case.mask):
        return _by_heads(case, size)
    slots = case.q_positions.global_slots
    out = _in_blocks(case, size)
    return out if slots.shape[1] == 0 else _with_global_queries(case, out, slots)


def _by_heads(case: Case, size: int | None) -> Tensor:
    """Heads of one mask together. Score terms are of all heads, so where there are terms each mask is run for all."""
    masks = of_heads(case.mask, case.q.shape[1])
    k, v = expand_groups(case.k, case.q), expand_groups(case.v, case.q)
    outs, order = [], []
    for mask in dict.fromkeys(masks):
        mine = [h for h, its in enumerate(masks) if its == mask]
        order += mine
        if case.terms:
            outs.append(run_blocks(replace(case, k=k, v=v, mask=mask), size)[:, mine])
        else:
            outs.append(run_blocks(replace(case, q=case.q[:, mine], k=k[:, mine], v=v[:, mine], mask=mask), size))
    return torch.cat(outs, 1)[:, torch.tensor(order, device=k.device).argsort()]


def _with_global_queries(case: Case, out: Tensor, slots: Tensor) -> Tensor:
    """The outputs, with those of global queries in their places."""
    slots = slots.expand(len(out), -1)
    q = case.q.gather(2, slots.clamp(min=0)[:, None, :, None].expand(-1, case.q.shape[1], -1, case.q.shape[3]))
    alone = replace(case, q=q, q_positions=case.q_positions.at(slots))
    seen = dense(alone) if case.terms and needs_grad(case) else sdpa(alone)
    return put(out, slots, seen)


def put(out: Tensor, slots: Tensor, rows: Tensor) -> Tensor:
    """`out` [b, h, t, d] with `rows` [b, h, n, d] in the places `slots` [b, n] of the text; -1 is no place."""
    row, column = (slots >= 0).nonzero(as_tuple=True)
    placed = rows.transpose(1, 2)[row, column].to(out.dtype)
    return out.transpose(1, 2).index_put((row, slots[row, column]), placed).transpose(1, 2)


def _in_blocks(case: Case, size: int | None) -> Tensor:
    """All queries as if none were global."""
    line = Line.of(case)
    table = Table.of(case)
    size = block_size(line, copied=table is not None or needs_grad(case)) if size is None else size
    ragged = case.q_positions.start is None or case.k_positions.start is None or table is not None
    if line.every == 1:
        return _run(_Laid(case, line, size, ragged, table))
    return _in_residues(case, line, size, ragged, table)


def _in_residues(case: Case, line: Line, size: int, ragged: bool, table: Table | None) -> Tensor:
    """Each residue class of the slots as a row of its own. Where classes are of two lengths, rows differ."""
    d, batch, t = line.every, case.q.shape[0], case.q.shape[2]
    fill, ragged = -t % d, ragged or t % d > 0

    def apart(x: Tensor) -> Tensor:  # [b, h, t, ..] -> [b * d, h, t / d, ..]
        x = F.pad(x.transpose(1, 2), (0, 0, 0, 0, 0, fill)).unflatten(1, (-1, d)).transpose(1, 2)
        return x.flatten(0, 1).transpose(1, 2)

    def positions(p: Positions) -> Positions:
        if not ragged:
            return p.map(lambda x: x[:1, ::d])  # distances within a class are the same in all
        filled = p.rows(batch).map(lambda x: F.pad(x, (0, fill), value=0 if x.dtype == torch.bool else -1))
        return filled.map(lambda x: x.unflatten(1, (-1, d)).transpose(1, 2).flatten(0, 1))

    classes = replace(
        case,
        q=apart(case.q),
        k=apart(case.k),
        v=apart(case.v),
        q_positions=positions(case.q_positions),
        k_positions=positions(case.k_positions),
    )
    out = _run(_Laid(classes, line, size, ragged, None if table is None else table.repeated(d)))
    out = out.transpose(1, 2).unflatten(0, (batch, d)).transpose(1, 2).flatten(1, 2)
    return out[:, :t].transpose(1, 2)


@dataclass(frozen=True)
class _Laid:
    """A case laid out in slots. `ragged`: which keys there are must be looked at, row by row."""

    case: Case
    line: Line
    size: int
    ragged: bool
    table: Table | None

    @property
    def by_rows(self) -> bool:
        """Whether rows are told apart, by positions or because terms want heads to be heads."""
        return self.ragged or bool(self.case.terms)

    @property
    def same_distances(self) -> bool:
        """Whether every block's keys stand from its queries as the first one's do, and the terms ask for nothing else. (What
        no slot tells, padding and other documents, is hidden.)"""
        alike = self.line.is_banded and self.table is None
        return alike and all(isinstance(term, ByDistance) for term in self.case.terms)


@dataclass(frozen=True)
class _Stretch:
    """n blocks of queries, each with its keys. q [b, h, n, c, d], k and v [b, g, n, l, d]; the slots they stand in.

    alike  blocks whose keys are all there and that see the same of them
    """

    q: Tensor
    k: Tensor
    v: Tensor
    q_slots: Tensor
    k_slots: Tensor
    alike: list[bool]


def _run(laid: _Laid) -> Tensor:
    outs, order = [], []
    stretches = _chunks(laid) if laid.line.is_banded else _groups(laid)
    for numbers, stretch in stretches:
        order += numbers
        outs.append(_weigh(laid, stretch))  # [b, n, c, h, d]
    joined = outs[0] if len(outs) == 1 else torch.cat(outs, 1)[:, torch.tensor(order, device=outs[0].device).argsort()]
    return joined.flatten(1, 2)[:, : laid.case.q.shape[2]].transpose(1, 2)


def _chunks(laid: _Laid) -> Iterator[tuple[list[int], _Stretch]]:
    """Chunks of queries, each with the one stretch of keys that it can see, as views."""
    line, c = laid.line, laid.size
    assert line.past is not None
    assert line.future is not None
    n, length, lead, s = -(-line.t // c), c + line.past + line.future, line.lead, line.s
    total = (n - 1) * c + length

    def keys(x: Tensor) -> Tensor:
        x = x[:, :, max(0, -lead) :][:, :, : total - max(lead, 0)]
        front = max(lead, 0)
        x = F.pad(x, (0, 0, front, total - front - x.shape[2]))
        return x.unfold(2, length, c).transpose(-1, -2)

    starts = [a * c - lead for a in range(n)]
    same = goes_by_distance(laid.case.mask)
    slots = torch.arange(n, device=laid.case.q.device)[:, None] * c
    yield (
        list(range(n)),
        _Stretch(
            _to_blocks(laid.case.q, c),
            keys(laid.case.k),
            keys(laid.case.v),
            slots + torch.arange(c, device=slots.device),
            slots - lead + torch.arange(length, device=slots.device),
            [same and a >= 0 and a + length <= s for a in starts],
        ),
    )


def _groups(laid: _Laid) -> Iterator[tuple[list[int], _Stretch]]:
    """Groups of query blocks of equal need, with the key blocks that they need."""
    case, c = laid.case, laid.size
    q, k, v = (_to_blocks(x, c) for x in (case.q, case.k, case.v))
    within = torch.arange(c, device=q.device)
    for query_blocks, key_blocks in laid.line.plan(case.mask, c):
        rows, columns = (torch.tensor(x, device=q.device) for x in (query_blocks, key_blocks))

        def gather(x: Tensor, columns: Tensor = columns) -> Tensor:
            return x.index_select(2, columns.flatten()).unflatten(2, columns.shape).flatten(3, 4)

        slots = rows[:, None] * c + within, (columns[..., None] * c + within).flatten(1)
        keys = gather(k), gather(v)
        yield query_blocks, _Stretch(q.index_select(2, rows), *keys, *slots, [False] * len(query_blocks))


def _to_blocks(x: Tensor, size: int) -> Tensor:
    """[b, h, t, d] -> [b, h, blocks, size, d], padded with zeros at the end."""
    return F.pad(x, (0, 0, 0, -x.shape[2] % size)).unflatten(2, (-1, size))


# --- a stretch of blocks ------------------------------------------------------------------------------------------------


def _weigh(laid: _Laid, stretch: _Stretch) -> Tensor:
    """Outputs [b, n, c, h, d]. Blocks that are alike share one mask; each of the others has its own."""
    batch, heads = stretch.q.shape[:2]
    sight = _Sight.of(laid, stretch)
    # the first axis: blocks, with rows among the heads; or all blocks of all rows, where rows are told apart
    axes = (0, 2, 1, 3, 4) if laid.by_rows else (2, 0, 1, 3, 4)
    merged = (0, 1) if laid.by_rows else (1, 2)
    q, k, v = (x.permute(axes).flatten(*merged) for x in (stretch.q, stretch.k, stretch.v))
    if laid.table is not None:
        n = len(stretch.q_slots)
        k, v = (
            torch.cat([x, more[:, None].expand(-1, n, -1, -1, -1).flatten(0, 1)], 2)
            for x, more in ((k, laid.table.k), (v, laid.table.v))
        )
    outs, runs = [], list(sight.runs())
    lengths = [some.stop - some.start for some in runs]  # split, not sliced: its backward pass joins the parts at once
    for some, *qkv in zip(runs, *(x.split(lengths) for x in (q, k, v)), strict=True):
        part = replace(laid.case, **dict(zip("qkv", qkv, strict=True)), **sight.places(some))
        visible = sight.visible(some)
        if not part.terms:
            outs.append(kernel(part, visible))
        else:
            outs.append(dense(part, visible) if needs_grad(part) else kernel_with_bias(part, visible))
    out = outs[0] if len(outs) == 1 else torch.cat(outs)
    if laid.by_rows:
        return out.unflatten(0, (batch, -1)).transpose(2, 3)
    return out.unflatten(1, (batch, heads)).permute(1, 0, 3, 2, 4)


@dataclass(frozen=True)
class _Sight:
    """What the queries of each block see of its keys. The first axis of everything is the blocks, of all rows if told apart.

    alike          which blocks share one mask, that of `shared`, by their slots alone
    q, k           positions [blocks, c], [blocks, l], as they are in the rows
    hidden         Bool [blocks, l]: keys that are no keys here, padding, or global tokens that the table has
    table          Bool [blocks, 1, c, n]: what is seen of the table
    """

    laid: _Laid
    stretch: _Stretch
    q: Positions
    k: Positions
    hidden: Tensor
    table: Tensor | None
    alike: list[bool]

    @classmethod
    def of(cls, laid: _Laid, stretch: _Stretch) -> _Sight:
        case, batch = laid.case, laid.case.q.shape[0] if laid.by_rows else 1
        q, k = (
            _at(p if laid.ragged else Positions(p.index[:1]), slots, batch)
            for p, slots in ((case.q_positions, stretch.q_slots), (case.k_positions, stretch.k_slots))
        )
        hidden = ~k.present
        if laid.table is None:
            table = None
        else:
            hidden = hidden if k.is_global is None else hidden | k.is_global
            entries = laid.table.positions.rows(batch)
            entries = entries.map(lambda x: x.repeat_interleave(len(stretch.q_slots), 0))
            table = replace(case, q_positions=q, k_positions=entries).visible()
        alike = stretch.alike * batch
        if laid.ragged and torch.compiler.is_compiling():
            alike = [False] * len(alike)
        if laid.ragged and any(alike):
            whole = q.present.all(-1) & ~hidden.any(-1)
            if q.document is not None and k.document is not None:
                whole &= (k.document == q.document[:, :1]).all(-1)
            if table is not None:
                whole &= table.flatten(1).all(-1)
            alike = [a and b for a, b in zip(alike, whole.tolist(), strict=True)]
        return cls(laid, stretch, q, k, hidden, table, alike)

    def runs(self) -> Iterator[slice]:
        """Neighbouring blocks that are alike, and those between them."""
        start = 0
        for _, run in itertools.groupby(self.alike):
            length = len(list(run))
            yield slice(start, start + length)
            start += length

    def places(self, some: slice) -> dict[str, Positions]:
        """Positions for the score terms, which ask for them."""
        if not self.laid.case.terms:
            return {}
        if self.laid.same_distances:
            q, k = self.slots(slice(0, 1))
            return {"q_positions": q, "k_positions": k}
        q, k = self.q.map(lambda x: x[some]), Positions(self.k.index[some])
        if self.laid.table is not None:
            more = self.laid.table.positions.index.repeat_interleave(len(self.stretch.q_slots), 0)[some]
            k = Positions(torch.cat([k.index, more], -1))
        return {"q_positions": Positions(q.index), "k_positions": k}

    def visible(self, some: slice) -> Tensor:
        """Bool [1 or blocks, 1, c, l + n]."""
        if self.alike[some.start]:
            seen = self.pattern(slice(0, 1))
            if self.table is None:
                return seen
            return torch.cat([seen, seen.new_ones(*seen.shape[:3], self.table.shape[-1])], -1)
        n = len(self.stretch.q_slots)
        if goes_by_distance(self.laid.case.mask) and self.laid.line.is_banded:
            seen = self.pattern(slice(0, 1))
        elif self.laid.by_rows:  # rows one after another, each of n blocks
            number = torch.arange(some.start, some.stop, device=self.hidden.device) % n
            seen = self.pattern(number)
        else:
            seen = self.pattern(some)
        seen = seen & ~self.hidden[some][:, None, None]
        if self.laid.ragged:
            seen = seen & self.q.present[some][:, None, :, None]
            if self.q.document is not None and self.k.document is not None:
                seen = seen & (self.q.document[some][:, None, :, None] == self.k.document[some][:, None, None])
        return seen if self.table is None else torch.cat([seen, self.table[some]], -1)

    def pattern(self, which: slice | Tensor) -> Tensor:
        """What the mask says of slots. Bool [blocks, 1, c, l]."""
        q, k = self.slots(which)
        return self.laid.case.mask.allows(q.as_queries(), k.as_keys())

    def slots(self, which: slice | Tensor) -> tuple[Positions, Positions]:
        """The slots of blocks, as if they were their positions."""
        line = self.laid.line
        q = Positions(line.q_first + line.every * self.stretch.q_slots[which])
        return q, Positions(line.k_first + line.every * self.stretch.k_slots[which])


def _at(positions: Positions, slots: Tensor, batch: int) -> Positions:
    """Positions of slots [n, c], for each of `batch` rows: [batch * n, c]. Slots beyond the row are padding."""
    beyond = (slots < 0) | (slots >= positions.length)
    inside = slots.clamp(0, positions.length - 1)
    picked = positions.map(lambda x: x[:, inside].expand(batch, -1, -1).flatten(0, 1))
    return replace(picked, index=picked.index.masked_fill(beyond.repeat(batch, 1), -1))
