"""Score terms: what is added to the scaled logits of attention.

A term's `prepare(project, positions)` runs once a forward and returns a function of the queries, the keys and their
positions, which adds; so tables are read once, and the same term serves whole texts, caches and blocks.
"""

from __future__ import annotations

import functools
import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from formers.parts.attend import Term
from formers.parts.positions import Positions


def distances(q_positions: Positions, k_positions: Positions) -> Int[Tensor, "#batch queries keys"]:
    """Key index minus query index: negative for the past."""
    return k_positions.index[:, None, :] - q_positions.index[:, :, None]


def t5_bucket(
    relative: Int[Tensor, "*axes"], *, num_buckets: int, max_distance: int, bidirectional: bool
) -> Int[Tensor, "*axes"]:
    """The bucket of a relative position (key minus query): exact when near, logarithmic further out (T5, 1910.10683, 2.1).

    Edges are counted on integers once, so no rounding of a logarithm can move them.
    """
    half = num_buckets // 2 if bidirectional else num_buckets
    distance = relative.abs() if bidirectional else (-relative).clamp(min=0)
    edges = torch.tensor(t5_edges(half, max_distance), device=relative.device)
    bucket = torch.bucketize(distance, edges, right=True)
    return bucket + half * (relative > 0) if bidirectional else bucket


@functools.cache
def t5_edges(num_buckets: int, max_distance: int) -> tuple[int, ...]:
    """The first distance of buckets 1, 2, .., num_buckets-1."""
    exact = num_buckets // 2

    def bucket(distance: int) -> int:
        if distance < exact:
            return distance
        # float32, as T5 itself computed it
        ratio = torch.tensor(distance, dtype=torch.float32) / exact
        beyond = torch.log(ratio) / math.log(max_distance / exact) * (num_buckets - exact)
        return min(num_buckets - 1, exact + int(beyond))

    first: dict[int, int] = {}
    for distance in range(max_distance + 2):
        first.setdefault(bucket(distance), distance)
    edges, last = [], max_distance + 2
    for b in range(num_buckets - 1, 0, -1):  # a bucket that no distance falls in starts where the next one does
        last = first.get(b, last)
        edges.append(last)
    return tuple(edges[::-1])


class T5Bias(nn.Module):
    """A learned number for each bucket of relative position and each head (T5, 1910.10683, section 2.1)."""

    def __init__(self, num_heads: int, *, num_buckets: int = 32, max_distance: int = 128, bidirectional: bool) -> None:
        super().__init__()
        self.num_buckets, self.max_distance, self.bidirectional = num_buckets, max_distance, bidirectional
        self.table = nn.Embedding(num_buckets, num_heads)

    def prepare(self, project: nn.Module, positions: Positions) -> Term:
        weight = self.table.weight

        def add(q: Tensor, k: Tensor, q_positions: Positions, k_positions: Positions) -> Tensor:
            bucket = t5_bucket(
                distances(q_positions, k_positions),
                num_buckets=self.num_buckets,
                max_distance=self.max_distance,
                bidirectional=self.bidirectional,
            )
            return weight[bucket].permute(0, 3, 1, 2)

        return add


def alibi_slopes(num_heads: int) -> list[float]:
    """2^(-8h/n) for n a power of two; else those of the power below, then every second one of twice that power."""

    def powers(n: int) -> list[float]:
        return [2.0 ** (-8.0 * h / n) for h in range(1, n + 1)]

    below = 2 ** int(math.log2(num_heads))
    return powers(below) + powers(2 * below)[::2][: num_heads - below]


class ALiBi(nn.Module):
    """-slope x distance, a fixed slope for each head, no other positions (Press et al., 2108.12409). No parameters."""

    def __init__(self, num_heads: int) -> None:
        super().__init__()
        self.slopes = alibi_slopes(num_heads)

    def prepare(self, project: nn.Module, positions: Positions) -> Term:
        def add(q: Tensor, k: Tensor, q_positions: Positions, k_positions: Positions) -> Float[Tensor, "b h t s"]:
            dtype = torch.promote_types(q.dtype, torch.float32)
            slopes = torch.tensor(self.slopes, device=q.device, dtype=dtype)
            return -slopes[None, :, None, None] * distances(q_positions, k_positions).abs()[:, None].to(dtype)

        return add
