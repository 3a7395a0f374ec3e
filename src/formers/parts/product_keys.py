"""Product-key memory: Lample et al., "Large Memory Layers with Product Keys" (1907.05242). It stands where a feed-forward does.

n^2 learned values, of which every token is given the few whose keys its query likes best. A key is a pair of half-keys, one
from each of two sets of n, so that n^2 keys cost 2 n vectors, and none of them is ever made:

    q = norm(W x + b)                                            for each head, with half-keys of its own
    score of key (i, j) = q_1 . c_i + q_2 . c'_j                 q = [q_1, q_2]
    y = sum over heads, over the k best keys, of softmax(scores of these k) V[i n + j]

The k best of all n^2 are among the sums of the k best of either half (section 3.2), so the search is exact; its time and memory
are those of 2 n scores a head. `dense` is the slow twin, which makes every key.

The paper norms queries by the batch, which spreads them over more keys. Then what a token looks up depends in training on every
other token, later ones and other rows' included, and on a batch that is large enough. So by default each query is normed by
itself, and `batch` is there for who wants the paper's.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from formers.axes import Hidden
from formers.config import require
from formers.parts.norms import LayerNorm
from formers.parts.positions import Positions
from formers.parts.replay import chosen
from formers.parts.taps import Tap

Asked = Float[Tensor, "batch seq heads d_key"]
HalfScores = Float[Tensor, "*asked 2 keys"]
Slots = Int[Tensor, "*asked best"]
"""Numbers of values, i n + j for key (i, j)."""
EPS = 1e-5


# --- norms of queries -------------------------------------------------------------------------------------------------


class EachNorm(nn.Module):
    """Every query by itself, over its d_key numbers."""

    def __init__(self, heads: int, d_key: int) -> None:
        super().__init__()
        self.norm = LayerNorm(d_key, EPS)

    def forward(self, q: Asked, positions: Positions) -> Asked:
        return self.norm(q)


class BatchNorm(nn.Module):
    """Every number of every head over all tokens of the batch, padding aside (Ioffe and Szegedy, 1502.03167).

    In evaluation by running averages of mean and variance, which a forward in training moves by a tenth; one that only makes
    activations again does not move them.
    """

    MOMENTUM = 0.1

    def __init__(self, heads: int, d_key: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(heads, d_key)), nn.Parameter(torch.zeros(heads, d_key))
        self.running_mean: Tensor
        self.running_variance: Tensor
        self.register_buffer("running_mean", torch.zeros(heads, d_key))
        self.register_buffer("running_variance", torch.ones(heads, d_key))

    def forward(self, q: Asked, positions: Positions) -> Asked:
        wide = q.to(torch.promote_types(q.dtype, torch.float32))
        mean, variance = self.running_mean, self.running_variance
        if self.training:
            mean, variance = self.averages(wide, positions.present.expand(q.shape[:2])[..., None, None].to(wide.dtype))
        return ((wide - mean) * torch.rsqrt(variance + EPS) * self.weight + self.bias).to(q.dtype)

    def averages(self, q: Asked, counts: Float[Tensor, "batch seq 1 1"]) -> tuple[Tensor, Tensor]:
        """Mean and variance over the tokens that count, each [heads, d_key]."""
        total = counts.sum().clamp(min=1)
        mean = (q * counts).sum((0, 1)) / total
        variance = ((q - mean).square() * counts).sum((0, 1)) / total
        chosen(lambda: self.remember(mean, variance, total))
        return mean, variance

    def remember(self, mean: Tensor, variance: Tensor, total: Tensor) -> Tensor:
        """Move the running averages: that of the variance by what estimates it without bias, as torch's does."""
        unbiased = variance * total / (total - 1).clamp(min=1)
        self.running_mean.lerp_(mean.to(self.running_mean), self.MOMENTUM)
        self.running_variance.lerp_(unbiased.to(self.running_variance), self.MOMENTUM)
        return total


class NoNorm(nn.Module):
    """Queries as they are."""

    def __init__(self, heads: int, d_key: int) -> None:
        super().__init__()

    def forward(self, q: Asked, positions: Positions) -> Asked:
        return q


NORMS: dict[str, Callable[[int, int], nn.Module]] = {"layer": EachNorm, "batch": BatchNorm, "none": NoNorm}
"""What makes the norm of the queries of so many heads, each d_key wide."""


# --- the memory -------------------------------------------------------------------------------------------------------


class ProductKeyMemory(nn.Module):
    """Learned values that queries look up. A sublayer of single positions: (x, positions, state, source) -> (y, None).

    keys  half-keys of each set, so that there are keys^2 values       heads  that ask, whose answers are summed
    d_key of a query, whose halves ask a set each                      best   values that a head gives a token
    norm  (heads, d_key) -> what norms queries: one of `NORMS`

    The paper has keys 512, heads 4, best 32. The taps `slots` and `weights` show what was looked up (see `usage`).
    """

    def __init__(
        self,
        d_model: int,
        *,
        keys: int,
        heads: int,
        d_key: int,
        best: int,
        norm: Callable[[int, int], nn.Module] = EachNorm,
    ) -> None:
        super().__init__()
        require("ProductKeyMemory", problems_of_memory(keys, heads, d_key, best))
        self.num_heads, self.best = heads, best
        self.query = nn.Linear(d_model, heads * d_key)
        self.norm = norm(heads, d_key)
        self.half_keys = nn.Parameter(torch.zeros(heads, 2, keys, d_key // 2))
        self.values = nn.Parameter(torch.zeros(keys * keys, d_model))
        self.queries, self.slots, self.weights = Tap(), Tap(), Tap()

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Half-keys even within 1 / sqrt(their width), values from N(0, 1 / d_model), as the authors' code has it."""
        bound = self.half_keys.shape[-1] ** -0.5
        nn.init.uniform_(self.half_keys, -bound, bound, generator=generator)
        nn.init.normal_(self.values, 0.0, self.values.shape[1] ** -0.5, generator=generator)

    def forward(self, x: Hidden, positions: Positions, state: None = None, source: Any = None) -> tuple[Hidden, None]:
        q = self.norm(self.query(x).unflatten(-1, (self.num_heads, -1)), positions)
        scores = half_scores(self.queries(q), self.half_keys)
        slots = self.slots(chosen(lambda: best_slots(scores, self.best)))
        weights = self.weights(softmax(scores_of(scores, slots)))
        return look_up(self.values, slots, weights), None


def half_scores(q: Asked, half_keys: Float[Tensor, "heads 2 keys half"]) -> HalfScores:
    """What either half of a query thinks of its set of half-keys [batch, seq, heads, 2, keys]."""
    return torch.einsum("bshcd,hcnd->bshcn", q.unflatten(-1, (2, -1)), half_keys.to(q.dtype))


def best_slots(scores: HalfScores, best: int) -> Slots:
    """The best keys of all keys^2, best first: found among the best of either half, and exactly so."""
    keys = scores.shape[-1]
    (first, second), (i, j) = (t.unbind(-2) for t in scores.topk(min(best, keys), -1))
    a, b = torch.tensor(pairs(first.shape[-1], best), device=scores.device).unbind(-1)
    found = (first[..., a] + second[..., b]).topk(best, -1).indices
    return i.gather(-1, a[found]) * keys + j.gather(-1, b[found])


@functools.cache
def pairs(ranks: int, best: int) -> list[tuple[int, int]]:
    """Ranks in the two halves that one of the best sums may have.

    Rank a with rank b is no better than any (a + 1) (b + 1) - 1 others, those of ranks up to a with ranks up to b. So of k^2
    pairs about k ln k are looked at: 119 where k is 32.
    """
    return [(a, b) for a in range(ranks) for b in range(ranks) if (a + 1) * (b + 1) <= best]


def scores_of(scores: HalfScores, slots: Slots) -> Float[Tensor, "*asked best"]:
    """The scores of these keys, with their gradient."""
    first, second = scores.unbind(-2)
    return first.gather(-1, slots // scores.shape[-1]) + second.gather(-1, slots % scores.shape[-1])


def softmax(scores: Tensor) -> Tensor:
    """In at least float32."""
    return scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32))


def look_up(
    values: Float[Tensor, "slots d_model"],
    slots: Int[Tensor, "batch seq heads best"],
    weights: Float[Tensor, "batch seq heads best"],
) -> Hidden:
    """The weighted sum of values over heads and slots, added up as they are read: no copy of them is made."""
    bags, parts = (t.flatten(2).flatten(0, 1) for t in (slots, weights))
    y = F.embedding_bag(bags, values, per_sample_weights=parts.to(values.dtype), mode="sum")
    return y.unflatten(0, slots.shape[:2])


def dense(q: Asked, half_keys: Tensor, values: Tensor, best: int) -> Hidden:
    """Queries to outputs with every key made and every key asked: the slow twin."""
    first, second = half_keys.unbind(1)
    keys = torch.cat(torch.broadcast_tensors(first[:, :, None], second[:, None]), -1).flatten(1, 2)
    scores = torch.einsum("bshd,hkd->bshk", q, keys)
    least = scores.topk(best, -1).values[..., -1:]
    pattern = scores.masked_fill(scores < least, -torch.inf).softmax(-1)
    return torch.einsum("bshk,km->bsm", pattern, values)


def problems_of_memory(keys: int, heads: int, d_key: int, best: int, prefix: str = "") -> list[str]:
    """What is wrong with such sizes. `prefix`: of their names in the config that has them."""
    sizes = {"keys": keys, "heads": heads}
    problems = [f"{prefix}{name} is {size}, wanted at least 1" for name, size in sizes.items() if size < 1]
    if d_key < 2 or d_key % 2:
        problems.append(f"{prefix}d_key is {d_key}, wanted an even number: halves of a query ask a set each")
    if not 2 <= best <= max(keys, 0) ** 2:
        given = f"{prefix}best is {best} of {prefix}keys^2 = {max(keys, 0) ** 2} values"
        problems.append(f"{given}, wanted at least 2 (one would weigh 1 whatever the query) and no more than there are")
    return problems


# --- how a memory is used ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Usage:
    """How much of a memory some texts used (section 4, metrics).

    share       of its values that were given to any token
    divergence  KL, in nats, of where the weight went from an even use: 0, up to ln(values) if all went to one
    """

    share: float
    divergence: float


def usage(slots: Tensor, weights: Tensor, values: int) -> Usage:
    """Of what the taps `slots` and `weights` showed: all tokens, heads and rows together."""
    received = torch.zeros(values, dtype=torch.float64).scatter_add_(
        0, slots.detach().flatten().cpu(), weights.detach().flatten().double().cpu()
    )
    z = received / received.sum()
    return Usage(float((received > 0).double().mean()), math.log(values) + float(torch.xlogy(z, z).sum()))
