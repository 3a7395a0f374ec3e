"""What LSH attention remembers: queries that are keys, values, and the bucket of each in every round."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from formers.parts.positions import Positions
from formers.parts.rings import KeyValueRing, StagedEntries


@dataclass(frozen=True)
class Entries:
    """All that queries of a call may see, and what to commit.

    keys, values  [batch, heads, keys, d_head]          buckets  Int [batch, heads, rounds, keys]
    positions     of the keys, a row for each row       at       Int [batch, queries]: where the call's own tokens stand
    """

    keys: Tensor
    values: Tensor
    buckets: Tensor
    positions: Positions
    at: Int[Tensor, "batch queries"]
    staged: StagedHashed


@dataclass
class HashedCache:
    """A cache of `vectors` (shared queries and keys, values) and a cache of the `buckets` they fell into, side by side."""

    vectors: KeyValueRing
    buckets: KeyValueRing

    @classmethod
    def empty(cls, batch: int, heads: int, capacity: int, d_head: int, rounds: int, **kind: Any) -> HashedCache:
        vectors = KeyValueRing.empty(batch, heads, capacity, d_head, d_head, overflow="refuse", **kind)
        whole: dict[str, Any] = kind | {"dtype": torch.int32}
        return cls(vectors, KeyValueRing.empty(batch, heads, capacity, rounds, 0, overflow="refuse", **whole))

    @property
    def capacity(self) -> int:
        return self.vectors.capacity

    def extend(self, q: Tensor, v: Tensor, bucket: Tensor, positions: Positions) -> Entries:
        """Remembered entries, then those of this call: q, v [batch, heads, seq, d], bucket [batch, heads, rounds, seq].

        Vectors take the cache's type, so that both caches lay their entries out alike.
        """
        dtype, batch = self.vectors.keys.dtype, q.shape[0]
        keys, values, k_positions, staged = self.vectors.extend(q.to(dtype), v.to(dtype), positions)
        number = bucket.transpose(2, 3).int()
        buckets, _, _, staged_buckets = self.buckets.extend(number, number[..., :0], positions)
        total, fresh = keys.shape[2], q.shape[2]
        last = torch.arange(total - fresh, total, device=q.device).expand(batch, fresh)
        at = last if staged.slots is None else staged.slots
        return Entries(
            keys, values, buckets.transpose(2, 3), k_positions.rows(batch), at, StagedHashed(staged, staged_buckets)
        )

    def map_rows(self, function: Callable[[Tensor], Tensor]) -> HashedCache:
        return self._both(lambda ring: ring.map_rows(function))

    def reset(self, rows: Tensor) -> HashedCache:
        return self._both(lambda ring: ring.reset(rows))

    def dynamic(self) -> HashedCache:
        return self._both(lambda ring: ring.dynamic())

    def keep(self, length: int) -> HashedCache:
        return self._both(lambda ring: ring.keep(length))

    def tensors(self) -> dict[str, Tensor]:
        named = {"vectors": self.vectors, "buckets": self.buckets}
        return {f"{name}.{key}": t for name, ring in named.items() for key, t in ring.tensors().items()}

    def with_tensors(self, tensors: dict[str, Tensor]) -> HashedCache:
        def of(name: str) -> dict[str, Tensor]:
            return {key.removeprefix(f"{name}."): t for key, t in tensors.items() if key.startswith(f"{name}.")}

        return HashedCache(self.vectors.with_tensors(of("vectors")), self.buckets.with_tensors(of("buckets")))

    def _both(self, function: Callable[[KeyValueRing], KeyValueRing]) -> HashedCache:
        return replace(self, vectors=function(self.vectors), buckets=function(self.buckets))


@dataclass
class StagedHashed:
    """Entries of one call, not yet remembered."""

    vectors: StagedEntries
    buckets: StagedEntries

    def commit(self) -> HashedCache:
        return HashedCache(self.vectors.commit(), self.buckets.commit())
