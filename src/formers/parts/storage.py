"""How a memory holds its vectors: as they are (float32, bf16, ..), or as int8 with a scale for each vector.

    vectors = storage_for(torch.int8).empty(batch, heads, slots, d)
    vectors.write(rows, slots, x)           # rounds x to what can be held
    vectors.part(row, heads, slots)         # decoded, without a copy where nothing has to be decoded
    vectors.gather(flat)                    # decoded, one by one

What is read is exactly what is held, decoded: reading twice gives the same bits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from formers.errors import ConfigError

LEVELS = 127
"""Of int8 on either side of zero."""


@runtime_checkable
class Vectors(Protocol):
    """[batch, heads, slots, d] vectors. `write` writes in place, nothing else changes anything."""

    @property
    def shape(self) -> torch.Size: ...

    @property
    def dtype(self) -> torch.dtype:
        """What decoded vectors are."""
        ...

    def rounded(self, x: Tensor) -> Tensor:
        """`x` [.., d] as it would read once written."""
        ...

    def finite(self, x: Tensor) -> bool:
        """Whether `x` can be held without turning into infinity or NaN."""
        ...

    def write(self, row: Tensor, slot: Tensor, x: Tensor) -> None:
        """x [entries, heads, d] to (row, slot) each."""
        ...

    def part(self, row: int, heads: slice, slots: slice) -> Tensor:
        """[heads, slots, d] of one row."""
        ...

    def gather(self, flat: Tensor) -> Tensor:
        """[.., d] at places of batch x heads x slots, counted through."""
        ...

    def map(self, function: Callable[[Tensor], Tensor]) -> Vectors: ...

    def tensors(self, name: str) -> dict[str, Tensor]: ...

    def with_tensors(self, name: str, tensors: dict[str, Tensor]) -> Vectors: ...


@dataclass(frozen=True)
class Plain:
    """Vectors as they are, in the type of `data`."""

    data: Float[Tensor, "batch heads slots d"]

    @classmethod
    def empty(cls, *shape: int, **kind: Any) -> Plain:
        return cls(torch.zeros(*shape, **kind))

    @staticmethod
    def bytes_each(d: int, dtype: torch.dtype) -> int:
        return d * dtype.itemsize

    @property
    def shape(self) -> torch.Size:
        return self.data.shape

    @property
    def dtype(self) -> torch.dtype:
        return self.data.dtype

    def rounded(self, x: Tensor) -> Tensor:
        return x.to(self.data.dtype)

    def finite(self, x: Tensor) -> bool:
        return bool(torch.isfinite(self.rounded(x)).all())

    def write(self, row: Tensor, slot: Tensor, x: Tensor) -> None:
        self.data[row, :, slot] = x.to(self.data.dtype)

    def part(self, row: int, heads: slice, slots: slice) -> Tensor:
        return self.data[row, heads, slots]

    def gather(self, flat: Int[Tensor, "*places"]) -> Tensor:
        return _pick(self.data, flat)

    def map(self, function: Callable[[Tensor], Tensor]) -> Plain:
        return Plain(function(self.data))

    def tensors(self, name: str) -> dict[str, Tensor]:
        return {name: self.data}

    def with_tensors(self, name: str, tensors: dict[str, Tensor]) -> Plain:
        return Plain(tensors[name])


@dataclass(frozen=True)
class Int8:
    """Vectors as int8 times a float32 scale for each: the largest component of a vector is exactly 127 of its steps, so a
    component is off by at most 1/254 of the largest. A quarter of float32's bytes (and 4 for the scale)."""

    codes: Int[Tensor, "batch heads slots d"]
    scale: Float[Tensor, "batch heads slots one"]

    @classmethod
    def empty(cls, *shape: int, device: torch.device | str | None = None, **_: Any) -> Int8:
        codes = torch.zeros(*shape, dtype=torch.int8, device=device)
        return cls(codes, torch.zeros(*shape[:-1], 1, device=device))

    @staticmethod
    def bytes_each(d: int, _: torch.dtype = torch.int8) -> int:
        return d + 4

    @property
    def shape(self) -> torch.Size:
        return self.codes.shape

    @property
    def dtype(self) -> torch.dtype:
        return self.scale.dtype

    def rounded(self, x: Tensor) -> Tensor:
        codes, scale = _encode(x)
        return codes * scale.to(self.dtype)

    def finite(self, x: Tensor) -> bool:
        return bool(torch.isfinite(x.float()).all())

    def write(self, row: Tensor, slot: Tensor, x: Tensor) -> None:
        codes, scale = _encode(x)
        self.codes[row, :, slot] = codes
        self.scale[row, :, slot] = scale.to(self.scale.dtype)

    def part(self, row: int, heads: slice, slots: slice) -> Tensor:
        return self.codes[row, heads, slots] * self.scale[row, heads, slots]

    def gather(self, flat: Int[Tensor, "*places"]) -> Tensor:
        return _pick(self.codes, flat) * _pick(self.scale, flat)

    def map(self, function: Callable[[Tensor], Tensor]) -> Int8:
        return Int8(function(self.codes), function(self.scale))

    def tensors(self, name: str) -> dict[str, Tensor]:
        return {name: self.codes, f"{name}_scale": self.scale}

    def with_tensors(self, name: str, tensors: dict[str, Tensor]) -> Int8:
        return Int8(tensors[name], tensors[f"{name}_scale"])


def storage_for(dtype: torch.dtype | None) -> type[Plain] | type[Int8]:
    """Int8 for torch.int8, Plain for floating-point types. Raises ConfigError for others."""
    if dtype is not None and dtype != torch.int8 and not dtype.is_floating_point:
        raise ConfigError(f"vectors held as {dtype}", "torch.int8, or a floating-point type")
    return Int8 if dtype == torch.int8 else Plain


def _encode(x: Tensor) -> tuple[Tensor, Tensor]:
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    scale = (wide.abs().amax(-1, keepdim=True) / LEVELS).float()
    steps = wide / scale.to(wide.dtype).clamp(min=torch.finfo(torch.float32).tiny)
    return steps.round().clamp(-LEVELS, LEVELS).to(torch.int8), scale


def _pick(data: Tensor, flat: Tensor) -> Tensor:
    """Whole vectors by index: one copy each, and none of `data`. (As an embedding it takes a third of index_select's time.)"""
    return F.embedding(flat, data.flatten(0, 2))
