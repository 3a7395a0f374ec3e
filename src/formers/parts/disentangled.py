"""Disentangled attention: contents and distances have vectors of their own, and a score is the sum of three products.

    A_ij = q_i.k_j + q_i.Kr[delta(i,j)] + k_j.Qr[delta(i,j)], over sqrt(3 d_head)

delta(i,j) is the row of the distance i - j in a table P that all layers share; Kr and Qr are maps of P, a layer's own or
those of its contents. He et al., "DeBERTa: Decoding-enhanced BERT with Disentangled Attention" (2006.03654), section 3.1.

Equation 4 of the paper takes Qr at delta(j,i); its authors' code, and every checkpoint, takes it at delta(i,j).
"""

from __future__ import annotations

import bisect
import functools
import math
from collections.abc import Collection

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from formers.axes import Hidden, Keys, Queries, Values
from formers.parts.attend import Afresh, Term
from formers.parts.attention import Attention, Project
from formers.parts.distance_scores import Rows, distance_scores
from formers.parts.positions import Positions
from formers.parts.terms import distances

CONTENT_TO_POSITION, POSITION_TO_CONTENT = "c2p", "p2c"
TERMS = (CONTENT_TO_POSITION, POSITION_TO_CONTENT)
"""q_i.Kr and k_j.Qr by the names that configurations give them."""


# --- distances --------------------------------------------------------------------------------------------------------


def log_bucket(relative: Int[Tensor, "*axes"], *, num_buckets: int, max_distance: int) -> Int[Tensor, "*axes"]:
    """Distances with their sign, exact to num_buckets // 2, in logarithmic buckets further out (the authors' version 2).

    Edges are counted on integers once, so no rounding of a logarithm can move them.
    """
    return _by_edges(relative, log_edges(num_buckets, max_distance))


def _by_edges(relative: Int[Tensor, "*axes"], edges: tuple[int, ...]) -> Int[Tensor, "*axes"]:
    among = torch.tensor(edges, device=relative.device)
    return torch.bucketize(relative.abs(), among, right=True) * relative.sign()


@functools.cache
def log_edges(num_buckets: int, max_distance: int) -> tuple[int, ...]:
    """The first distance of buckets 1, 2, .., num_buckets."""
    exact = num_buckets // 2
    whole = math.log((max_distance - 1) / exact)  # where the buckets end; a / a is 1 whatever was rounded

    def bucket(distance: int) -> int:
        if distance <= exact:
            return distance
        return exact + math.ceil(math.log(distance / exact) / whole * (exact - 1))

    return tuple(bisect.bisect_left(range(_FAR), b, key=bucket) for b in range(1, num_buckets + 1))


_FAR = 2**40
"""Where buckets are no longer looked for: a bucket that no distance falls in begins there."""


class Distances(nn.Module):
    """P [2 reach, d_model]: a row for each distance that is told apart, -reach .. reach-1. One module may serve all layers.

    max_distance  None: distances are exact. Else they fall into log buckets, and `reach` is how many of these there are
    norm          of the rows, or None
    """

    def __init__(
        self,
        d_model: int,
        *,
        reach: int,
        max_distance: int | None = None,
        norm: nn.Module | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.reach, self.max_distance, self.dropout = reach, max_distance, dropout
        self.table = nn.Embedding(2 * reach, d_model)
        self.norm = norm
        self.edges = None if max_distance is None else log_edges(reach, max_distance)

    def forward(self, told: int) -> Float[Tensor, "rows d_model"]:
        """The rows of distances -told .. told, as far as there are such."""
        first = self.reach - told
        rows = self.table(torch.arange(first, first + self.count(told), device=self.table.weight.device))
        rows = rows if self.norm is None else self.norm(rows)
        return F.dropout(rows, self.dropout, self.training)

    def count(self, told: int) -> int:
        """How many rows those are."""
        return told + min(told, self.reach - 1) + 1

    def row(self, relative: Int[Tensor, "*axes"], told: int) -> Int[Tensor, "*axes"]:
        """Which of the rows of `forward(told)` is that of each distance (query minus key)."""
        return self._bucket(relative).clamp(-told, min(told, self.reach - 1)) + told

    def told(self, farthest: int | None) -> int:
        """How far the rows must reach for tokens so far apart at most: all the way where nobody knows."""
        if farthest is None:
            return self.reach
        return min(self.reach, farthest if self.edges is None else sum(edge <= farthest for edge in self.edges))

    def _bucket(self, relative: Int[Tensor, "*axes"]) -> Int[Tensor, "*axes"]:
        return relative if self.edges is None else _by_edges(relative, self.edges)


def _farthest(q_positions: Positions, k_positions: Positions) -> int | None:
    """The largest distance of any two of these tokens; None where asking would make a device or a compiler wait."""
    q, k = q_positions, k_positions
    if q.index.device.type != "cpu" or torch.compiler.is_compiling():
        return None
    apart = torch.stack([q.index.max() - k.index.min(), k.index.max() - q.index.min()])
    return max(0, int(apart.max()))


# --- what distances are mapped to -------------------------------------------------------------------------------------


class OwnMaps(nn.Module):
    """Kr and Qr by maps of a layer's own, those of `terms` alone. key_bias: whether the map to Kr has one."""

    def __init__(self, d_model: int, num_heads: int, d_head: int, *, terms: Collection[str], key_bias: bool) -> None:
        super().__init__()
        self.d_head, width = d_head, num_heads * d_head
        self.keys = nn.Linear(d_model, width, bias=key_bias) if CONTENT_TO_POSITION in terms else None
        self.queries = nn.Linear(d_model, width) if POSITION_TO_CONTENT in terms else None

    def forward(self, project: nn.Module, rows: Float[Tensor, "rows d_model"]) -> tuple[Rows | None, Rows | None]:
        keys = None if self.keys is None else _by_head(self.keys(rows), self.d_head)
        return keys, None if self.queries is None else _by_head(self.queries(rows), self.d_head)


class ContentMaps(nn.Module):
    """Kr and Qr by the maps that make keys and queries of contents (`share_att_key`), those of `terms` alone."""

    def __init__(self, terms: Collection[str]) -> None:
        super().__init__()
        self.terms = frozenset(terms)

    def forward(self, project: nn.Module, rows: Float[Tensor, "rows d_model"]) -> tuple[Rows | None, Rows | None]:
        assert isinstance(project, Project)
        linear, d_head, (width, *_) = project.linear, project.d_head, project.widths
        found = F.linear(rows, linear.weight[: 2 * width], linear.bias[: 2 * width]).split(width, -1)
        queries, keys = (_by_head(t, d_head) for t in found)
        return (
            keys if CONTENT_TO_POSITION in self.terms else None,
            queries if POSITION_TO_CONTENT in self.terms else None,
        )


def _by_head(x: Float[Tensor, "rows width"], d_head: int) -> Rows:
    return x.unflatten(-1, (-1, d_head)).transpose(0, 1)


# --- the score --------------------------------------------------------------------------------------------------------


class DisentangledScore(nn.Module):
    """q_i.Kr[delta(i,j)] + k_j.Qr[delta(i,j)], scaled as q is. Memory: the scores, or where they are gathered [b, h, t, rows].

    distances  P; shared where one module is given to several terms
    maps       `OwnMaps` or `ContentMaps`
    scale      what q arrives scaled by
    Keys and values are not grouped: every query head has a key head. Documents packed into a row must not see each other.
    """

    def __init__(self, distances: Distances, maps: OwnMaps | ContentMaps, *, scale: float) -> None:
        super().__init__()
        self.distances, self.maps, self.scale = distances, maps, scale

    def prepare(self, project: nn.Module, positions: Positions) -> Term:
        prepared: dict[int, tuple[Rows | None, Rows | None]] = {}  # once a forward, however many blocks ask for it

        def rows(told: int) -> tuple[Rows | None, Rows | None]:
            if told not in prepared:
                keys, queries = self.maps(project, self.distances(told))
                prepared[told] = keys, None if queries is None else queries * self.scale
            return prepared[told]

        def add(q: Tensor, k: Tensor, q_positions: Positions, k_positions: Positions) -> Float[Tensor, "b h t s"]:
            least = _least(q_positions, k_positions)
            if least is None:
                told = self.distances.told(_farthest(q_positions, k_positions))
                return gathered(q, k, *rows(told), self.distances.row(-distances(q_positions, k_positions), told))
            most = least + q_positions.length + k_positions.length - 2
            told = self.distances.told(max(-least, most))
            row = self.distances.row(torch.arange(least, most + 1, device=q.device), told)
            dtype = _product_type(q)
            keys, queries = (None if t is None else t.index_select(1, row).to(dtype) for t in rows(told))
            return distance_scores(q.to(dtype), k.to(dtype), keys, queries)

        return Afresh(add)


def gathered(
    q: Tensor, k: Tensor, keys: Rows | None, queries: Rows | None, row: Int[Tensor, "#b t s"]
) -> Float[Tensor, "b h t s"]:
    """Every row's score, and of these those that `row` picks: for any distances, and the slow twin of `distance_scores`."""
    row, total = row[:, None], None
    if keys is not None:
        scores = q @ keys.mT
        total = scores.gather(-1, row.expand(*scores.shape[:3], -1))
    if queries is not None:
        scores = k @ queries.mT
        picked = scores.gather(-1, row.mT.contiguous().expand(*scores.shape[:3], -1)).mT
        total = picked if total is None else total.add_(picked)
    assert total is not None
    return total


def _least(q_positions: Positions, k_positions: Positions) -> int | None:
    """The distance of the first query and the last key, where any two tokens that may see each other are as far apart as their
    places in the tensors; None where they are not, or that is not known."""
    q, k = q_positions, k_positions
    if q.start is not None and k.start is not None:
        return q.start - (k.start + k.length - 1)
    return 1 - k.length if q is k and q.in_runs else None


def _product_type(q: Tensor) -> torch.dtype:
    """What a product with q is computed in."""
    kind = q.device.type
    narrow = torch.is_autocast_enabled(kind) and q.dtype != torch.float64
    return torch.get_autocast_dtype(kind) if narrow else q.dtype


# --- attention --------------------------------------------------------------------------------------------------------


class UnbiasedKeys(Project):
    """q, k and v by one map; queries and values have biases, keys have none (version 1)."""

    def __init__(self, d_model: int, num_heads: int, d_head: int) -> None:
        super().__init__(d_model, num_heads, d_head, bias=False)
        self.query_bias = nn.Parameter(torch.zeros(num_heads * d_head))
        self.value_bias = nn.Parameter(torch.zeros(num_heads * d_head))

    def forward(self, x: Hidden) -> tuple[Queries, Keys, Values]:
        bias = torch.cat([self.query_bias, torch.zeros_like(self.query_bias), self.value_bias])
        q, k, v = F.linear(x, self.linear.weight, bias).split(self.widths, dim=-1)
        return self._heads(q), self._heads(k), self._heads(v)

    def apart(self, x: Hidden, seen: Float[Tensor, "batch keys d_model"]) -> tuple[Queries, Keys, Values]:
        width, weight = self.widths[0], self.linear.weight
        k, v = F.linear(seen, weight[width:]).split(width, dim=-1)
        q = F.linear(x, weight[:width], self.query_bias)
        return self._heads(q), self._heads(k), self._heads(v + self.value_bias)


class TwoStreamAttention(Attention):
    """Self-attention whose queries may also come of another stream than its keys and values."""

    def between(self, x: Hidden, seen: Hidden, positions: Positions) -> Hidden:
        """What queries of `x` make of `seen`: the same tokens at the same positions."""
        q, k, v = self.project.apart(x, seen)  # type: ignore[operator]
        q, k, v = self.queries(q * self.score.scale), self.keys(k), self.values(v)
        return self.mix(self.heads(self.weigh(q, k, v, positions, positions)))
