"""Masks are an algebra of functions of positions.

A mask says which key a query may see, from their positions alone: ``allows(query, key)``. It can also say of two whole
ranges whether nothing, something or everything is visible (``block``), so that a runner can skip or leave unmasked whole
blocks. ``&``, ``|`` and ``~`` combine them. Validity (padding, empty slots) is not a mask's business: `attend` applies it.

    Causal() & Window(256) | GlobalTokens()

Sources: Sparse Transformers (1904.10509) section 4 for strided and fixed; Longformer (2004.05150) section 3.1 for windows,
dilation and global tokens; Transformer-XL (1901.02860) section 3.2 for segments.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from formers.errors import ConfigError
from formers.parts.positions import Place


class Block(enum.Enum):
    """How much of a block of queries x keys a mask lets through."""

    NONE = "none"
    SOME = "some"
    ALL = "all"


@dataclass(frozen=True)
class Span:
    """A run of consecutive indices first..last (both included) of one document, and whether it holds global tokens."""

    first: int
    last: int
    document: int = 0
    any_global: bool = False
    all_global: bool = False


class Mask:
    """Base of all masks. `allows` takes broadcastable places and returns a Bool tensor of their common shape."""

    def allows(self, q: Place, k: Place) -> Tensor:
        raise NotImplementedError

    def block(self, q: Span, k: Span) -> Block:
        """What holds for every pair of the two spans. SOME is always a safe answer; NONE and ALL are promises."""
        raise NotImplementedError

    @property
    def grain(self) -> int:
        """A promise: queries of one document whose indices lie in one aligned block of `grain` see the same keys, so that one
        of them can be asked for all. 0: all queries of a document; 1: nothing is promised."""
        return 1

    def __and__(self, other: Mask) -> Mask:
        return And(self, other)

    def __or__(self, other: Mask) -> Mask:
        return Or(self, other)

    def __invert__(self) -> Mask:
        return Not(self)


@dataclass(frozen=True)
class And(Mask):
    a: Mask
    b: Mask

    @property
    def grain(self) -> int:
        return math.gcd(self.a.grain, self.b.grain)

    def allows(self, q: Place, k: Place) -> Tensor:
        return self.a.allows(q, k) & self.b.allows(q, k)

    def block(self, q: Span, k: Span) -> Block:
        a, b = self.a.block(q, k), self.b.block(q, k)
        if Block.NONE in (a, b):
            return Block.NONE
        return Block.ALL if (a, b) == (Block.ALL, Block.ALL) else Block.SOME


@dataclass(frozen=True)
class Or(Mask):
    a: Mask
    b: Mask

    @property
    def grain(self) -> int:
        return math.gcd(self.a.grain, self.b.grain)

    def allows(self, q: Place, k: Place) -> Tensor:
        return self.a.allows(q, k) | self.b.allows(q, k)

    def block(self, q: Span, k: Span) -> Block:
        a, b = self.a.block(q, k), self.b.block(q, k)
        if Block.ALL in (a, b):
            return Block.ALL
        return Block.NONE if (a, b) == (Block.NONE, Block.NONE) else Block.SOME


@dataclass(frozen=True)
class Not(Mask):
    a: Mask

    @property
    def grain(self) -> int:
        return self.a.grain

    def allows(self, q: Place, k: Place) -> Tensor:
        return ~self.a.allows(q, k)

    def block(self, q: Span, k: Span) -> Block:
        return {Block.NONE: Block.ALL, Block.ALL: Block.NONE, Block.SOME: Block.SOME}[self.a.block(q, k)]


@dataclass(frozen=True)
class ByHead(Mask):
    """A mask for each query head (windows that some heads dilate). Only for places of four axes, [batch, heads, ..]."""

    masks: tuple[Mask, ...]

    @property
    def grain(self) -> int:
        return math.gcd(*(mask.grain for mask in self.masks))

    def allows(self, q: Place, k: Place) -> Tensor:
        return torch.cat(torch.broadcast_tensors(*(mask.allows(q, k) for mask in self.masks)), 1)

    def block(self, q: Span, k: Span) -> Block:
        found = {mask.block(q, k) for mask in self.masks}
        return found.pop() if len(found) == 1 else Block.SOME


@dataclass(frozen=True)
class Everything(Mask):
    """Every key (encoders, cross-attention)."""

    @property
    def grain(self) -> int:
        return 0

    def allows(self, q: Place, k: Place) -> Tensor:
        return (q.index == q.index) & (k.index == k.index)

    def block(self, q: Span, k: Span) -> Block:
        return Block.ALL


@dataclass(frozen=True)
class Causal(Mask):
    """The query itself and what came before it."""

    def allows(self, q: Place, k: Place) -> Tensor:
        return k.index <= q.index

    def block(self, q: Span, k: Span) -> Block:
        return _interval(q.first - k.last, q.last - k.first, 0, None)


@dataclass(frozen=True)
class StrictlyPast(Mask):
    """What came before the query, without the query itself (Memory Mosaics)."""

    def allows(self, q: Place, k: Place) -> Tensor:
        return k.index < q.index

    def block(self, q: Span, k: Span) -> Block:
        return _interval(q.first - k.last, q.last - k.first, 1, None)


@dataclass(frozen=True)
class Window(Mask):
    """Keys at a distance below `size` on either side: with Causal, exactly the query and the `size` - 1 before it."""

    size: int

    def __post_init__(self) -> None:
        _positive(self, "size", self.size)

    def allows(self, q: Place, k: Place) -> Tensor:
        return (q.index - k.index).abs() < self.size

    def block(self, q: Span, k: Span) -> Block:
        return _interval(q.first - k.last, q.last - k.first, 1 - self.size, self.size - 1)


@dataclass(frozen=True)
class Dilated(Mask):
    """Keys at a distance that `step` divides; alone it is the second set of the strided pattern (1904.10509, 4.2)."""

    step: int

    def __post_init__(self) -> None:
        _positive(self, "step", self.step)

    def allows(self, q: Place, k: Place) -> Tensor:
        return (q.index - k.index) % self.step == 0

    def block(self, q: Span, k: Span) -> Block:
        low, high = q.first - k.last, q.last - k.first
        if self.step == 1 or (low == high and low % self.step == 0):
            return Block.ALL
        return Block.SOME if -(-low // self.step) * self.step <= high else Block.NONE


def Strided(stride: int) -> Mask:
    """Both sets of the strided pattern: the `stride` keys before and after, and every `stride`-th (1904.10509, 4.2).

    The paper prints the first set as i - stride .. i, stride + 1 keys; so does this.
    """
    return Window(stride + 1) | Dilated(stride)


@dataclass(frozen=True)
class SameSegment(Mask):
    """Keys in the query's own block of `size` indices: the first set of the fixed pattern (1904.10509, 4.2)."""

    size: int

    def __post_init__(self) -> None:
        _positive(self, "size", self.size)

    @property
    def grain(self) -> int:
        return self.size

    def allows(self, q: Place, k: Place) -> Tensor:
        return _segment(q.index, self.size) == _segment(k.index, self.size)

    def block(self, q: Span, k: Span) -> Block:
        low = q.first // self.size - k.last // self.size
        return _interval(low, q.last // self.size - k.first // self.size, 0, 0)


@dataclass(frozen=True)
class Summary(Mask):
    """Keys in the last `count` cells of every block of `stride`: the second set of the fixed pattern."""

    stride: int
    count: int

    def __post_init__(self) -> None:
        _positive(self, "stride", self.stride)
        if not 1 <= self.count <= self.stride:
            raise ConfigError(f"Summary(count={self.count})", f"1 to stride = {self.stride}")

    @property
    def grain(self) -> int:
        return 0

    def allows(self, q: Place, k: Place) -> Tensor:
        return (k.index % self.stride >= self.stride - self.count) & (q.index == q.index)

    def block(self, q: Span, k: Span) -> Block:
        start, length = k.first % self.stride, k.last - k.first + 1
        inside = [(start + n) % self.stride >= self.stride - self.count for n in range(min(length, self.stride))]
        return Block.ALL if all(inside) else Block.SOME if any(inside) else Block.NONE


def Fixed(stride: int, summary: int) -> Mask:
    """Both sets of the fixed pattern: the own block, and the last `summary` cells of every block (1904.10509, 4.2)."""
    return SameSegment(stride) | Summary(stride, summary)


@dataclass(frozen=True)
class GlobalTokens(Mask):
    """Pairs in which the query or the key is a global token (Longformer, 2004.05150, 3.1)."""

    def allows(self, q: Place, k: Place) -> Tensor:
        nothing = torch.zeros((), dtype=torch.bool, device=q.index.device)
        from_query = nothing if q.is_global is None else q.is_global
        from_key = nothing if k.is_global is None else k.is_global
        return (from_query | from_key) & Everything().allows(q, k)

    def block(self, q: Span, k: Span) -> Block:
        if q.all_global or k.all_global:
            return Block.ALL
        return Block.SOME if q.any_global or k.any_global else Block.NONE


@dataclass(frozen=True)
class SameDocument(Mask):
    """Pairs of one document. Where positions carry no documents, every pair is of one."""

    @property
    def grain(self) -> int:
        return 0

    def allows(self, q: Place, k: Place) -> Tensor:
        if q.document is None or k.document is None:
            return Everything().allows(q, k)
        return q.document == k.document

    def block(self, q: Span, k: Span) -> Block:
        return Block.ALL if q.document == k.document else Block.NONE


@dataclass(frozen=True)
class Segments(Mask):
    """The query's own segment of `size` and the `remembered` tokens before that segment (Transformer-XL).

    From positions alone, so it does not matter how the text was cut into calls.
    """

    size: int
    remembered: int

    def __post_init__(self) -> None:
        _positive(self, "size", self.size)
        if self.remembered < 0:
            raise ConfigError(f"Segments(remembered={self.remembered})", "0 or more")

    @property
    def grain(self) -> int:
        return self.size

    def allows(self, q: Place, k: Place) -> Tensor:
        start = _segment(q.index, self.size) * self.size
        return (k.index >= start - self.remembered) & (k.index < start + self.size)

    def block(self, q: Span, k: Span) -> Block:
        lo, hi = q.first // self.size * self.size, q.last // self.size * self.size
        if k.first >= hi - self.remembered and k.last < lo + self.size:
            return Block.ALL
        return Block.NONE if k.last < lo - self.remembered or k.first >= hi + self.size else Block.SOME


@dataclass(frozen=True)
class EarlierSegment(Mask):
    """Keys of segments before the query's: what a memory that is written after each segment of `size` can hold.

    behind  tokens just before the query's segment that it does not hold, for instance because a cache does
    reach   how many it holds; None: all
    """

    size: int
    behind: int = 0
    reach: int | None = None

    def __post_init__(self) -> None:
        _positive(self, "size", self.size)
        if self.behind < 0 or (self.reach is not None and self.reach < 0):
            raise ConfigError(f"EarlierSegment(behind={self.behind}, reach={self.reach})", "0 or more of each")

    @property
    def grain(self) -> int:
        return self.size

    def allows(self, q: Place, k: Place) -> Tensor:
        stop = _segment(q.index, self.size) * self.size - self.behind
        earlier = k.index < stop
        return earlier if self.reach is None else earlier & (k.index >= stop - self.reach)

    def block(self, q: Span, k: Span) -> Block:
        first, last = (i // self.size * self.size - self.behind for i in (q.first, q.last))
        if k.first >= last or (self.reach is not None and k.last < first - self.reach):
            return Block.NONE
        return Block.ALL if k.last < first and (self.reach is None or k.first >= last - self.reach) else Block.SOME


def _segment(index: Tensor, size: int) -> Tensor:
    return torch.div(index, size, rounding_mode="floor")


def _interval(low: int, high: int, least: int | None, most: int | None) -> Block:
    """Of values between low and high: how many lie between least and most (None: no bound)?"""
    least = low if least is None else least
    most = high if most is None else most
    if high < least or low > most:
        return Block.NONE
    return Block.ALL if least <= low and high <= most else Block.SOME


def _positive(mask: Mask, name: str, value: int) -> None:
    if value < 1:
        raise ConfigError(f"{type(mask).__name__}({name}={value})", f"{name} of at least 1")
