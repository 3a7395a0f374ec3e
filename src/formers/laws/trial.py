"""What the laws try: how long, how often, and every random number from one seed."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from formers.errors import TargetError
from formers.parts.masks import And, ByHead, Mask, Not, Or

SMALL, LARGE = 3_000_000, 50_000_000
"""Parameters: below SMALL every position is tried; above LARGE only a few, in short texts."""
LONGEST = 600
"""No law tries more tokens than this in a row, however far a model's windows reach."""


@dataclass(frozen=True)
class Trial:
    """Sizes and random numbers of one law.

    length  tokens of a whole text: prime, beyond the model's windows, and no other size of the model
    size    "small" tries everywhere, "middle" and "large" less and less
    """

    vocab_size: int
    length: int
    size: str
    seed: int
    device: torch.device
    generator: torch.Generator = field(default_factory=torch.Generator)

    def of(self, law: str) -> Trial:
        """The same for a law of this name: its numbers do not depend on which other laws are tried."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + zlib.crc32(law.encode()))
        return replace(self, generator=generator)

    def ids(self, batch: int, length: int | None = None) -> Tensor:
        """Random input ids [batch, length]."""
        return self._randint(0, self.vocab_size, (batch, length or self.length))

    def other(self, ids: Tensor) -> Tensor:
        """Ids that differ from these everywhere."""
        return (ids + self._randint(1, self.vocab_size, tuple(ids.shape))) % self.vocab_size

    def places(self) -> list[int]:
        """Where to change a token: everywhere in small models; else the second, the last, and some between."""
        every = range(1, self.length)
        few = {"small": len(every), "middle": 6, "large": 3}[self.size]
        if few >= len(every):
            return list(every)
        order = torch.randperm(len(every), generator=self.generator)[: few - 2].tolist()
        return sorted({1, self.length - 1, *(every[i] for i in order)})

    def cuts(self, length: int) -> list[int]:
        """Random lengths of calls that make up a text of `length`: at least one call of one token, and one of more."""
        lengths = []
        while sum(lengths) < length:
            most = 1 if self.integer(0, 3) == 0 else 7
            lengths.append(min(self.integer(1, most + 1), length - sum(lengths)))
        return lengths if length < 4 or {1} < set(lengths) else [2, *[1] * (length - 2)]

    def integer(self, low: int, high: int) -> int:
        """A random integer, low <= n < high."""
        return int(torch.randint(low, high, (), generator=self.generator))

    def weights(self, shape: Sequence[int], like: Tensor) -> Tensor:
        """Normal numbers to weigh logits with, so that no gradient cancels."""
        return torch.randn(tuple(shape), generator=self.generator, dtype=torch.float64).to(like)

    def _randint(self, low: int, high: int, shape: tuple[int, ...]) -> Tensor:
        return torch.randint(low, high, shape, generator=self.generator).to(self.device)


def plan(
    model: nn.Module, vocab_size: int, max_length: int | None, *, length: int | None, seed: int, device: torch.device
) -> Trial:
    """How to try this model. A `length` that is given is kept; else one that is beyond windows and prime is chosen."""
    if vocab_size < 2:
        raise TargetError(f"a vocabulary of {vocab_size}", "at least 2 tokens: the laws change one token for another")
    parameters = sum(p.numel() for p in model.parameters())
    size = "small" if parameters < SMALL else "middle" if parameters < LARGE else "large"
    if length is None:
        length = choose_length(model, max_length, {"small": 31, "middle": 23, "large": 13}[size])
    if length < 4 or (max_length is not None and length > max_length):
        raise TargetError(f"a length of {length}", f"4 to {max_length or 'any number of'} tokens", "pass length=...")
    return Trial(vocab_size, length, size, seed, device)


def choose_length(model: nn.Module, max_length: int | None, least: int) -> int:
    """The smallest prime from `least` on that is beyond the model's windows and no other size of the model.

    Where the model has no positions for so many tokens, the largest prime for which it has.
    """
    taken = {size for parameter in model.parameters() for size in parameter.shape}
    wanted = min(max(least, reach(model) + 7), LONGEST)
    candidates = [n for n in range(wanted, wanted + 1000) if is_prime(n) and n not in taken]
    if max_length is None or candidates[0] <= max_length:
        return candidates[0]
    return max((n for n in range(4, max_length + 1) if is_prime(n)), default=max_length)


def is_prime(n: int) -> bool:
    return n > 1 and all(n % divisor for divisor in range(2, int(n**0.5) + 1))


def reach(model: nn.Module) -> int:
    """How many tokens back the widest window, segment or stride among the model's masks reaches; 0 without any."""
    masks = [mask for module in model.modules() for mask in vars(module).values() if isinstance(mask, Mask)]
    return max((_reach(mask) for mask in masks), default=0)


def _reach(mask: Any) -> int:
    if isinstance(mask, And | Or):
        return max(_reach(mask.a), _reach(mask.b))
    if isinstance(mask, Not):
        return _reach(mask.a)
    if isinstance(mask, ByHead):
        return max(map(_reach, mask.masks))
    return sum(value for value in vars(mask).values() if isinstance(value, int))


def gap(found: Tensor, wanted: Tensor) -> float:
    """Largest difference, relative to the largest wanted number where that is above 1. Not-a-number stays that."""
    if not found.numel():
        return 0.0
    scale = wanted.abs().amax().clamp(min=1.0)
    return float((found - wanted).abs().amax() / scale)


def gradient_gap(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> float:
    """The largest gap among gradients; not-a-number where one is."""
    if not (found and wanted):
        return 0.0
    gaps = [gap(f, w) for f, w in zip(found, wanted, strict=True)]
    return float(torch.tensor(gaps, dtype=torch.float64).amax())
