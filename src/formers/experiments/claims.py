"""What an experiment says of a claim: paired differences with their interval, and one of three words."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from formers.errors import DataError

Word = Literal["reproduced", "smaller effect", "not reproduced"]


@dataclass(frozen=True)
class Verdict:
    """A claim, what became of it, and the figures that say so."""

    claim: str
    word: Word
    figures: dict[str, Any]


@dataclass(frozen=True)
class Interval:
    """The mean of differences and where it lies with 95% confidence (Student's t)."""

    mean: float
    low: float
    high: float
    count: int

    @property
    def below(self) -> bool:
        """Whether all of it is below 0."""
        return self.high < 0

    @property
    def above(self) -> bool:
        """Whether all of it is above 0."""
        return self.low > 0


def paired(after: Sequence[float], before: Sequence[float]) -> Interval:
    """Of after - before, pair by pair. Raises DataError where there are fewer than two pairs."""
    if len(after) != len(before) or len(after) < 2:
        raise DataError(f"{len(after)} and {len(before)} measurements", "two pairs or more for an interval")
    differences = [a - b for a, b in zip(after, before, strict=True)]
    mean, n = statistics.fmean(differences), len(differences)
    reach = t_quantile(0.975, n - 1) * statistics.stdev(differences) / math.sqrt(n)
    return Interval(mean, mean - reach, mean + reach, n)


def t_quantile(p: float, freedom: int) -> float:
    """Student's t: the value that a share `p` >= 1/2 of the distribution lies below.

    By bisection of the distribution function, which for t is elementary (Abramowitz and Stegun, 26.7.3 and 26.7.4).
    """
    low, high = 0.0, 1e6
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if t_below(middle, freedom) < p else (low, middle)
    return (low + high) / 2


def t_below(t: float, freedom: int) -> float:
    """The share of Student's t with so many degrees of freedom that lies below `t` >= 0."""
    angle = math.atan2(t, math.sqrt(freedom))
    if freedom % 2:
        term, total = math.cos(angle), 0.0
        for k in range(1, freedom - 1, 2):
            total += term
            term *= (k + 1) / (k + 2) * math.cos(angle) ** 2
        share = 2 / math.pi * (angle + math.sin(angle) * total)
    else:
        term, total = 1.0, 0.0
        for k in range(1, freedom, 2):
            total += term
            term *= k / (k + 1) * math.cos(angle) ** 2
        share = math.sin(angle) * total
    return (1 + share) / 2
