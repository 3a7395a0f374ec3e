"""Exact bounds: what a count of chances may be, but for one time in a million."""

from __future__ import annotations

import functools
import math

ONE_IN = 1e6


@functools.cache
def binomial_bounds(number: int, chance: float, one_in: float = ONE_IN) -> tuple[int, int]:
    """The smallest and the largest of Binomial(number, chance) once 1 / (2 one_in) is cut off at each end.

    From the exact probabilities, added up from the ends (log-gamma, so that none under- or overflows on the way). What lies 15
    standard deviations from the mean is left out: less than 1e-40.
    """

    def log_of(k: int) -> float:
        ways = math.lgamma(number + 1) - math.lgamma(k + 1) - math.lgamma(number - k + 1)
        return ways + k * math.log(chance) + (number - k) * math.log1p(-chance)

    def end(places: range) -> int:
        left = 0.5 / one_in
        for k in places:
            left -= math.exp(log_of(k))
            if left < 0:
                return k
        return places[-1]

    mean, reach = number * chance, 15 * math.sqrt(number * chance * (1 - chance)) + 15
    least, most = max(0, math.floor(mean - reach)), min(number, math.ceil(mean + reach))
    return end(range(least, most + 1)), end(range(most, least - 1, -1))


def within(count: int, number: int, chance: float) -> bool:
    """Whether `count` of `number` is believable at `chance`."""
    low, high = binomial_bounds(number, chance)
    return low <= count <= high
