"""Each schedule against its closed form, written out here a second time."""

from __future__ import annotations

import math

import pytest

from formers.errors import ConfigError
from formers.training.schedules import SCHEDULES, Schedule

PEAK, FLOOR, WARMUP, TOTAL = 3e-3, 3e-4, 10, 110


def schedule(name, **changes) -> Schedule:
    return Schedule(**{"name": name, "peak": PEAK, "total": TOTAL, "warmup": WARMUP, "floor_ratio": 0.1, **changes})


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_warm_up_is_a_line_from_zero_to_the_peak(name):
    for step in range(1, WARMUP + 1):
        assert schedule(name).lr_at(step) == pytest.approx(PEAK * step / WARMUP, rel=1e-12)


@pytest.mark.parametrize(
    ("name", "closed_form"),
    [
        ("constant", lambda s: PEAK),
        ("linear", lambda s: FLOOR + (PEAK - FLOOR) * (TOTAL - s) / (TOTAL - WARMUP)),
        ("cosine", lambda s: FLOOR + (PEAK - FLOOR) * math.cos(math.pi / 2 * (s - WARMUP) / (TOTAL - WARMUP)) ** 2),
        ("rsqrt", lambda s: max(FLOOR, PEAK * (WARMUP / s) ** 0.5)),
        ("wsd", lambda s: PEAK if s <= 90 else FLOOR + (PEAK - FLOOR) * (TOTAL - s) / 20),
        (
            "restarts",
            lambda s: (
                FLOOR if s % 25 == 10 else FLOOR + (PEAK - FLOOR) * math.cos(math.pi / 2 * ((s - 10) % 25) / 25) ** 2
            ),
        ),
    ],
)
def test_after_the_warm_up_every_step_equals_the_closed_form(name, closed_form):
    for step in range(WARMUP + 1, TOTAL + 1):
        assert schedule(name).lr_at(step) == pytest.approx(closed_form(step), rel=1e-9), step


@pytest.mark.parametrize("name", ["linear", "cosine", "wsd", "restarts"])
def test_the_last_step_is_the_floor_and_later_steps_stay_there(name):
    assert schedule(name).lr_at(TOTAL) == pytest.approx(FLOOR, rel=1e-12)
    assert schedule(name).lr_at(TOTAL + 50) == pytest.approx(FLOOR, rel=1e-12)


@pytest.mark.parametrize("name", ["linear", "cosine", "wsd", "restarts"])
def test_a_floor_of_zero_ends_at_zero(name):
    assert schedule(name, floor_ratio=0.0).lr_at(TOTAL) == 0.0


@pytest.mark.parametrize("name", SCHEDULES)
def test_no_warm_up_starts_near_the_peak_and_no_step_leaves_the_range(name):
    rates = [schedule(name, warmup=0).lr_at(step) for step in range(1, TOTAL + 1)]
    assert rates[0] > 0.9 * PEAK
    assert all(FLOOR * (1 - 1e-12) <= rate <= PEAK * (1 + 1e-12) for rate in rates)


def test_restarts_climb_back_to_nearly_the_peak_after_each_bottom():
    rates = [schedule("restarts").lr_at(step) for step in range(1, TOTAL + 1)]
    climbs = [step for step in range(WARMUP, TOTAL - 1) if rates[step + 1] > rates[step] + 0.5 * PEAK]
    assert len(climbs) == 3


def test_by_the_clock_the_shape_follows_the_progress_given():
    assert schedule("linear").lr_of(5000, 0.5) == pytest.approx((PEAK + FLOOR) / 2)
    assert schedule("linear").lr_of(5000, 1.7) == pytest.approx(FLOOR)


def test_a_warm_up_longer_than_the_run_never_passes_the_peak():
    assert schedule("cosine", warmup=1000).lr_at(TOTAL) == pytest.approx(PEAK * TOTAL / 1000)


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match="warmup_cosine"):
        schedule("warmup_cosine")
