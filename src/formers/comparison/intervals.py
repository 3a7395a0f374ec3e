"""Differences and how sure they are: paired over measurements, and over seeds and documents at once.

A model's score varies with the seed it was trained from and with the documents it is read on, so what is drawn anew when an
experiment is repeated is both. `crossed` takes differences d[s, i] of seed s and document i as mu + seed + document + rest,
each drawn at random. The interval's reach is that of seeds and that of documents, each Student's t with its own degrees of
freedom, added as sides of a right angle (Graybill and Wang, 1980, of sums of variances). Both hold the rest, so the interval is
rather too wide than too narrow. Of pairs without a difference 2 to 5 in 100 leave 0 out, by trial, with two seeds as with five;
one pooled error with Satterthwaite's degrees of freedom gave 10 in 100 with two seeds.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from formers.errors import DataError


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


@dataclass(frozen=True)
class Crossed(Interval):
    """An interval over documents (`count` of them) and seeds.

    p  how often chance alone gives a difference at least as large, two-sided
    """

    seeds: int
    p: float


def paired(after: Sequence[float], before: Sequence[float]) -> Interval:
    """Of after - before, pair by pair. Raises DataError where there are fewer than two pairs."""
    if len(after) != len(before) or len(after) < 2:
        raise DataError(f"{len(after)} and {len(before)} measurements", "two pairs or more for an interval")
    differences = [a - b for a, b in zip(after, before, strict=True)]
    mean, n = statistics.fmean(differences), len(differences)
    reach = t_quantile(0.975, n - 1) * statistics.stdev(differences) / math.sqrt(n)
    return Interval(mean, mean - reach, mean + reach, n)


def crossed(after: np.ndarray, before: np.ndarray, weights: np.ndarray) -> Crossed:
    """Of after - before, both float [seeds, documents]; `weights` float [documents] is how much each document counts.

    The k-th seed of one is paired with the k-th of the other. One seed alone says nothing of seeds: the interval is then of
    these two models; one document nothing of documents. Raises DataError where shapes differ, or there is one of both.
    """
    after, before = np.asarray(after, dtype=np.float64), np.asarray(before, dtype=np.float64)
    if after.shape != before.shape or after.ndim != 2 or after.size < 2:
        raise DataError(f"scores of shapes {after.shape} and {before.shape}", "seeds x documents, two or more")
    share = np.asarray(weights, dtype=np.float64) / np.sum(weights)
    differences = after - before
    mean = float((differences * share).sum(1).mean())
    errors = _errors(differences, share, mean)
    reach = _reach(0.05, errors)
    return Crossed(mean, mean - reach, mean + reach, after.shape[1], len(after), _chance(abs(mean), errors))


def _errors(differences: np.ndarray, share: np.ndarray, mean: float) -> list[tuple[float, int]]:
    """Standard errors of the weighted mean, of documents and of seeds, each with its degrees of freedom."""
    seeds, documents = differences.shape
    errors = []
    if documents > 1:
        squares = float((share**2 * (differences.mean(0) - mean) ** 2).sum())
        errors.append((math.sqrt(squares * documents / (documents - 1)), documents - 1))
    if seeds > 1:
        errors.append((float((differences * share).sum(1).std(ddof=1)) / math.sqrt(seeds), seeds - 1))
    return errors


def _reach(p: float, errors: Sequence[tuple[float, int]]) -> float:
    return math.hypot(*(t_quantile(1 - p / 2, freedom) * error for error, freedom in errors))


def _chance(distance: float, errors: Sequence[tuple[float, int]]) -> float:
    """The p whose interval just reaches so far."""
    if not any(error for error, _ in errors):
        return float(distance == 0)
    low, high = 0.0, 1.0
    for _ in range(26):
        middle = (low + high) / 2
        low, high = (low, middle) if _reach(middle, errors) < distance else (middle, high)
    return high


@lru_cache(maxsize=1 << 16)
def t_quantile(p: float, freedom: int) -> float:
    """Student's t: the value that a share `p` >= 1/2 of the distribution lies below.

    By bisection of the distribution function, which for t is elementary (Abramowitz and Stegun, 26.7.3 and 26.7.4).
    """
    low, high = 0.0, 1e6
    for _ in range(64):
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
