"""Factorised patterns: sub-blocks of summary cells as a mask, and masks read as patterns (1904.10509, section 4.3)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from formers.errors import ConfigError
from formers.parts.masks import And, Block, Causal, Dilated, Mask, Or, SameDocument, SameSegment, Span, Summary, Window
from formers.parts.positions import Place


@dataclass(frozen=True)
class Columns(Mask):
    """Keys in the cells first .. first + count - 1 of every block of `stride`: a sub-block for some of the heads.

    The paper found distinct sub-blocks for the heads better than the same for all (section 4.3). `Summary(stride, count)` is
    the last of them.
    """

    stride: int
    first: int
    count: int

    def __post_init__(self) -> None:
        if self.stride < 1 or self.count < 1 or not 0 <= self.first <= self.stride - self.count:
            found = f"Columns(stride={self.stride}, first={self.first}, count={self.count})"
            raise ConfigError(found, "cells first .. first + count - 1 within a block")

    @property
    def grain(self) -> int:
        return 0

    def allows(self, q: Place, k: Place) -> Tensor:
        cell = k.index % self.stride
        return (cell >= self.first) & (cell < self.first + self.count) & (q.index == q.index)

    def block(self, q: Span, k: Span) -> Block:
        start, length = k.first - self.first, min(k.last - k.first + 1, self.stride)
        inside = [(start + n) % self.stride < self.count for n in range(length)]
        return Block.ALL if all(inside) else Block.SOME if any(inside) else Block.NONE


# --- what a mask asks for -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pattern:
    """A factorised mask, taken apart: chunks of `stride`; near keys, far keys, or both.

    columns  first and count of the summary cells where the pattern is fixed; None where it is strided
    """

    stride: int
    near: bool
    far: bool
    columns: tuple[int, int] | None
    documents: bool

    @property
    def fixed(self) -> bool:
        return self.columns is not None


def recognise(mask: Mask) -> Pattern | None:
    """The pattern of `Causal() & X`, with `SameDocument()` or without; None where X is none of the paper's sets."""
    parts = list(_conjuncts(mask))
    if Causal() not in parts:
        return None
    rest = [part for part in parts if part not in (Causal(), SameDocument())]
    found = _set(rest[0]) if len(rest) == 1 else None
    return None if found is None else Pattern(*found, documents=SameDocument() in parts)


def _conjuncts(mask: Mask) -> Iterator[Mask]:
    if isinstance(mask, And):
        yield from (*_conjuncts(mask.a), *_conjuncts(mask.b))
    else:
        yield mask


def _set(mask: Mask) -> tuple[int, bool, bool, tuple[int, int] | None] | None:
    """(stride, near, far, columns) of one of the paper's sets or of the union of two. (torch.compile traces no `match`.)"""
    if isinstance(mask, Window):
        return max(1, mask.size - 1), True, False, None
    if isinstance(mask, Dilated):
        return mask.step, False, True, None
    if isinstance(mask, SameSegment):
        return mask.size, True, False, (0, mask.size)
    if isinstance(mask, Summary):
        return mask.stride, False, True, (mask.stride - mask.count, mask.count)
    if isinstance(mask, Columns):
        return mask.stride, False, True, (mask.first, mask.count)
    return _union(mask.a, mask.b) if isinstance(mask, Or) else None


def _union(near: Mask, far: Mask) -> tuple[int, bool, bool, tuple[int, int] | None] | None:
    strided = isinstance(near, Window) and isinstance(far, Dilated) and near.size <= far.step + 1
    fixed = isinstance(near, SameSegment) and isinstance(far, Summary | Columns) and near.size == far.stride
    found = _set(far) if strided or fixed else None
    return None if found is None else (found[0], True, True, found[3])
