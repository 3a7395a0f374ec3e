"""Attention by locality-sensitive hashing (Kitaev, Kaiser, Levskaya, "Reformer", 2001.04451, section 2).

Queries are keys: k_j = q_j / |q_j|, and a token sees itself only if it sees nothing else. Tokens are sorted by the bucket that
a random rotation puts them in, cut into chunks, and see the chunk they are in and its neighbours. Several rounds, with
rotations of their own, are put together by one softmax:

    o_i = sum_j N_ij exp(q_i k_j) v_j / sum_j N_ij exp(q_i k_j)           N_ij: how often i sees j, by the rules

Two sets of rules say what is seen within the chunks:

    SameBucket   the paper's: keys of the query's own bucket alone, and what several rounds find counts once (N is 0 or 1)
    WholeChunks  the authors' code and Hugging Face's: everything in the chunks; what is found twice counts twice; and the
                 chunks of all rounds stand in one ring, in which each round's first looks back at the last of the round before

Where a text is short enough to be seen whole (`full_below`), all rounds of all buckets come to this: N is 1 for every key that
the mask lets through. That is full attention, and torch's kernels do it.

`dense` is the slow twin, written as the formula above; `chunked.py` is the fast path.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from formers.axes import Hidden, Keys, Queries, Values
from formers.parts.attend import attend, safe_softmax
from formers.parts.chunked import SELF, Window, attend_chunks
from formers.parts.hashing import Buckets, Hashing, Order, bucketed, coded, ranks, sort, taken_apart
from formers.parts.lsh_cache import Entries, HashedCache
from formers.parts.masks import Causal, Everything, Mask, SameDocument, StrictlyPast
from formers.parts.masks import Window as Near
from formers.parts.positions import Positions
from formers.parts.replay import chosen
from formers.parts.taps import Tap

Split = Float[Tensor, "batch seq heads d_head"]


@dataclass(frozen=True)
class Sorted:
    """What the rules look at: where tokens stand in each round's order, and in which bucket.

    rank, bucket  Int [batch, heads, rounds, tokens]
    filled        tokens of an order once it is filled up to whole chunks: a number, or Int [batch, 1, 1, 1]
    """

    rank: Tensor
    bucket: Tensor
    filled: int | Tensor

    def at(self, tokens: slice) -> Sorted:
        return Sorted(self.rank[..., tokens], self.bucket[..., tokens], self.filled)


@runtime_checkable
class Rules(Protocol):
    """What a query sees within the chunks it looks at."""

    name: ClassVar[str]
    same_bucket: ClassVar[bool]

    def times(self, q: Sorted, k: Sorted, window: Window) -> Int[Tensor, "batch heads queries keys"]:
        """How often each query sees each key, masks aside."""
        ...


class SameBucket:
    """The paper's rules: P_i, the union over rounds of the keys in the query's bucket (equations 4 to 6).

    The paper subtracts log N_ij from the logit of a key that is found N_ij times; to count it once is the same.
    """

    name: ClassVar[str] = "paper"
    same_bucket: ClassVar[bool] = True

    def times(self, q: Sorted, k: Sorted, window: Window) -> Tensor:
        behind = (q.rank // window.chunk)[..., None] - (k.rank // window.chunk)[..., None, :]
        near = (behind <= window.before) & (behind >= -window.after)
        return (near & (q.bucket[..., None] == k.bucket[..., None, :])).any(2).long()


class WholeChunks:
    """Everything in the chunks, in a ring of all rounds' chunks: the authors' code and Hugging Face's."""

    name: ClassVar[str] = "transformers"
    same_bucket: ClassVar[bool] = False

    def times(self, q: Sorted, k: Sorted, window: Window) -> Tensor:
        a_round, rounds = q.filled // window.chunk, q.rank.shape[2]
        total: Any = 0
        for i in range(rounds):
            seeks = i * a_round + (q.rank[:, :, i] // window.chunk)[..., None]
            for j in range(rounds):
                behind = seeks - (j * a_round + (k.rank[:, :, j] // window.chunk)[..., None, :])
                for offset in range(-window.after, window.before + 1):
                    total = total + ((behind - offset) % (rounds * a_round) == 0)
        return total


RULES: dict[str, Rules] = {rules.name: rules for rules in (SameBucket(), WholeChunks())}


def dense(
    q: Queries,
    k: Keys,
    v: Values,
    times: Tensor,
    same: Tensor,
    visible: Tensor,
    show: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """The formula, written out: [batch, heads, queries, d_head]. The slow twin, and how a few queries look at many keys.

    times    how often each query sees each key          same  where query and key are one token
    visible  what the mask says [1 or batch, 1, queries, keys]; a query that sees nothing yields 0
    """
    scores = (q @ k.transpose(-1, -2)).masked_fill(same, SELF)
    pattern = safe_softmax(scores + times.clamp(min=1).to(scores.dtype).log(), visible & (times > 0)).to(v.dtype)
    return (pattern if show is None else show(pattern)) @ v


def unit(q: Split, eps: float) -> Split:
    """q / |q|, as the authors' code has it: q / sqrt(mean(q^2) + eps) / sqrt(d_head)."""
    wide = q.to(torch.promote_types(q.dtype, torch.float32))
    return (wide * (torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps) * q.shape[-1] ** -0.5)).to(q.dtype)


class SharedProject(nn.Module):
    """Queries that are keys too, and values, of every head by one linear map, the former first. Without bias."""

    def __init__(self, d_model: int, num_heads: int, d_head: int) -> None:
        super().__init__()
        self.num_heads, self.d_head = num_heads, d_head
        self.linear = nn.Linear(d_model, 2 * num_heads * d_head, bias=False)

    def forward(self, x: Hidden) -> tuple[Split, Split]:
        q, v = self.linear(x).chunk(2, -1)
        return q.unflatten(-1, (-1, self.d_head)), v.unflatten(-1, (-1, self.d_head))


class HashedAttention(nn.Module):
    """LSH attention. A sublayer: (x, positions, state, source) -> (y, staged state).

    window   chunks and what is seen of them; `multiple` and `same_bucket` of it are set here
    hashing  how tokens are sorted
    rules    what is seen within the chunks
    eps      under the root that makes keys of queries
    full_below   tokens of a row, padding included, below which nothing is hashed: full attention by the same formula
    local_heads  so many of the first heads sort by place, and see their chunk and those beside it
    Texts of at most a chunk are seen whole: hashed for `SameBucket`, all of it for `WholeChunks`.

    With a state, queries sort themselves among all that was read so far (see lsh_cache.py).
    """

    def __init__(
        self,
        project: SharedProject,
        mix: nn.Module,
        *,
        window: Window,
        hashing: Hashing,
        rules: Rules,
        eps: float,
        dropout: float = 0.0,
        full_below: int = 0,
        local_heads: int = 0,
    ) -> None:
        super().__init__()
        self.project, self.mix, self.hashing, self.rules, self.eps = project, mix, hashing, rules, eps
        self.full_below, self.local_heads = full_below, local_heads
        self.window = replace(window, same_bucket=rules.same_bucket, shared=True)
        self.mask: Mask = (Causal() if window.causal else Everything()) & SameDocument()
        self.others: Mask = (StrictlyPast() if window.causal else ~Near(1)) & SameDocument()
        self.dropout = dropout
        self.queries, self.values, self.pattern, self.heads, self.buckets = Tap(), Tap(), Tap(), Tap(), Tap()

    def init_state(self, batch_size: int, max_length: int, **kind: Any) -> HashedCache:
        heads, d_head = self.project.num_heads, self.project.d_head
        return HashedCache.empty(batch_size, heads, max_length, d_head, self.hashing.rounds, **kind)

    def forward(
        self, x: Hidden, positions: Positions, state: HashedCache | None = None, source: Any = None
    ) -> tuple[Hidden, Any]:
        q, v = self.project(x)
        q, v = self.queries(q), self.values(v)
        out, staged = self.go_on(q, v, positions, state) if state is not None else (self.look(q, v, positions), None)
        out = self.heads(out)
        if positions.start is None:
            out = out * positions.present[..., None, None]  # what padding looks up means nothing
        return self.mix(out.transpose(1, 2)), staged

    # -- a whole text

    def look(self, q: Split, v: Split, positions: Positions, bucket: Buckets | None = None) -> Split:
        """Outputs [batch, seq, heads, d_head] for a text that is all there. `bucket`: where that is known already."""
        window, order = self.sorted(q, positions, bucket)
        if self.buckets.heard:
            self.buckets(by_token(order))
        k = unit(q, self.eps)
        if self.pattern.heard:
            return self.look_densely(q, k, v, positions, window, order)
        if q.shape[1] < self.full_below:
            return self.look_at_all(q, k, v, positions)
        return attend_chunks(q, k, v, order, positions.index, positions.document, window, self._dropped)

    def sorted(self, q: Split, positions: Positions, bucket: Buckets | None) -> tuple[Window, Order]:
        """The window, and every head's order in every round. What is seen whole is one bucket in one chunk, in one round."""
        batch, n, heads, _ = q.shape
        in_one = n <= self.window.chunk or n < self.full_below
        window = replace(self.window, chunk=n, before=0, after=0, multiple=n) if in_one else self.window
        if self.seen_whole(n):
            return window, torch.arange(n, device=q.device).expand(batch, heads, 1, n)

        def choose() -> Order:
            room = self.window.filled(n)
            fell = self.fallen(q, positions, room, self.training) if bucket is None else bucket
            return coded(fell) if in_one else sort(fell)  # within a chunk no order is needed

        return window, chosen(choose)

    def seen_whole(self, length: Any) -> Any:
        """Whether all of a text of `length` tokens (a number, or a tensor of them) is seen, whatever bucket it falls into."""
        return length < (self.full_below if self.rules.same_bucket else max(self.full_below, self.window.chunk + 1))

    def fallen(self, q: Split, positions: Positions, length: int, training: bool) -> Buckets:
        """The buckets of `q` in a text of `length` tokens. Local heads have one, and so their order is that of places."""
        found = bucketed(q, positions.present, self.hashing, length, self.hashing.seed_for(training))
        if not self.local_heads:
            return found
        is_local = torch.arange(q.shape[2], device=q.device)[:, None, None] < self.local_heads
        return found.masked_fill(is_local & positions.present[:, None, None, :], 0)

    def look_at_all(self, q: Split, k: Split, v: Split, positions: Positions) -> Split:
        """The formula where each N is 1: attention to all others, and to oneself where there are none."""
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        out = attend(q, k, v, positions, positions, mask=self.others, dropout=self._dropped)
        alone = self.alone(positions)[:, None, :, None].to(v.dtype).expand(*v.shape[:3], 1)
        return (out + nn.functional.dropout(alone, self._dropped) * v).transpose(1, 2)

    def alone(self, positions: Positions) -> Tensor:
        """Which tokens see no other [1 or batch, seq]; what is said of padding means nothing."""
        n = positions.length
        if positions.start is not None:
            return torch.arange(n, device=positions.index.device)[None] < (1 if self.window.causal or n == 1 else 0)
        others = self.others.allows(positions.as_queries(), positions.as_keys()) & positions.present[:, None, None, :]
        return ~others.any(-1)[:, 0]

    def look_densely(self, q: Split, k: Split, v: Split, positions: Positions, window: Window, order: Tensor) -> Split:
        n = q.shape[1]
        sorted_ = Sorted(ranks(order), by_token(order), window.filled(n))
        same, times = torch.eye(n, dtype=torch.bool, device=q.device), self.rules.times(sorted_, sorted_, window)
        visible = self._visible(positions, positions)
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        return dense(q, k, v, times, same, visible, self._drop_and_show).transpose(1, 2)

    def _drop_and_show(self, pattern: Tensor) -> Tensor:
        return self.pattern(nn.functional.dropout(pattern, self._dropped))

    @property
    def _dropped(self) -> float:
        return self.dropout if self.training else 0.0

    def _visible(self, q: Positions, k: Positions) -> Tensor:
        seen = self.mask.allows(q.as_queries(), k.as_keys())
        return seen & q.present[:, None, :, None] & k.present[:, None, None, :]

    # -- going on from a state

    def go_on(self, q: Split, v: Split, positions: Positions, state: HashedCache) -> tuple[Split, Any]:
        """Outputs for the fresh tokens, which sort themselves among everything that was read so far.

        The rotations are the same at every step, also in training, since buckets are remembered. What was read is not
        sorted anew by what came later, so a text in steps is not the text in one call (the model's law_exceptions).
        A text that is short so far is seen whole; its buckets are remembered all the same, for when it no longer is.
        """
        room = self.window.filled(state.capacity)
        bucket = chosen(lambda: self.fallen(q.detach(), positions, room, training=False))
        empty = state.vectors.start == 0
        entries = state.extend(q.transpose(1, 2), v.transpose(1, 2), bucket, positions)
        if empty:
            return self.look(q, v, positions, bucket), entries.staged
        times = self.times_so_far(entries, state.capacity)
        visible = self._visible(positions, entries.positions)
        same = entries.at[:, None, :, None] == torch.arange(entries.keys.shape[2], device=q.device)
        k = unit(entries.keys, self.eps)
        out = dense(q.transpose(1, 2).to(k.dtype), k, entries.values, times, same, visible, self._drop_and_show)
        return out.transpose(1, 2).to(q.dtype), entries.staged

    def times_so_far(self, entries: Entries, capacity: int) -> Tensor:
        """How often each fresh token sees each key of all that was read, row by row, by the length of the text so far."""
        if self.seen_whole(capacity):
            return torch.ones((), dtype=torch.long, device=entries.keys.device)
        told, at = self.sorted_so_far(entries), entries.at
        fresh = Sorted(_pick(told.rank, at), _pick(told.bucket, at), told.filled)
        length = entries.positions.present.sum(-1)[:, None, None, None]
        return torch.where(self.seen_whole(length), 1, self.rules.times(fresh, told, self.window))

    def sorted_so_far(self, entries: Entries) -> Sorted:
        """The order of all that was read, fresh tokens included, row by row. Empty slots stand last."""
        bucket = entries.buckets.long().masked_fill(~entries.positions.present[:, None, None], LAST)
        count = entries.positions.present.sum(-1)[:, None, None, None]
        filled = -(-count // self.window.multiple) * self.window.multiple
        return Sorted(ranks(sort(bucket)), bucket, filled.expand(len(bucket), 1, 1, 1))


LAST = 2**30
"""A bucket behind all others."""


def by_token(order: Order) -> Tensor:
    """The bucket of every token in every round."""
    bucket, place = taken_apart(order)
    return torch.empty_like(order).scatter_(-1, place, bucket)


def _pick(t: Tensor, at: Tensor) -> Tensor:
    """[batch, heads, rounds, keys] at slots [batch, queries]."""
    return t.gather(-1, at[:, None, None, :].expand(*t.shape[:3], -1))
