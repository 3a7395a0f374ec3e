"""Curves are thinned honestly: nothing is lost from a mean, an extreme, or an end."""

from __future__ import annotations

import json
import math
import re
from importlib.resources import files
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formers.comparison import read_run
from formers.comparison.budget import BASE, PER_RUN, fair
from formers.comparison.page import COLOURS
from formers.comparison.series import MOST_BUCKETS, bins_of, by_position, curves, eval_curves, thinned, train_curves

from .runfolders import eval_row, train_rows, write_run


@given(st.integers(0, 20_000), st.integers(50, 1500))
def test_bins_cover_every_row_once_and_are_no_more_than_asked(num_rows: int, points: int) -> None:
    bins = bins_of(num_rows, points)
    assert len(bins) <= points
    assert [row for start, end in bins for row in range(start, end)] == list(range(num_rows))


def test_the_first_steps_keep_their_own_points() -> None:
    assert bins_of(100_000, 1000)[:5] == [(i, i + 1) for i in range(5)]


def test_a_short_run_is_drawn_as_it_is() -> None:
    rows = train_rows(40)
    drawn = train_curves(rows, 100)
    assert drawn["step"] == list(range(1, 41))
    assert drawn["loss"] == pytest.approx([row["loss"] for row in rows], rel=1e-4)
    assert "count" not in drawn
    assert "loss_min" not in drawn


def test_bins_keep_mean_extremes_and_the_last_row_s_rate() -> None:
    rows = train_rows(5000)
    drawn = train_curves(rows, 200)
    assert len(drawn["step"]) <= 200
    assert sum(drawn["count"]) == 5000
    weighted = sum(mean * count for mean, count in zip(drawn["loss"], drawn["count"], strict=True)) / 5000
    assert weighted == pytest.approx(sum(row["loss"] for row in rows) / 5000, rel=1e-4)
    assert min(drawn["loss_min"]) == pytest.approx(min(row["loss"] for row in rows), rel=1e-4)
    assert max(drawn["grad_norm_max"]) == pytest.approx(max(row["grad_norm"] for row in rows), rel=1e-4)
    assert drawn["lr"] == pytest.approx([rows[step - 1]["lr"] for step in drawn["step"]], rel=1e-4)
    assert drawn["step"][-1] == 5000


def test_a_loss_that_is_not_finite_leaves_a_gap() -> None:
    for bad in (math.nan, math.inf, None):
        rows = train_rows(2000)
        rows[1500]["loss"] = bad
        drawn = train_curves(rows, 100)
        gaps = [i for i, value in enumerate(drawn["loss"]) if value is None]
        assert len(gaps) == 1
        json.dumps(drawn, allow_nan=False)


def test_tokens_that_follow_the_step_come_as_one_number() -> None:
    rows = train_rows(10, tokens_a_step=512)
    assert train_curves(rows, 100)["tokens"] == 512
    rows[4]["tokens"] += 1
    assert train_curves(rows, 100)["tokens"] == [row["tokens"] for row in rows]


def test_what_was_not_recorded_is_not_drawn() -> None:
    drawn = train_curves([{"kind": "train", "step": 1, "loss": 2.0}], 100)
    assert "lr" not in drawn
    assert drawn["loss"] == [2]


def test_thinning_evaluations_keeps_first_best_and_last() -> None:
    rows = [eval_row(row) for row in train_rows(1000)]
    rows[777]["loss"] = 0.5
    kept = thinned(rows, 50)
    assert len(kept) <= 51
    assert {rows[0]["step"], rows[777]["step"], rows[-1]["step"]} <= {row["step"] for row in kept}
    assert thinned(rows[:50], 50) == rows[:50]


def test_splits_are_drawn_apart_and_share_the_points() -> None:
    rows = [{**eval_row(row), "split": split} for row in train_rows(500) for split in ("validation", "test")]
    drawn = eval_curves(rows, 100)
    assert list(drawn) == ["validation", "test"]
    assert all(len(one["step"]) <= 51 for one in drawn.values())


def test_joined_buckets_keep_the_mean_over_all_tokens(tmp_path: Path) -> None:
    row = eval_row(train_rows(1)[0])
    row["by_position"] = [{"start": i, "end": i + 1, "loss": 5 - i / 100, "count": 1 + i % 7} for i in range(300)]
    row["by_position"][-1] = {"start": 299, "end": 300, "loss": None, "count": 0}
    drawn = by_position(read_run(write_run(tmp_path / "run", [row])))
    assert drawn is not None
    assert len(drawn["loss"]) <= MOST_BUCKETS
    counts = [bucket["count"] for bucket in row["by_position"]]
    total = sum((bucket["loss"] or 0) * bucket["count"] for bucket in row["by_position"])
    assert sum(a * b for a, b in zip(drawn["loss"], drawn["count"], strict=True)) == pytest.approx(total, rel=1e-4)
    assert sum(drawn["count"]) == sum(counts)
    assert drawn["end"][-1] == 300


@pytest.mark.parametrize("num_runs", [1, 4, 50, 1000])
def test_a_run_s_curves_stay_within_its_share_of_the_page(tmp_path: Path, num_runs: int) -> None:
    rows = train_rows(3000)
    for row in rows:
        row["tokens"] = row["step"] * 1_234_567 + row["step"] % 3  # no common factor: a list
    run = read_run(write_run(tmp_path / "run", rows))
    size = len(json.dumps(curves(run, fair(num_runs)), separators=(",", ":")))
    assert size <= (BASE - 150_000) / num_runs + PER_RUN - 8_000


# Severity 1.0 of Machado, Oliveira and Fernandes 2009, table 1: what a colour in linear RGB looks like to whom.
SEEN_BY = {
    "all cones": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "protanopia": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "deuteranopia": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
    "tritanopia": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.303900)),
}
APART = 25.0
"""CIE76 distance that every two colours must keep; 2.3 is just noticeable, and thin lines need ten times that."""


def palettes() -> list[list[str]]:
    """The run colours of report.css: light, then dark."""
    found = re.findall(r"--run-\d: (#[0-9a-f]{6})", (files("formers.comparison") / "report.css").read_text())
    return [found[:COLOURS], found[COLOURS:]]


def lab(colour: str, seen: tuple[tuple[float, ...], ...]) -> list[float]:
    coded = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in coded]
    r, g, b = (min(1.0, max(0.0, sum(w * c for w, c in zip(row, linear, strict=True)))) for row in seen)
    x, y, z = (
        value ** (1 / 3) if value > 0.008856 else 7.787 * value + 16 / 116
        for value in (
            (0.4124564 * r + 0.3575761 * g + 0.1804375 * b) / 0.95047,
            0.2126729 * r + 0.7151522 * g + 0.0721750 * b,
            (0.0193339 * r + 0.1191920 * g + 0.9503041 * b) / 1.08883,
        )
    )
    return [116 * y - 16, 500 * (x - y), 200 * (y - z)]


@pytest.mark.parametrize("seen", SEEN_BY)
def test_run_colours_stay_apart_for_the_colour_blind(seen: str) -> None:
    for palette in palettes():
        assert len(palette) == COLOURS
        for one, other in combinations(palette, 2):
            assert math.dist(lab(one, SEEN_BY[seen]), lab(other, SEEN_BY[seen])) >= APART, (one, other)
