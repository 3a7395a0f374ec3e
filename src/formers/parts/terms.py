"""Score terms: what is added to the scaled logits of attention.

A term's `prepare(project, positions)` runs once a forward and returns a function of the queries, the keys and their
positions, which adds; so tables are read once, and the same term serves whole texts, caches and blocks.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from formers.parts.attend import ByDistance, Term
from formers.parts.embeddings import sinusoid_halves
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
        ratio = torch.tensor(distance, dtype=torch.float32, device="cpu") / exact
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
    """A learned number for each bucket of relative position and each head (T5, 1910.10683, section 2.1).

    scale  what the table is multiplied by. Adam moves a number by the learning rate a step, whatever its size, and a head
           that looks at one place only needs differences of 5 and more: a table of small numbers takes thousands of steps.
    """

    def __init__(
        self,
        num_heads: int,
        *,
        num_buckets: int = 32,
        max_distance: int = 128,
        bidirectional: bool,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.num_buckets, self.scale = num_buckets, scale
        self.past, self.future = max_distance + 1, max_distance + 1 if bidirectional else 0  # beyond, all is one bucket
        relative = torch.arange(-self.past, self.future + 1, device="cpu")
        bucket = t5_bucket(relative, num_buckets=num_buckets, max_distance=max_distance, bidirectional=bidirectional)
        self.buckets = tuple(bucket.tolist())
        self.table = nn.Embedding(num_buckets, num_heads)
        self._shared: _Shared | None = None

    @contextlib.contextmanager
    def shared(self, positions: Positions) -> Iterator[None]:
        """Within, all layers that ask for these positions are given one term, which reads the table once."""
        # nn.Module's own way to set an attribute takes twenty times as long
        self.__dict__["_shared"] = _Shared(positions)
        try:
            yield
        finally:
            self.__dict__["_shared"] = None

    def prepare(self, project: nn.Module, positions: Positions) -> Term:
        shared = self._shared
        if shared is None or shared.positions is not positions:
            return self._term()
        if shared.term is None:
            term = self._term()
            shared.term = ByDistance(_once(term.add), term.line)
        return shared.term

    def _term(self) -> ByDistance:
        weight = self.table.weight if self.scale == 1 else self.table.weight * self.scale
        by_distance = weight[torch.tensor(self.buckets, device=weight.device)]

        def place(distance: Tensor) -> Tensor:
            return distance.clamp(-self.past, self.future) + self.past

        def add(q: Tensor, k: Tensor, q_positions: Positions, k_positions: Positions) -> Tensor:
            return chosen(by_distance, place(distances(q_positions, k_positions)))

        return ByDistance(add, lambda distance: by_distance[place(distance)].T)


@dataclass
class _Shared:
    """A term for the layers of one forward, and the positions by which they are known."""

    positions: Positions
    term: Term | None = None


def _once(term: Term) -> Term:
    """The same for positions that do not change from layer to layer, computed for the first of them. It reads no q and k."""
    known: list[tuple[Positions, Positions, Tensor]] = []

    def add(q: Tensor, k: Tensor, q_positions: Positions, k_positions: Positions) -> Tensor:
        if not known or known[0][0] is not q_positions or known[0][1] is not k_positions:
            known[:] = [(q_positions, k_positions, term(q, k, q_positions, k_positions))]
        return known[0][2]

    return add


def chosen(table: Float[Tensor, "places heads"], place: Int[Tensor, "b t s"]) -> Float[Tensor, "b heads t s"]:
    """table[place], heads first. Gathered for each row and head, because the gradient of that is summed row by row, thirty
    times as fast on a CPU as that of indexing."""
    rows, heads = len(place), table.shape[1]
    wide = place.flatten(1)[:, None].expand(rows, heads, -1)
    return table.T.expand(rows, heads, -1).gather(2, wide).unflatten(2, place.shape[1:])


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

        def line(distance: Tensor) -> Float[Tensor, "heads places"]:
            return -torch.tensor(self.slopes, device=distance.device, dtype=torch.float64)[:, None] * distance.abs()

        return ByDistance(add, line)


class RelativeBiases(nn.Module):
    """u and v of Transformer-XL [heads, d_head]: what every query asks of contents, and of distances.

    One module may serve the terms of all layers.
    """

    def __init__(self, num_heads: int, d_head: int) -> None:
        super().__init__()
        self.content = nn.Parameter(torch.zeros(num_heads, d_head))
        self.distance = nn.Parameter(torch.zeros(num_heads, d_head))


class RelativeSinusoids(nn.Module):
    """u.k_j + (q_i + v).(W R_{i-j}), scaled as q is: with q_i.k_j the four parts of Transformer-XL's attention score.

    R_m is the sinusoid of distance m, all sines before all cosines; W is `linear`. Dai et al. (1901.02860), section 3.3.

    reach   distances 0 .. reach-1 are told apart. The mask must hide keys further away; they count as at reach-1
    scale   what q arrives scaled by
    biases  u and v; shared where one module is given to several terms
    Keys and values are not grouped: every query head has a key head. Memory: [b, h, t, max(s, reach)].
    """

    def __init__(
        self, d_model: int, num_heads: int, d_head: int, *, reach: int, scale: float, biases: RelativeBiases
    ) -> None:
        super().__init__()
        self.reach, self.scale = reach, scale
        self.linear = nn.Linear(d_model, num_heads * d_head, bias=False)
        self.biases = biases

    def prepare(self, project: nn.Module, positions: Positions) -> Term:
        rows: dict[int, Tensor] = {}  # W R once a forward, however many blocks ask for it

        def add(q: Tensor, k: Tensor, q_positions: Positions, k_positions: Positions) -> Float[Tensor, "b h t s"]:
            shape = (*q.shape[:3], k.shape[2])
            distance = -distances(q_positions, k_positions)
            told = self._told(q_positions, k_positions)
            scores = self._by_distance(q + (self.biases.distance * self.scale)[:, None].to(q.dtype), told, rows)
            scores = scores.gather(-1, distance.clamp(0, told - 1)[:, None].expand(shape))
            # not as a matrix product of one row: compiled for bf16, queries then get gradients of NaN (Inductor of torch
            # 2.13 on a CPU; the same graph run without its kernels is right)
            content = (k * (self.biases.content * self.scale)[:, None].to(k.dtype)).sum(-1)
            return scores + content[:, :, None]

        return add

    def _told(self, q_positions: Positions, k_positions: Positions) -> int:
        """How many distances there can be: fewer than `reach` where both starts are known and the text is short."""
        if q_positions.start is None or k_positions.start is None:
            return self.reach
        return max(1, min(self.reach, q_positions.start + q_positions.length - k_positions.start))

    def _by_distance(self, q: Tensor, told: int, rows: dict[int, Tensor]) -> Float[Tensor, "b h t told"]:
        """q_i.(W R_m) for m = 0 .. told-1. For few queries q is taken through W, which is less than all R_m."""
        b, h, t, d = q.shape
        weight = self.linear.weight
        sinusoids = distance_sinusoids(told, weight.shape[1], weight.dtype, weight.device)
        if b * t * weight.shape[1] < d * (weight.shape[1] + b * t):
            return q @ weight.view(h, d, -1) @ sinusoids.T
        if told not in rows:
            rows[told] = self.linear(sinusoids).view(told, h, d).permute(1, 2, 0)
        return q @ rows[told]


def distance_sinusoids(count: int, d_model: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """R_0 .. R_{count-1} [count, d_model]. Kept for the next call, since every layer and step asks for nearly the same."""
    if torch.compiler.is_compiling():
        return sinusoid_halves(torch.arange(count, device=device), d_model, dtype)
    return _kept_sinusoids(1 << (count - 1).bit_length(), d_model, dtype, device)[:count]


@functools.lru_cache(maxsize=8)
def _kept_sinusoids(count: int, d_model: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # what is kept must serve training too
        return sinusoid_halves(torch.arange(count, device=device), d_model, dtype)
