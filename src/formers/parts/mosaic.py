"""Associative memories (Memory Mosaics: Zhang et al., 2405.06394): pairs of keys and values, looked up by the key of now.

    keys      k_t = e^s kbar_t / |kbar_t|      kbar: a leaky average of W_k x, with a rate a head
    values    v_t = e^p vbar_t / |vbar_t|      vbar_t = (1 - c) W_v x_{t+1} + c W_v x_t: it peeks one token ahead
    memory    y_t = sum over j < t of softmax(k_t . k_j) v_j,  y_1 = 0

There are no queries and no positions, and the scale is 1: |k| = e^s is the memory's bandwidth. Pair j is complete once
x_{j+1} is read, and only then can it be seen, so nothing leaks. Between calls the pair of the last token is half made:
its key and W_v x wait in the state for the next token.

A persistent memory has pairs that are learnt in place of pairs from the context, and stands where a feed-forward stands.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from formers.axes import Hidden
from formers.errors import StateError
from formers.parts.attend import attend
from formers.parts.attention import Mix, Score
from formers.parts.leaky import Last, StagedLast, Times, leaky_average
from formers.parts.masks import Everything
from formers.parts.positions import EMPTY, Positions
from formers.parts.rings import KeyValueRing
from formers.parts.taps import Tap

FACTOR = 10.0
"""Rates and scales are stored divided by this, so that a step of Adam moves them ten times as far (authors' code)."""

SMALLEST = 1e-10
"""Added to norms before they divide (authors' code)."""

Heads = Float[Tensor, "batch heads seq d_head"]


class Keys(nn.Module):
    """Averages of W_k x, and keys of averages. power: 1; 2 where the other side's keys have no scale of their own.

    max_exponent  of |k| = exp(power s): what keeps a logit finite in half precision
    """

    def __init__(
        self, d_model: int, num_heads: int, d_head: int, *, bias: bool, power: int, max_exponent: float
    ) -> None:
        super().__init__()
        self.num_heads, self.power, self.max_exponent = num_heads, power, max_exponent
        self.linear = nn.Linear(d_model, num_heads * d_head, bias=bias)
        self.rate = nn.Parameter(torch.linspace(0.5, 5.0, num_heads) / FACTOR)
        self.scale = nn.Parameter(torch.full((num_heads,), 1.0 / FACTOR))

    def averages(self, x: Hidden, times: Times, last: Last | None) -> Heads:
        return leaky_average(_by_head(self.linear(x), self.num_heads), self.rate.abs() * FACTOR, times, last)

    def of(self, averages: Heads) -> Heads:
        exponent = (self.power * FACTOR * self.scale).clamp(max=self.max_exponent)
        return _unit(averages) * _wide(exponent).exp()[:, None, None]


class Values(nn.Module):
    """Features W_v x, and values of the features of two tokens in a row."""

    def __init__(self, d_model: int, num_heads: int, d_head: int, *, bias: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.linear = nn.Linear(d_model, num_heads * d_head, bias=bias)
        self.peek = nn.Parameter(torch.rand(num_heads))
        self.scale = nn.Parameter(torch.full((num_heads,), -0.5 / FACTOR))

    def features(self, x: Hidden) -> Heads:
        return _by_head(self.linear(x), self.num_heads)

    def of(self, now: Heads, after: Heads) -> Heads:
        """peek is c: how much of a value is its own token's, the rest being the next one's."""
        c = self.peek[:, None, None]
        mixed = (1 - c) * after + c * now
        return _unit(mixed) * _wide(FACTOR * self.scale).exp()[:, None, None]


# --- contextual memory --------------------------------------------------------------------------------------------------


@dataclass
class PairNode:
    """The pairs that are made, and the one that waits for the next token."""

    pairs: KeyValueRing
    half: Last

    def map_rows(self, function: Callable[[Tensor], Tensor]) -> PairNode:
        return PairNode(self.pairs.map_rows(function), self.half.map_rows(function))

    def reset(self, rows: Tensor) -> PairNode:
        return PairNode(self.pairs.reset(rows), self.half.reset(rows))

    def dynamic(self) -> PairNode:
        return PairNode(self.pairs.dynamic(), self.half.dynamic())

    def keep(self, length: int) -> PairNode:
        return PairNode(self.pairs.keep(max(length - 1, 0)), self.half.keep(length))

    def tensors(self) -> dict[str, Tensor]:
        parts = {"pairs": self.pairs, "half": self.half}
        return {f"{part}.{name}": t for part, node in parts.items() for name, t in node.tensors().items()}

    def with_tensors(self, tensors: dict[str, Tensor]) -> PairNode:
        def of(part: str) -> dict[str, Tensor]:
            return {name.removeprefix(f"{part}."): t for name, t in tensors.items() if name.startswith(f"{part}.")}

        return PairNode(self.pairs.with_tensors(of("pairs")), self.half.with_tensors(of("half")))


@dataclass
class StagedPairs:
    pairs: Any
    half: StagedLast

    def commit(self) -> PairNode:
        try:
            return PairNode(self.pairs.commit(), self.half.commit())
        except StateError as error:  # which counts pairs, one fewer than tokens
            room = self.pairs.ring.capacity + 1
            raise StateError(f"a state made for {room} tokens was given more", error.wanted, error.do) from None


@dataclass(frozen=True)
class Pairs:
    """Pairs that a call completes: [batch, heads, pairs, d_head], and where their keys stand."""

    keys: Tensor
    values: Tensor
    positions: Positions


class ContextMemory(nn.Module):
    """A memory of the pairs before each token. A sublayer: (x, positions, state, source) -> (y, staged state)."""

    def __init__(self, keys: Keys, values: Values, score: Score, mix: Mix, *, runner: str = "auto") -> None:
        super().__init__()
        self.key, self.value, self.score, self.mix, self.runner = keys, values, score, mix, runner
        self.queries, self.keys, self.values, self.pattern, self.heads = Tap(), Tap(), Tap(), Tap(), Tap()

    def init_state(self, batch_size: int, max_length: int, **kind: Any) -> PairNode:
        heads, d = self.key.num_heads, self.key.linear.out_features // self.key.num_heads
        room = max(max_length - 1, 1)
        pairs = KeyValueRing.empty(batch_size, heads, room, d, d, overflow="refuse", **kind)
        return PairNode(pairs, Last.nothing(batch_size, heads, d, d, **kind))

    def forward(
        self, x: Hidden, positions: Positions, state: PairNode | None = None, source: None = None
    ) -> tuple[Hidden, StagedPairs | None]:
        half = None if state is None else state.half
        times = Times.of(positions, x.shape[0], half)
        averages, features = self.key.averages(x, times, half), self.value.features(x)
        q = self.queries(self.key.of(averages).to(x.dtype))
        made = self._pairs(q, averages, features, times, half, positions)
        k, v, k_positions, staged = self.keys(made.keys), self.values(made.values), made.positions, None
        if state is not None:
            k, v, k_positions, staged_pairs = state.pairs.extend(k, v, made.positions)
            staged = StagedPairs(staged_pairs, staged_last(averages, features, times, positions, state.half))
        return self.mix(self.heads(self._look_up(q, k, v, positions, k_positions))), staged

    def _look_up(self, q: Tensor, k: Tensor, v: Tensor, positions: Positions, k_positions: Positions) -> Tensor:
        return attend(
            q,
            k,
            v,
            positions,
            k_positions,
            mask=self.score.mask,
            dropout=self.score.dropout if self.training else 0.0,
            runner=self.runner,
            show=self.pattern if self.pattern.heard else None,
        )

    def _pairs(
        self, q: Tensor, averages: Tensor, features: Tensor, times: Times, half: Last | None, positions: Positions
    ) -> Pairs:
        """The pairs that these tokens complete, each of the token before. A row's first token completes none."""
        if times.apart is None:
            return self._pairs_in_step(q, features, half, positions)
        keys = self.key.of(_behind(None if half is None else half.average, averages)[:, :, :-1])
        now = _columns(_behind(None if half is None else half.feature, features), times.apart.previous)
        return Pairs(keys.to(q.dtype), self.value.of(now, features).to(q.dtype), _where(times, half, positions))

    def _pairs_in_step(self, q: Tensor, features: Tensor, half: Last | None, positions: Positions) -> Pairs:
        assert positions.start is not None
        k, start = q[:, :, :-1], positions.start
        if half is not None and start > 0:
            waiting = self.key.of(half.average).to(q.dtype)
            k, features, start = torch.cat([waiting, k], 2), _behind(half.feature, features), start - 1
        values = self.value.of(features[:, :, :-1], features[:, :, 1:])
        if half is None and self.pattern.heard:  # a pattern of tokens by tokens, of which the last is seen by none
            k, values = q, F.pad(values, (0, 0, 0, 1))
        return Pairs(k, values.to(q.dtype), Positions.offset(start, k.shape[2], device=positions.index.device))


def _where(times: Times, half: Last | None, positions: Positions) -> Positions:
    """Where the keys of the pairs stand: the token before each token, -1 where there is none in its document."""
    assert times.apart is not None
    first = torch.full_like(times.index[:, :1], EMPTY) if half is None else half.index
    index = torch.cat([first, times.index], 1).gather(1, times.apart.previous)
    return Positions(torch.where(times.apart.follows, index, EMPTY), positions.rows(len(index)).document)


def _columns(t: Tensor, columns: Tensor) -> Tensor:
    """t [b, h, s, d] at columns [b, t], of each row its own."""
    return t.gather(2, columns[:, None, :, None].expand(-1, t.shape[1], -1, t.shape[3]))


def _behind(before: Tensor | None, t: Tensor) -> Tensor:
    """`t` with one more column in front: what was before the call, or zeros."""
    first = torch.zeros_like(t[:, :, :1]) if before is None else before.to(t.dtype)
    return torch.cat([first, t], 2)


def staged_last(averages: Tensor, features: Tensor, times: Times, positions: Positions, before: Last) -> StagedLast:
    """What each row's last token leaves behind. Padding changes nothing."""
    batch = averages.shape[0]
    if times.apart is None:
        assert positions.start is not None
        index = times.index[:, -1:].expand(batch, -1)
        after = Last(
            averages[:, :, -1:], features[:, :, -1:], index, before.document, positions.start + positions.length
        )
        return StagedLast(before, after)
    feature = _columns(_behind(before.feature, features), times.apart.latest[:, -1:])
    index, document = times.index[:, -1:], times.apart.document[:, -1:]
    return StagedLast(before, Last(averages[:, :, -1:], feature, index, document, None))


# --- persistent memory --------------------------------------------------------------------------------------------------


class PersistentMemory(nn.Module):
    """A memory of learned pairs: y = e^o softmax(k P_k^T) P_v, the mean of that over several sets of pairs.

    A sublayer: (x, positions, state, source) -> (y, staged state). Its state is the running average of its keys.
    """

    def __init__(self, keys: Keys, mix: Mix, *, size: int, sets: int = 1, dropout: float = 0.0) -> None:
        super().__init__()
        heads, d = keys.num_heads, keys.linear.out_features // keys.num_heads
        self.key, self.mix, self.dropout = keys, mix, dropout
        self.slot_keys = nn.Parameter(torch.zeros(sets, heads, size, d))
        self.slot_values = nn.Parameter(torch.zeros(sets, heads, size, d))
        self.scale = nn.Parameter(torch.full((heads,), -0.5 / FACTOR))
        self.queries, self.pattern, self.heads = Tap(), Tap(), Tap()

    def init_state(self, batch_size: int, max_length: int, **kind: Any) -> Last:
        return Last.nothing(batch_size, self.key.num_heads, self.slot_keys.shape[-1], **kind)

    def forward(
        self, x: Hidden, positions: Positions, state: Last | None = None, source: None = None
    ) -> tuple[Hidden, StagedLast | None]:
        times = Times.of(positions, x.shape[0], state)
        averages = self.key.averages(x, times, state)
        q = self.queries(self.key.of(averages).to(x.dtype))
        found = torch.stack([self._look_up(q, k, v) for k, v in zip(self.slot_keys, self.slot_values, strict=True)])
        y = found.mean(0) * (FACTOR * self.scale).exp()[:, None, None].to(found.dtype)
        staged = None if state is None else staged_last(averages, averages[..., :0], times, positions, state)
        return self.mix(self.heads(y)), staged

    def _look_up(self, q: Heads, k: Tensor, v: Tensor) -> Tensor:
        """Every token may ask every slot. The tokens of all rows ask as those of one: a kernel then adds up the gradient of
        the slots as it goes (six tenths of the time that a copy of the slots for each row takes)."""
        if self.pattern.heard:
            rows = len(q)
            return self._ask(q, k.expand(rows, -1, -1, -1), v.expand(rows, -1, -1, -1))
        asked = self._ask(q.transpose(0, 1).flatten(1, 2)[None], k[None], v[None])
        return asked[0].unflatten(1, (q.shape[0], q.shape[2])).transpose(0, 1)

    def _ask(self, q: Heads, k: Tensor, v: Tensor) -> Tensor:
        return attend(
            q,
            k,
            v,
            Positions.whole(q.shape[2], device=q.device),
            Positions.whole(k.shape[2], device=q.device),
            mask=Everything(),
            dropout=self.dropout if self.training else 0.0,
            show=self.pattern if self.pattern.heard else None,
        )


def _by_head(t: Tensor, heads: int) -> Heads:
    return t.unflatten(-1, (heads, -1)).transpose(1, 2)


def _wide(t: Tensor) -> Tensor:
    return t.to(torch.promote_types(t.dtype, torch.float32))


def _unit(t: Tensor) -> Tensor:
    """t / |t|, in at least float32."""
    wide = _wide(t)
    return wide / (torch.linalg.vector_norm(wide, dim=-1, keepdim=True) + SMALLEST)
