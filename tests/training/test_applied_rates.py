"""The learning rate that an optimizer's step really has is the one that was drawn, at every step, for every schedule."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from formers.training import train
from formers.training.schedules import SCHEDULES, Schedule, restarts_shape
from tests.training import small

CASES: dict[str, dict[str, Any]] = {
    **{name: {"schedule": name} for name in SCHEDULES},
    "growing restarts": {"schedule": "restarts", "cycles": 3, "cycle_growth": 2.0},
    "flat end": {"schedule": "cosine", "flat_share": 0.4},
    "no warm-up": {"schedule": "linear", "warmup": 0},
}


@pytest.fixture
def applied() -> Iterator[list[set[float]]]:
    """What every step of every optimizer had, all its groups together."""
    seen: list[set[float]] = []

    def look(optimizer: torch.optim.Optimizer, *_: object) -> None:
        seen.append({group["lr"] for group in optimizer.param_groups})

    handle = register_optimizer_step_pre_hook(look)
    yield seen
    handle.remove()


@pytest.mark.parametrize("case", CASES)
def test_the_applied_rate_is_the_drawn_one(case: str, applied: list[set[float]], tmp_path: Path) -> None:
    settings = small.settings(**{"steps": 9, "warmup": 3, "batch_size": 2, **CASES[case]})
    drawn = settings.learning_rate.course()
    train(small.gpt2(num_layers=1), settings, small.windows(batch_size=2), out=tmp_path / "run", progress=False)
    assert applied == [{lr} for lr in drawn]
    assert len(set(drawn)) > 2  # a schedule that stands still would prove nothing


def test_a_cycle_is_growth_times_the_one_before_and_all_fill_the_whole() -> None:
    bottoms = [n / 7000 for n in range(1, 7001) if restarts_shape(n / 7000, 3, 2.0) == 0.0]
    assert bottoms == pytest.approx([1 / 7, 3 / 7, 1.0])
    assert restarts_shape(1 / 7 + 1e-6, 3, 2.0) == pytest.approx(1.0, abs=1e-4)  # the next step restarts
    assert restarts_shape(2 / 7, 3, 2.0) == pytest.approx(0.5)  # half of the second cycle


def test_growth_near_one_is_growth_of_one() -> None:
    for t in (0.1, 0.3, 0.62, 0.9):
        assert restarts_shape(t, 4, 1.0 + 1e-9) == pytest.approx(restarts_shape(t, 4), abs=1e-4)


def test_a_flat_end_stays_at_the_floor_and_nothing_jumps_on_the_way() -> None:
    course = Schedule("cosine", peak=1.0, total=1000, warmup=100, floor_ratio=0.1, flat_share=0.25).course()
    assert course[-225:] == pytest.approx([0.1] * 225)
    assert course[-227] > 0.1
    assert max(abs(b - a) for a, b in pairwise(course)) < 0.011
