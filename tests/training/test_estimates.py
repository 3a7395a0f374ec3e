"""What is said of a training's cost before it starts, and live on stderr."""

from __future__ import annotations

import pytest

from formers.training import estimates
from formers.training.progress import ProgressLine
from tests.training import small


def test_the_announcement_counts_parameters_tokens_passes_and_room():
    said = estimates.announcement(14_000_000, small.settings(steps=1000), small.windows())
    tokens = small.windows().tokens
    for part in (
        "14 M parameters",
        "1,000 steps of 192 tokens (192 k tokens",
        f"{192_000 / tokens:.1f} passes",
        "560 MB",
    ):
        assert part in said
    assert "2 minutes" in estimates.announcement(14_000_000, small.settings(minutes=2), small.windows())
    assert "steps of 192" in estimates.announcement(14, small.settings(minutes=2), small.windows())


def test_the_room_is_three_checkpoints_of_three_numbers_a_parameter_and_the_model():
    assert estimates.disk_bytes(1000) == 4 * 1000 * (3 * 3 + 1)


def test_a_disk_with_too_little_room_is_warned_of(tmp_path):
    said = estimates.short_of_disk(10**15, tmp_path)
    assert said is not None
    assert "needs about 40,000,000,000 MB" in said
    assert estimates.short_of_disk(10, tmp_path) is None


def test_time_is_estimated_once_from_the_steps_after_the_first():
    estimate = estimates.TimeEstimate(1004)
    said = [estimate.look(step, took) for step, took in enumerate([100.0, 1.0, 2.0, 3.0, 50.0], 1)]
    assert said[:3] == [None] * 3
    assert said[3] == "2 s a step: about 33 min to go, evaluations aside."
    assert said[4] is None
    assert all(estimates.TimeEstimate(8).look(step, 1.0) is None for step in range(1, 9))


@pytest.mark.parametrize(("seconds", "text"), [(40, "40 s"), (720, "12 min"), (12600, "3.5 h")])
def test_durations_read_as_people_say_them(seconds, text):
    assert estimates.duration(seconds) == text


def test_operations_are_six_a_parameter_and_token():
    assert estimates.operations(10, small.settings(steps=5)) == 6 * 10 * 5 * 192


ROWS = [
    {"kind": "train", "step": 1, "loss": 5.5, "lr": 1e-3, "tokens_per_second": 1234.0},
    {"kind": "eval", "step": 1, "split": "validation", "loss": 5.0, "bits_per_byte": 2.125, "perplexity": 148.0},
    {"kind": "eval", "step": 1, "split": "validation", "loss": 5.0, "bits_per_byte": None, "perplexity": 148.0},
    {"kind": "sample", "step": 1, "prompt": "a", "text": "b"},
    {"kind": "event", "step": 1, "level": "warning", "message": "odd [thing]"},
]


def test_the_live_line_shows_every_kind_of_row_on_stderr(capsys):
    line = ProgressLine(10, 0, on=True)
    for row in ROWS:
        line.show(row)
    line.close()
    out, err = capsys.readouterr()
    assert out == ""
    for part in (
        "step 1/10",
        "loss 5.500",
        "1.00e-03",
        "1,234 tokens/s",
        "2.125 bits per byte",
        "perplexity 148.0",
        "odd [thing]",
    ):
        assert part in err


def test_where_stderr_is_no_terminal_nothing_is_shown(capsys):
    line = ProgressLine(None, 0)
    for row in ROWS:
        line.show(row)
    line.close()
    assert capsys.readouterr() == ("", "")
