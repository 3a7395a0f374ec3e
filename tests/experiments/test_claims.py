"""Intervals and verdicts."""

from __future__ import annotations

import pytest

from formers.errors import DataError
from formers.experiments.claims import paired, t_below, t_quantile


@pytest.mark.parametrize(
    ("freedom", "table"), [(1, 12.706), (2, 4.303), (5, 2.571), (10, 2.228), (19, 2.093), (120, 1.980)]
)
def test_quantiles_of_t_are_those_of_the_tables(freedom: int, table: float) -> None:
    assert t_quantile(0.975, freedom) == pytest.approx(table, abs=6e-4)


@pytest.mark.parametrize("freedom", [1, 2, 3, 8])
def test_half_of_t_lies_below_0(freedom: int) -> None:
    assert t_below(0.0, freedom) == pytest.approx(0.5)


def test_a_steady_difference_excludes_0_and_a_scattered_one_does_not() -> None:
    steady = paired([1.0, 2.1, 3.0, 4.1], [1.1, 2.2, 3.1, 4.21])
    assert steady.below
    assert not steady.above
    assert steady.low < -0.1025 < steady.high
    scattered = paired([1.0, 3.0, 2.0, 5.0], [2.0, 1.0, 4.0, 3.0])
    assert not scattered.below
    assert not scattered.above


def test_the_interval_of_a_known_sample() -> None:
    found = paired([1.0, 2.0, 3.0, 4.0, 5.0], [0.0] * 5)  # mean 3, deviation 1.5811, t of 4 is 2.776
    assert (found.mean, found.count) == (3.0, 5)
    assert found.high - found.mean == pytest.approx(2.776 * 1.5811 / 5**0.5, rel=1e-3)


def test_one_pair_has_no_interval() -> None:
    with pytest.raises(DataError, match="two pairs"):
        paired([1.0], [2.0])
