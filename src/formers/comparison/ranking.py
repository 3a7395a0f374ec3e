"""Who wins, by how much, and where the honest answer is "cannot tell"."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np

from formers.comparison.intervals import Crossed, crossed

SURE = 0.05
"""A difference counts as told where chance alone gives one as large less often than this, all pairs together."""


@dataclass(frozen=True)
class Measure:
    """How a verdict speaks of scores, of which fewer are better: "it needs 2.1 bits per byte"."""

    verb: str = "needs"
    unit: str = "bits per byte"


BITS, WRONG = Measure(), Measure("gets", "of the answers wrong")


@dataclass(frozen=True)
class Entry:
    """What is ranked: bits per byte, float [seeds, documents]."""

    name: str
    scores: np.ndarray

    def mean(self, weights: np.ndarray) -> float:
        """Over seeds and documents, each of which counts by its weight."""
        return float((self.scores.mean(0) * weights).sum() / weights.sum())

    def of_seeds(self, weights: np.ndarray) -> list[float]:
        """The same of each seed."""
        return [float(each) for each in (self.scores * weights).sum(1) / weights.sum()]


@dataclass(frozen=True)
class Pair:
    """Two entries, the one with fewer bits per byte first.

    difference  worse - better, so its mean is never negative
    p           of all pairs together (Holm, 1979)
    told        whether the two can be told apart
    """

    better: str
    worse: str
    difference: Crossed
    p: float
    told: bool


@dataclass(frozen=True)
class Ranking:
    """Names, fewest bits per byte first, every pair of them, and the verdict in words."""

    names: tuple[str, ...]
    means: dict[str, float]
    pairs: tuple[Pair, ...]
    verdict: str

    def pair(self, one: str, other: str) -> Pair:
        """The pair of two names."""
        return next(pair for pair in self.pairs if {pair.better, pair.worse} == {one, other})


def rank(entries: Sequence[Entry], weights: np.ndarray, measure: Measure = BITS) -> Ranking:
    """The ranking of entries that were read on the same documents. `weights`: bytes of each document."""
    weights = np.asarray(weights, dtype=np.float64)
    ordered = sorted(entries, key=lambda entry: (entry.mean(weights), entry.name))
    means = {entry.name: entry.mean(weights) for entry in ordered}
    pairs = _pairs(ordered, weights)
    names = tuple(entry.name for entry in ordered)
    return Ranking(names, means, pairs, verdict(names, means, pairs, measure))


def _pairs(ordered: Sequence[Entry], weights: np.ndarray) -> tuple[Pair, ...]:
    found = []
    for better, worse in combinations(ordered, 2):
        seeds = min(len(better.scores), len(worse.scores))
        found.append((better.name, worse.name, crossed(worse.scores[:seeds], better.scores[:seeds], weights)))
    corrected = holm([difference.p for *_, difference in found])
    return tuple(
        Pair(better, worse, difference, p, difference.seeds > 1 and p < SURE)
        for (better, worse, difference), p in zip(found, corrected, strict=True)
    )


def holm(ps: Sequence[float]) -> list[float]:
    """Each p as it counts among all of them (Holm, 1979): the smallest times their number, the next times one less, .."""
    largest, out = 0.0, [0.0] * len(ps)
    for rank_, at in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        largest = max(largest, min(1.0, ps[at] * (len(ps) - rank_)))
        out[at] = largest
    return out


# --- in words -----------------------------------------------------------------------------------------------------------


def verdict(names: Sequence[str], means: dict[str, float], pairs: Sequence[Pair], measure: Measure = BITS) -> str:
    """Which wins, or that it cannot be told, and what is surely behind the first."""
    if len(names) < 2:
        alone = f"{names[0]} {measure.verb} {means[names[0]]:.4f} {measure.unit}"
        return f"{alone}; there is nothing to compare it with."
    first = names[0]
    of_first = {pair.worse: pair for pair in pairs if pair.better == first}
    level = [name for name in names[1:] if not of_first[name].told]
    behind = [name for name in names[1:] if of_first[name].told]
    score = f"{measure.verb} {means[first]:.4f} {measure.unit}"
    sentences = [
        _level(first, score, [of_first[name] for name in level]) if level else _wins(score, of_first[names[1]])
    ]
    rest = behind if level else behind[1:]
    if rest:
        sentences.append(f"Behind {first} by more than chance: {'; '.join(_behind(of_first[name]) for name in rest)}.")
    sentences += _others(names[1:], pairs)
    return " ".join(sentences)


def _wins(score: str, pair: Pair) -> str:
    return f"{pair.better} wins: it {score}, {pair.difference.mean:.4f} fewer than {pair.worse} ({_sure(pair.difference)})."


def _level(first: str, score: str, level: Sequence[Pair]) -> str:
    others = "; ".join(f"{pair.worse} {pair.difference.mean:.4f} more ({_sure(pair.difference)})" for pair in level)
    said = f"Cannot tell which is best: {first} {score}, {others}."
    if all(pair.difference.seeds == 1 for pair in level):
        return f"{said} One seed each: the difference may be the seed's. Train with more seeds."
    return said


def _behind(pair: Pair) -> str:
    difference = pair.difference
    return f"{pair.worse} by {difference.mean:.4f} ({difference.low:+.4f} to {difference.high:+.4f})"


def _others(names: Sequence[str], pairs: Sequence[Pair]) -> list[str]:
    """Neighbours behind the first that cannot be told apart."""
    wanted = list(pairwise(names))
    same = [pair for pair in pairs if (pair.better, pair.worse) in wanted and not pair.told]
    if not same:
        return []
    return [f"Cannot tell apart: {'; '.join(f'{pair.better} and {pair.worse}' for pair in same)}."]


def _sure(difference: Crossed) -> str:
    seeds = f"{difference.seeds} seeds" if difference.seeds > 1 else "one seed"
    documents = f", {difference.count} documents" if difference.count > 1 else ""
    return f"95% interval {difference.low:+.4f} to {difference.high:+.4f}, {seeds}{documents}"
