"""How much better, and how sure: paired bootstrap over what was tested (Efron and Tibshirani, 1993, chapter 13)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from formers.errors import DataError

RESAMPLES = 2000

Score = Callable[[np.ndarray], np.ndarray]
"""Sums [.., k] of what is counted -> a score each."""


@dataclass(frozen=True)
class Difference:
    """One score less another of the same test, and where it lies in 95% of the resampled tests.

    groups  that were drawn anew, with all that belongs to each
    """

    mean: float
    low: float
    high: float
    groups: int
    resamples: int


def difference(
    ours: np.ndarray,
    theirs: np.ndarray,
    groups: Sequence[str],
    score: Score,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Difference:
    """score(ours) - score(theirs), the groups of the test drawn with replacement, the same for both.

    ours, theirs  [items, k], what is counted of every item
    groups        of every item: what belongs together is drawn together

    Raises DataError where numbers of items differ, or there are fewer than two groups.
    """
    names, group = np.unique(np.asarray(groups), return_inverse=True)
    if not len(ours) == len(theirs) == len(group) or len(names) < 2:
        raise DataError(
            f"{len(ours)}, {len(theirs)} and {len(names)} groups", "as many items each, of two groups or more"
        )
    drawn = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples)
    sums = [_by_group(np.asarray(counts, dtype=np.float64), group) for counts in (ours, theirs)]
    mean = score(sums[0].sum(0)) - score(sums[1].sum(0))
    low, high = np.quantile(score(drawn @ sums[0]) - score(drawn @ sums[1]), (0.025, 0.975))
    return Difference(float(mean), float(low), float(high), len(names), resamples)


def _by_group(counts: np.ndarray, group: np.ndarray) -> np.ndarray:
    sums = np.zeros((group.max() + 1, counts.shape[1]))
    np.add.at(sums, group, counts)
    return sums


def share(sums: np.ndarray) -> np.ndarray:
    """Of [.., 2]: the first by the second; a share of nothing is 0."""
    return sums[..., 0] / np.maximum(sums[..., 1], 1)


def f1(sums: np.ndarray) -> np.ndarray:
    """Of [.., 3], right, predicted and true: 2 right / (predicted + true)."""
    return 2 * sums[..., 0] / np.maximum(sums[..., 1] + sums[..., 2], 1)


def means(scores: Sequence[float]) -> np.ndarray:
    """Scores of items as what `share` takes the mean of."""
    return np.stack([np.asarray(scores, dtype=np.float64), np.ones(len(scores))], axis=1)


def in_words(found: Difference, measure: str, baseline: str, unit: str) -> str:
    """The verdict: better, worse or not to be told apart, by how much, and how sure.

    unit  what was drawn anew: "articles"
    """
    sure = f"(95% interval {found.low:+.3f} to {found.high:+.3f}, bootstrap over {found.groups:,} {unit})"
    by = f"{measure} {found.mean:+.3f} {sure}"
    if found.low > 0:
        return f"better than {baseline}: {by}"
    if found.high < 0:
        return f"worse than {baseline}: {by}"
    return f"not to be told apart from {baseline}: {by}"
