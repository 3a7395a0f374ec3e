"""Hashing by random rotations: vectors that point alike fall into one bucket (Andoni et al., 1509.02897; Reformer,
2001.04451, section 2).

    h(x) = argmax([x R; -x R])           R random [d, buckets / 2]; so h(c x) = h(x) for c > 0, and h(-x) = h(x) + buckets / 2

A hash of many buckets is put together from hashes of few: with (b1, b2) it is h1(x) + b1 h2(x), and R has (b1 + b2) / 2
columns instead of b1 b2 / 2. Several rounds are several hashes side by side.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from formers.errors import ConfigError

Vectors = Float[Tensor, "batch seq heads d_head"]
Buckets = Int[Tensor, "batch heads rounds seq"]
Order = Int[Tensor, "batch heads orders seq"]
"""Codes ``bucket * seq + place``, sorted where more than one chunk is to be cut: where each token went, and why."""

FRESH = -1
"""In place of a seed: rotations are drawn from torch's global generator, others at every call, as dropout is."""


@dataclass(frozen=True)
class Hashing:
    """How tokens are sorted into buckets.

    rounds       hashes side by side; more find more of the keys that a query would attend to
    num_buckets  even, or a tuple of even factors, or 1 (which hashes nothing); None: as many as the length asks for
    seed         of the rotations. None: others at every call in training, and always the same in evaluation
    chunk        tokens of a chunk, which the buckets should be half as long as: it decides `num_buckets` where that is None
    max_length   of the model: where it is long, its many buckets are factorised
    """

    rounds: int
    num_buckets: int | tuple[int, ...] | None
    seed: int | None
    chunk: int
    max_length: int

    def __post_init__(self) -> None:
        factors = (2,) if self.num_buckets in (None, 1) else self.factors(1)
        if not factors or any(f < 2 or f % 2 for f in factors):
            raise ConfigError(
                f"num_buckets {self.num_buckets}", "an even number, or several, or 1", "half are the others' opposites"
            )
        if self.rounds < 1:
            raise ConfigError(f"{self.rounds} rounds of hashing", "at least 1")

    def factors(self, length: int) -> tuple[int, ...]:
        """The factors whose product is the number of buckets for texts of `length` tokens.

        By itself the power of two at or below 2 length / chunk, so that a bucket is half a chunk long (section 2, "m = 2 l
        / n_buckets"); in two factors where it is more than both twice the chunk and twice the root of the chunks that the
        longest text has, as Hugging Face and the authors' code factorise it.
        """
        if self.num_buckets is not None:
            return (self.num_buckets,) if isinstance(self.num_buckets, int) else tuple(self.num_buckets)
        power = (2 * max(1, length // self.chunk)).bit_length() - 1
        if 2**power <= 2 * max(math.isqrt(self.max_length // self.chunk), self.chunk):
            return (2**power,)
        return 2 ** (power // 2), 2 ** (power - power // 2)

    def seed_for(self, training: bool) -> int:
        """What the rotations of this call are drawn from."""
        return self.seed if self.seed is not None else FRESH if training else 0


def rotations(
    factors: Sequence[int], rounds: int, like: Vectors, seed: int
) -> Float[Tensor, "heads d_head rounds columns"]:
    """Random rotations of every head and round, drawn on a CPU, so that a seed means the same on every device."""
    generator = None if seed == FRESH else torch.Generator().manual_seed(seed)
    shape = (like.shape[2], like.shape[3], rounds, sum(factors) // 2)
    return torch.randn(shape, generator=generator, dtype=like.dtype).to(like.device)


def hashed(x: Vectors, rotation: Float[Tensor, "heads d_head rounds columns"], factors: Sequence[int]) -> Buckets:
    """The bucket of every vector in every round. Zero vectors fall into bucket 0."""
    rotated = torch.einsum("bthd,hdrc->bhrtc", x, rotation)
    bucket, base = torch.zeros(rotated.shape[:-1], dtype=torch.long, device=x.device), 1
    for factor, part in zip(factors, rotated.split([f // 2 for f in factors], -1), strict=True):
        if factor == 1:
            continue
        (most, at), (least, opposite) = part.max(-1), part.min(-1)
        bucket += base * torch.where(most >= -least, at, opposite + factor // 2)
        base *= factor
    return bucket


def bucketed(x: Vectors, present: Bool[Tensor, "#batch seq"], hashing: Hashing, length: int, seed: int) -> Buckets:
    """The buckets of `x` in a text of `length` tokens. Padding falls into a bucket of its own behind all others."""
    factors = hashing.factors(length)
    found = _hash(x, list(factors), hashing.rounds, seed)
    return torch.where(present[:, None, None, :], found, math.prod(factors))


def coded(bucket: Buckets) -> Order:
    """Buckets and places as one number each, in the order of places."""
    n = bucket.shape[-1]
    return bucket * n + torch.arange(n, device=bucket.device)


def sort(bucket: Buckets) -> Order:
    """Codes sorted by bucket, then by place: stable by construction."""
    return _sort(coded(bucket))


def taken_apart(order: Order) -> tuple[Tensor, Tensor]:
    """The bucket and the place of every token in its order."""
    n = order.shape[-1]
    return order // n, order % n


def ranks(order: Order) -> Int[Tensor, "batch heads rounds seq"]:
    """For every token, how many tokens stand before it in each round's order."""
    n = order.shape[-1]
    steps = torch.arange(n, device=order.device).expand_as(order)
    return torch.empty_like(order).scatter_(-1, order % n, steps)


@torch.library.custom_op(
    "formers::lsh_hash", mutates_args=(), schema="(Tensor x, int[] factors, int rounds, int seed) -> Tensor"
)
def _hash(x: Tensor, factors: list[int], rounds: int, seed: int) -> Tensor:
    """`hashed` by fresh or seeded rotations; an operator, because compiled code has no generators."""
    return hashed(x, rotations(factors, rounds, x, seed), factors)


@_hash.register_fake
def _(x: Tensor, factors: list[int], rounds: int, seed: int) -> Tensor:
    return x.new_empty((x.shape[0], x.shape[2], rounds, x.shape[1]), dtype=torch.long)


@torch.library.custom_op("formers::lsh_sort", mutates_args=(), schema="(Tensor code) -> Tensor")
def _sort(code: Tensor) -> Tensor:
    """numpy sorts integers by vector instructions on a CPU: 0.2 ms where torch takes 3.4 (65,536 codes, one core)."""
    if code.device.type != "cpu":
        return code.sort(-1).values
    import numpy

    narrow = code.int() if int(code.amax()) < 2**31 else code
    return torch.from_numpy(numpy.sort(narrow.numpy(), axis=-1)).long()


@_sort.register_fake
def _(code: Tensor) -> Tensor:
    return torch.empty_like(code)
