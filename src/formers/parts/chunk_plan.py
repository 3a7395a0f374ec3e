"""Where tokens stand once they are sorted and cut into chunks, and what a tile of chunks sees: bookkeeping of chunked.py."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

TILE = 2**19
"""Scores that are computed at a time on a CPU: 2 MB in float32."""
TILE_ACCELERATOR = 2**26
HIDE = -1e30
"""Times how far a key lies beyond what a query may see. Beside any other score its weight is exactly 0."""
SELF = -1e5
"""The score of a token with itself where queries are keys: seen only if nothing else is (2001.04451, section 2)."""
FAR = 2.0**24
"""Where keys stand that nobody sees. Places below it are exact in float32."""


@dataclass(frozen=True)
class Window:
    """How chunks see one another.

    chunk, before, after   tokens in a chunk, and chunks seen on either side. Chunks stand in a ring: the first sees the last
    multiple               orders are filled up with absent tokens to a multiple of it, a multiple of `chunk`
    causal                 tokens see none of their document's later tokens
    shared                 queries are keys: a token sees itself only if it sees nothing else
    same_bucket            only keys of the query's bucket, no ring, and keys that several rounds find count once
    """

    chunk: int
    before: int
    after: int
    multiple: int
    causal: bool
    shared: bool = False
    same_bucket: bool = False

    @property
    def span(self) -> int:
        return self.before + 1 + self.after

    def packed(self) -> tuple[list[int], list[bool]]:
        """As torch's operators take it."""
        return [self.chunk, self.before, self.after, self.multiple], [self.causal, self.shared, self.same_bucket]

    @classmethod
    def unpacked(cls, settings: list[int], flags: list[bool]) -> Window:
        chunk, before, after, multiple = settings
        causal, shared, same_bucket = flags
        return cls(chunk, before, after, multiple, causal, shared, same_bucket)

    def filled(self, length: int) -> int:
        return -(-length // self.multiple) * self.multiple


@dataclass(frozen=True)
class Plan:
    """The sorted items of every row (batch x head): `shape` is [rows, items], all rounds of a row one after another.

    source    Int  where an item's vectors stand among the flat ones; absent items point at 0
    place     the item's token in its row, -1 absent
    q_index   what keys are compared with; k_index: FAR for what nobody sees. None: all see all
    document  None: one document a row
    bucket    of `same_bucket`, with the rounds apart; None otherwise
    rounds    (chunk, bucket) of each item's token in each round [rows, items, rounds], where a repetition is looked for
    back      Int [batch, seq, heads, rounds]: where a token's items are
    """

    window: Window
    source: Tensor
    place: Tensor
    q_index: Tensor | None
    k_index: Tensor | None
    document: Tensor | None
    bucket: Tensor | None
    rounds: tuple[Tensor, Tensor] | None
    back: Tensor
    chunks_a_round: int
    dtype: torch.dtype

    @classmethod
    def of(cls, order: Tensor, index: Tensor, document: Tensor | None, window: Window, like: Tensor) -> Plan:
        """`like`: a tensor of queries, whose type scores have, or float32 where that is narrower."""
        items, dtype = _Items(order, window), torch.promote_types(like.dtype, torch.float32)
        q_index, k_index = items.seen_from(index, dtype)
        return cls(
            window,
            items.source(),
            items.filled_up(items.place, -1),
            q_index,
            k_index,
            None if document is None else items.filled_up(items.of_tokens(document), -1),
            items.filled_up(items.bucket, -1) if window.same_bucket else None,
            items.by_round() if window.same_bucket and order.shape[2] > 1 else None,
            items.back(),
            items.filled // window.chunk,
            dtype,
        )

    @property
    def shape(self) -> tuple[int, int]:
        return self.source.shape[0], self.source.shape[1]

    def tiles(self) -> Iterator[Tile]:
        """All chunks, a tile at a time: several chunks of one row, or all chunks of several rows."""
        w, (rows, items) = self.window, self.shape
        most = TILE if self.source.device.type == "cpu" else TILE_ACCELERATOR
        chunks, fit = items // w.chunk, max(1, most // (w.chunk * w.chunk * w.span))
        step, many = min(chunks, fit), max(1, fit // chunks)
        for row in range(0, rows, many):
            for first in range(0, chunks, step):
                yield Tile(self, row, min(row + many, rows), first, min(first + step, chunks))

    @property
    def count(self) -> int:
        """Rounds."""
        return self.back.shape[-1]

    @property
    def is_even(self) -> bool:
        """Whether every item's share is 1: a single round, and no items that are absent."""
        return self.count == 1 and self.shape[1] == self.back.shape[1]

    def merged(self, out: Tensor, sums: Tensor | None) -> tuple[Tensor, Tensor]:
        """Outputs [batch, seq, heads, d] of all rounds together, and what share each has [batch, seq, heads, rounds].

        Largest score and sum come apart: added as logarithms, the sum would drown beside a score of -1e5.
        """
        if sums is None:
            return self.summed(out), torch.ones(self.back.shape, dtype=self.dtype, device=out.device)
        most, total = F.embedding(self.back, sums.view(-1, 2)).unbind(-1)
        shares = total * (most - most.amax(-1, keepdim=True)).exp_()
        shares = shares / shares.sum(-1, keepdim=True)
        return self.summed(out, shares), shares

    def summed(self, items: Tensor, weights: Tensor | None = None) -> Tensor:
        """[batch, seq, heads, d]: what the rounds of [rows, items, d] hold of each token, added up."""
        flat, rounds = items.flatten(0, 1), self.back.shape[-1]
        if rounds == 1 and weights is None:
            return F.embedding(self.back[..., 0], flat)
        if flat.dtype in (torch.float32, torch.float64):
            weights = None if weights is None else weights.reshape(-1, rounds)
            total = F.embedding_bag(self.back.reshape(-1, rounds), flat, mode="sum", per_sample_weights=weights)
            return total.view(*self.back.shape[:-1], -1)
        found = F.embedding(self.back, flat)
        return (found if weights is None else found * weights[..., None]).sum(-2).to(flat.dtype)


class _Items:
    """From [batch, heads, rounds, seq], in the order of places or sorted, to [rows, items], filled up to whole chunks."""

    def __init__(self, order: Tensor, window: Window) -> None:
        self.shape, self.window, self.filled = order.shape, window, window.filled(order.shape[-1])
        n = self.shape[-1]
        self.bucket, self.place = order // n, order % n
        steps = torch.arange(n, device=order.device).expand_as(order)
        self.rank = torch.empty_like(order).scatter_(-1, self.place, steps)

    def filled_up(self, t: Tensor, absent: int | float) -> Tensor:
        """[batch, heads, rounds, seq], sorted -> [rows, items]."""
        b, h, r, n = self.shape
        return F.pad(t, (0, self.filled - n), value=absent).reshape(b * h, r * self.filled)

    def of_tokens(self, t: Tensor) -> Tensor:
        """[batch or 1, seq] -> [batch, heads, rounds, seq], sorted."""
        return t[:, None, None, :].expand(self.shape).gather(-1, self.place)

    def source(self) -> Tensor:
        """Where vectors stand among those of [batch, seq, heads]."""
        b, h, _, n = self.shape
        batch, head = (torch.arange(size, device=self.place.device) for size in (b, h))
        return self.filled_up((batch[:, None, None, None] * n + self.place) * h + head[:, None, None], 0)

    def back(self) -> Tensor:
        """Where a token's items stand [batch, seq, heads, rounds]."""
        b, h, r, _ = self.shape
        row, turn = (torch.arange(size, device=self.rank.device) for size in (b * h, r))
        first = (row * (r * self.filled)).view(b, h, 1, 1) + turn[:, None] * self.filled
        return (first + self.rank).permute(0, 3, 1, 2)

    def seen_from(self, index: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor] | tuple[None, None]:
        """What tells keys that come later, or are absent, from those that a query may see."""
        absent = index < 0
        if not self.window.causal and self.filled == self.shape[-1] and not absent.any():
            return None, None
        at = self.of_tokens(index if self.window.causal else torch.zeros_like(index)).to(dtype)
        return self.filled_up(at, 0), self.filled_up(at.masked_fill(self.of_tokens(absent), FAR), FAR)

    def by_round(self) -> tuple[Tensor, Tensor]:
        """Chunk and bucket of each item's token in every round [rows, items, rounds]."""
        bucket = torch.empty_like(self.bucket).scatter_(-1, self.place, self.bucket)
        return self._by_round(self.rank // self.window.chunk), self._by_round(bucket)

    def _by_round(self, t: Tensor) -> Tensor:
        told = [t[:, :, i : i + 1].expand(self.shape).gather(-1, self.place) for i in range(self.shape[2])]
        return torch.stack([self.filled_up(one, -1) for one in told], -1)


@dataclass(frozen=True)
class Tile:
    """Chunks first..last-1 of rows row..stop-1. Chunks x rows are one batch of matrix products."""

    plan: Plan
    row: int
    stop: int
    first: int
    last: int

    def scores(self, queries: Tensor, keys: Tensor) -> Tensor:
        """[chunks, chunk, span * chunk]: products of queries with keys where those are seen, about FAR * HIDE elsewhere."""
        plan, k = self.plan, self.around(keys).transpose(1, 2)
        hidden = self._hidden()
        if hidden is None or queries.dtype != plan.dtype:
            scores = torch.bmm(self.own(queries), k).to(plan.dtype)
            scores = scores if hidden is None else scores.add_(hidden, alpha=HIDE)
        elif plan.window.causal:  # a tensor of its own and of the scores' size, which are added to it
            scores = hidden.baddbmm_(self.own(queries), k, beta=HIDE)
        else:
            scores = torch.baddbmm(hidden, self.own(queries), k, beta=HIDE)
        return self.without_self(scores, SELF) if plan.window.shared else scores

    def without_self(self, scores: Tensor, value: float = 0.0) -> Tensor:
        """`scores` with `value` wherever query and key are one token: on a diagonal, and round the ring maybe elsewhere."""
        w = self.plan.window
        scores.diagonal(w.before * w.chunk, 1, 2).fill_(value)
        if len(self._edges) and not w.same_bucket:
            place = self._items(self.plan.place)
            same = self._pairs(place)[self._edges] == self._own(place)[self._edges]
            scores[self._edges] = scores[self._edges].masked_fill(same, value)
        return scores

    def _hidden(self) -> Tensor | None:
        """[chunks, chunk or 1, span * chunk]: 0 where a query sees a key, at least 1 elsewhere. None: all see all."""
        plan, hidden = self.plan, None
        if plan.k_index is not None and plan.q_index is not None:
            hidden = self._pairs(self._items(plan.k_index))
            if plan.window.causal:
                hidden = (hidden - self._own(self._items(plan.q_index))).clamp_(min=0)
        for kind in (plan.document, plan.bucket):
            if kind is not None:
                items = self._items(kind)
                apart = (self._pairs(items) != self._own(items)).to(plan.dtype)
                hidden = apart if hidden is None else hidden + apart
        if plan.bucket is None or hidden is None:
            return hidden
        return hidden + self._wrapped() + self._repeated()

    def _wrapped(self) -> Tensor | float:
        """1 for keys that are seen only round the ring, or from another round."""
        slots = self._slots
        ring = (slots < 0) | (slots >= self.plan.chunks_a_round)
        return ring.repeat_interleave(self.plan.window.chunk, 1)[:, None, :].to(self.plan.dtype) if ring.any() else 0.0

    def _repeated(self) -> Tensor | float:
        """1 for keys that an earlier round has found already. Not for the token itself, whose score is as good as nothing."""
        if self.plan.rounds is None:
            return 0.0
        w, found = self.plan.window, None
        this = torch.arange(self.first, self.last, device=self.plan.source.device) // self.plan.chunks_a_round
        this = this.repeat(self.stop - self.row)[:, None, None]
        for earlier in range(self.plan.rounds[0].shape[-1] - 1):
            chunk, bucket = (self._items(t[..., earlier]) for t in self.plan.rounds)
            behind = self._own(chunk) - self._pairs(chunk)
            near = (behind <= w.before) & (behind >= -w.after) & (self._own(bucket) == self._pairs(bucket))
            near &= earlier < this
            found = near if found is None else found | near
        return 0.0 if found is None else found.to(self.plan.dtype)

    # -- which items

    @property
    def _slots(self) -> Tensor:
        """Int [chunks, span]: the chunk that each slot shows, counted within the query's round, however far outside it."""
        w, device = self.plan.window, self.plan.source.device
        chunk = torch.arange(self.first, self.last, device=device) % self.plan.chunks_a_round
        offsets = torch.arange(-w.before, w.after + 1, device=device)
        return (chunk[:, None] + offsets).repeat(self.stop - self.row, 1)

    @property
    def _edges(self) -> list[int]:
        """Chunks of the tile that see round the ring, or into another round."""
        w, a_round, count = self.plan.window, self.plan.chunks_a_round, self.last - self.first
        within = [(self.first + i) % a_round for i in range(count)]
        edges = [i for i, c in enumerate(within) if c < w.before or c >= a_round - w.after]
        return [row * count + i for row in range(self.stop - self.row) for i in edges]

    @property
    def _shown(self) -> Tensor:
        """Int: the chunks that the tile's chunks see, one after another, round the ring."""
        w, total = self.plan.window, self.plan.shape[1] // self.plan.window.chunk
        return torch.arange(self.first - w.before, self.last + w.after, device=self.plan.source.device) % total

    def _items(self, t: Tensor) -> Tensor:
        """[rows, items] -> [rows, shown chunks * chunk]."""
        part = t[self.row : self.stop].unflatten(1, (-1, self.plan.window.chunk))
        w = self.plan.window
        lo, hi = self.first - w.before, self.last + w.after
        part = part[:, lo:hi] if lo >= 0 and hi <= part.shape[1] else part.index_select(1, self._shown)
        return part.flatten(1)

    def _own(self, items: Tensor) -> Tensor:
        """[chunks, chunk, 1] of what `_items` gave."""
        w = self.plan.window
        own = items[:, w.before * w.chunk : items.shape[1] - w.after * w.chunk]
        return own.reshape(-1, w.chunk, 1)

    def _pairs(self, items: Tensor) -> Tensor:
        """[chunks, 1, span * chunk] of what `_items` gave."""
        w = self.plan.window
        return items.unfold(1, w.span * w.chunk, w.chunk).flatten(0, 1)[:, None, :]

    # -- vectors

    def own(self, flat: Tensor) -> Tensor:
        """[chunks, chunk, d]: the flat vectors of the tile's own tokens."""
        source = self.plan.source[
            self.row : self.stop, self.first * self.plan.window.chunk : self.last * self.plan.window.chunk
        ]
        return F.embedding(source, flat).reshape(-1, self.plan.window.chunk, flat.shape[-1])

    def shares(self, shares: Tensor) -> Tensor:
        """[chunks, chunk, 1]: of [batch, seq, heads, rounds], the share of each own item; 0 for items that are absent."""
        w, plan = self.plan.window, self.plan
        rows, here = slice(self.row, self.stop), slice(self.first * w.chunk, self.last * w.chunk)
        round_of = torch.arange(here.start, here.stop, device=plan.source.device) // (plan.chunks_a_round * w.chunk)
        found = F.embedding(plan.source[rows, here] * plan.count + round_of, shares.view(-1, 1))
        return found.masked_fill_((plan.place[rows, here] < 0)[..., None], 0).view(-1, w.chunk, 1)

    def around(self, flat: Tensor) -> Tensor:
        """[chunks, span * chunk, d]: the flat vectors of all that the tile's chunks see. Of one row it is a view."""
        w = self.plan.window
        vectors = F.embedding(self._items(self.plan.source), flat)
        return vectors.unfold(1, w.span * w.chunk, w.chunk).flatten(0, 1).transpose(1, 2)

    def put(self, whole: Tensor, part: Tensor) -> None:
        """Write [chunks, chunk, ..] to its place in [rows, items, ..]."""
        w = self.plan.window
        whole[self.row : self.stop, self.first * w.chunk : self.last * w.chunk] = part.reshape(
            self.stop - self.row, -1, *part.shape[2:]
        )

    def add_around(self, whole: Tensor, part: Tensor) -> None:
        """Add [chunks, span * chunk, d] to what it was seen of."""
        w, rows, count = self.plan.window, self.stop - self.row, self.last - self.first
        part = part.view(rows, count, w.span, w.chunk, -1)
        joined = part.new_zeros(rows, count + w.span - 1, w.chunk, part.shape[-1])
        for slot in range(w.span):
            joined[:, slot : slot + count] += part[:, :, slot]
        whole[self.row : self.stop].unflatten(1, (-1, w.chunk)).index_add_(1, self._shown, joined)

    def kept(self, weights: Tensor, dropout: float, noise: int) -> Tensor:
        """What dropout multiplies weights with: the same for the same tile and noise."""
        seed = (noise * 1_000_003 + self.row * 7919 + self.first) % 2**63
        draw = torch.rand(weights.shape, generator=torch.Generator().manual_seed(seed), dtype=weights.dtype)
        return (draw >= dropout).to(weights) / (1 - dropout)
