"""Paired bootstrap: what it draws, how wide it is, and what it says."""

from __future__ import annotations

import math

import numpy as np
import pytest

from formers.errors import DataError
from formers.experiments.bootstrap import Difference, difference, f1, in_words, means, share


def numbers(count: int, per: int = 1) -> list[str]:
    return [str(n // per) for n in range(count)]


def test_the_interval_of_a_mean_is_that_of_the_normal_distribution() -> None:
    draw = np.random.default_rng(0)
    ours, theirs = draw.normal(1.0, 1.0, 400), draw.normal(0.0, 1.0, 400)
    found = difference(means(ours), means(theirs), numbers(400), share)
    gap = ours - theirs
    reach = 1.96 * gap.std(ddof=1) / math.sqrt(400)
    assert abs(found.mean - gap.mean()) < 1e-12
    assert abs((found.high - found.low) / 2 / reach - 1) < 0.1
    assert (found.groups, found.resamples) == (400, 2000)


def test_what_belongs_together_is_drawn_together() -> None:
    """Copies of one item say nothing new: ten of each are as sure as one."""
    draw = np.random.default_rng(0)
    ours, theirs = draw.normal(1.0, 1.0, 50), draw.normal(0.0, 1.0, 50)
    once = difference(means(ours), means(theirs), numbers(50), share)
    tenfold = difference(means(np.repeat(ours, 10)), means(np.repeat(theirs, 10)), numbers(500, 10), share)
    apart = difference(means(np.repeat(ours, 10)), means(np.repeat(theirs, 10)), numbers(500), share)
    assert abs((tenfold.high - tenfold.low) / (once.high - once.low) - 1) < 0.1
    assert (apart.high - apart.low) < 0.5 * (once.high - once.low)


def test_the_difference_is_paired() -> None:
    """Both are scored on the same draw, so what moves both moves nothing."""
    hard = np.random.default_rng(0).normal(0.0, 9.0, 100)
    found = difference(means(hard + 0.5), means(hard), numbers(100), share)
    assert found.low == pytest.approx(found.high) == pytest.approx(0.5)


def test_the_seed_alone_decides() -> None:
    ours, theirs = np.arange(20.0), np.arange(20.0)[::-1]
    one, again, other = (difference(means(ours), means(theirs), numbers(20), share, seed=seed) for seed in (0, 0, 1))
    assert one == again != other


def test_f1_and_shares_are_of_sums_and_nothing_is_0() -> None:
    assert f1(np.array([[2.0, 4.0, 2.0], [0, 0, 0]])).tolist() == [2 * 2 / 6, 0.0]
    assert share(np.array([[3.0, 4.0], [0, 0]])).tolist() == [0.75, 0.0]


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [(0.1, 0.3, "better than"), (-0.3, -0.1, "worse than"), (-0.1, 0.2, "not to be told apart")],
)
def test_the_verdict_goes_by_the_interval(low: float, high: float, said: str) -> None:
    words = in_words(Difference((low + high) / 2, low, high, 29, 2000), "F1", "the rule", "articles")
    assert words.startswith(said)
    assert "the rule" in words
    assert f"{low:+.3f} to {high:+.3f}" in words
    assert "29 articles" in words


def test_unequal_numbers_and_one_group_are_refused() -> None:
    for ours, theirs, groups in ((3, 2, numbers(3)), (3, 3, numbers(2)), (3, 3, ["a"] * 3)):
        with pytest.raises(DataError, match="groups"):
            difference(means(np.ones(ours)), means(np.ones(theirs)), groups, share)
