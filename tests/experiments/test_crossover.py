"""The crossover map: what is measured, what is measured again, and what is read off the points."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from formers.errors import ConfigError, RunError
from formers.experiments import crossover
from formers.experiments.crossover import CrossoverSettings, crossing, expected, full_operations, run, slope, upper_half
from formers.experiments.measuring import measure, timed
from formers.experiments.mechanisms import FULL, MECHANISMS, Sizes
from formers.parts.positions import Positions

COSTS = {FULL: lambda n: n * n / 1e6, "window": lambda n: 4 * n / 1e4, "strided": lambda n: n**1.5 / 1e5}
LENGTHS = (64, 256, 1024, 4096)


def pretended(asked: dict[str, Any]) -> dict[str, Any]:
    """Seconds and bytes by a formula."""
    cost = COSTS[asked["mechanism"]](asked["length"])
    figures = {"seconds": cost, "runs": 3, "peak_bytes": round(1e6 * cost)}
    return {"forward": figures, "training": {**figures, "seconds": 3 * cost} if asked["training"] else None}


def settings(**changes: Any) -> CrossoverSettings:
    return CrossoverSettings(**{"lengths": LENGTHS, "mechanisms": ("window", "strided"), "longest": 1e9} | changes)


def test_slopes_and_crossings_are_those_of_the_costs(tmp_path: Path) -> None:
    result = run(tmp_path, settings(), measure=pretended)
    judged = {name: result["mechanisms"][name]["training"] for name in COSTS}
    for name, power in ((FULL, 2), ("window", 1), ("strided", 1.5)):
        assert abs(judged[name]["seconds_slope"] - power) < 1e-9
    assert judged[FULL]["seconds_beats_full_from"] is None
    assert judged["window"]["seconds_beats_full_from"] == 400  # n^2 / 1e6 = 4 n / 1e4
    assert judged["strided"]["peak_bytes_beats_full_from"] == 100  # n^2 / 1e6 = n^1.5 / 1e5
    assert json.loads((tmp_path / "crossover.json").read_text())["mechanisms"] == result["mechanisms"]


def test_what_was_measured_is_not_measured_again(tmp_path: Path) -> None:
    asked: list[tuple[str, int]] = []

    def counted(wanted: dict[str, Any]) -> dict[str, Any]:
        asked.append((wanted["mechanism"], wanted["length"]))
        return pretended(wanted)

    run(tmp_path, settings(lengths=(64, 256)), measure=counted)
    assert len(asked) == 6
    assert asked[:3] == [(FULL, 64), ("window", 64), ("strided", 64)]  # lengths come first
    run(tmp_path, settings(), measure=counted)
    assert len(asked) == len(set(asked)) == 12


def test_a_run_that_is_stopped_keeps_what_it_has(tmp_path: Path) -> None:
    def stopped(wanted: dict[str, Any]) -> dict[str, Any]:
        if wanted["length"] == 1024:
            raise KeyboardInterrupt
        return pretended(wanted)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, settings(), measure=stopped)
    assert len(json.loads((tmp_path / "crossover.json").read_text())["points"]) == 6


def test_the_budget_is_kept_and_what_is_left_is_said(tmp_path: Path) -> None:
    said: list[str] = []
    result = run(tmp_path, settings(), budget=0.0, say=said.append, measure=pretended)
    assert result["points"] == []
    assert "12 of 12 points are left" in said[0]


def test_points_that_would_take_too_long_are_left_out_and_tried_again_when_allowed(tmp_path: Path) -> None:
    result = run(tmp_path, settings(longest=10.0), measure=pretended)
    left = {(p["mechanism"], p["length"]): p["left_out"] for p in result["points"] if "left_out" in p}
    assert left == {(FULL, 4096): "it would take about 50 s"}
    assert run(tmp_path, settings(), measure=pretended)["mechanisms"][FULL]["training"]["seconds_slope"] is not None
    assert not [p for p in run(tmp_path, settings(), measure=pretended)["points"] if "left_out" in p]


def test_a_process_that_ends_badly_leaves_its_point_out(tmp_path: Path) -> None:
    def fails(wanted: dict[str, Any]) -> dict[str, Any]:
        if wanted["length"] > 1000:
            raise RunError("the process ended with -9: it said nothing")
        return pretended(wanted)

    points = run(tmp_path, settings(), measure=fails)["points"]
    assert [p["left_out"] for p in points if p["length"] == 1024] == ["the process ended with -9: it said nothing"] * 3


def test_a_file_of_other_settings_or_of_something_else_is_refused(tmp_path: Path) -> None:
    run(tmp_path, settings(lengths=(64,)), measure=pretended)
    with pytest.raises(RunError, match="choose another --out"):
        run(tmp_path, settings(d_model=512), measure=pretended)
    (tmp_path / "crossover.json").write_text("[]")
    with pytest.raises(RunError, match="no result of crossover"):
        run(tmp_path, settings(), measure=pretended)


def test_guesses_go_on_as_the_last_two_points_do() -> None:
    points = [
        {"mechanism": FULL, "length": n, **pretended({"mechanism": FULL, "length": n, "training": True})}
        for n in (64, 256)
    ]
    assert abs(expected(points, FULL, 1024, "forward")["seconds"] - COSTS[FULL](1024)) < 1e-9
    assert abs(expected(points[:1], FULL, 128, "forward")["seconds"] - COSTS[FULL](128)) < 1e-9
    assert expected(points, "window", 1024, "forward") == {}


def test_a_crossing_must_hold_to_the_end() -> None:
    full = {64: 1.0, 128: 2.0, 256: 4.0}
    assert crossing({64: 0.5, 128: 1.0, 256: 2.0}, full) == 64
    assert crossing({64: 0.5, 128: 3.0, 256: 2.0}, full) == round(
        128 * 2 ** (math.log(1.5) / (math.log(1.5) + math.log(2)))
    )
    assert crossing({64: 0.5, 128: 1.0, 256: 5.0}, full) is None
    assert crossing({32: 0.5}, full) is None


def test_a_slope_is_that_of_the_longer_half() -> None:
    line = {n: 5.0 + n * n for n in (1, 2, 1024, 2048)}
    assert upper_half(line) == ([1024, 2048], [line[1024], line[2048]])
    assert abs(slope(*upper_half(line)) - 2.0) < 1e-4


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"no mechanism 'windw' \(did you mean 'window'"):
        settings(mechanisms=("windw",))
    with pytest.raises(ConfigError, match=r"length 1 is less than 2.*d_model 7"):
        settings(lengths=(1,), d_model=7)


# --- mechanisms -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MECHANISMS)
def test_a_mechanism_is_causal_and_passes_gradients(name: str) -> None:
    layer, whole = MECHANISMS[name].make(Sizes(16, 2, 40)).eval(), Positions.whole(40)
    x = torch.randn(1, 40, 16, requires_grad=True)
    y, _ = layer(x, whole)
    (gradient,) = torch.autograd.grad(y[0, 20].sum(), x)
    assert gradient[0, :20].abs().sum() > 0
    assert gradient[0, 21:].abs().max() == 0


def test_a_point_is_measured_forward_and_backward() -> None:
    asked = {"mechanism": "strided", "length": 64, "d_model": 16, "num_heads": 2, "training": True, "seconds": 0.0}
    found = measure(asked)
    assert all(found[mode]["seconds"] > 0 and found[mode]["runs"] == 1 for mode in ("forward", "training"))
    assert measure(asked | {"training": False})["training"] is None


def test_a_short_run_is_repeated() -> None:
    calls: list[int] = []
    assert timed(lambda: calls.append(1), 5.0)["runs"] == 5
    assert len(calls) == 6  # the first is a warm-up


def test_the_stride_is_near_the_square_root() -> None:
    assert [Sizes(length=n).stride for n in (256, 1024, 4096, 16_384)] == [16, 32, 64, 128]


@pytest.mark.slow
def test_a_fresh_process_measures_a_point() -> None:
    asked = {"mechanism": "window", "length": 64, "d_model": 16, "num_heads": 2, "training": False, "seconds": 0.0}
    assert crossover.in_a_process(asked)["forward"]["seconds"] > 0
    with pytest.raises(RunError, match="KeyError"):
        crossover.in_a_process(asked | {"mechanism": "nothing"})


def test_full_attention_by_count_is_what_torch_counts_and_four_times_as_much_for_twice_the_length() -> None:
    def counted(length: int) -> int:
        x, plain = torch.zeros(1, 4, length, 16), torch.ones(1, 4, length, 16)
        with FlopCounterMode(display=False) as counter:
            torch.softmax(x @ plain.transpose(2, 3), -1) @ plain
        return counter.get_total_flops()

    for length in (7, 64):
        assert full_operations(length, 64) == counted(length)
        assert full_operations(2 * length, 64) == 4 * counted(length)
