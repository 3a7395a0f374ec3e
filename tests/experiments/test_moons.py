"""Three moons: the sky, the model, the whole of it in small, and what the verdict needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from formers.cli import experiment_moons
from formers.errors import ConfigError
from formers.experiments import moons
from formers.experiments.moons import (
    HEADS,
    MoonsSettings,
    Sky,
    Turns,
    batch,
    common,
    known_after,
    sky,
    triples,
    verdict,
)

TINY = MoonsSettings(seeds=2, steps=2, batch_size=2, length=25, steps_a_unit=4, asked=2)


def test_the_sky_comes_again_after_the_common_multiple_and_each_moon_after_its_period() -> None:
    for periods in triples():
        seen = sky(periods, 7, 200, 20)
        again = int(20 * common(periods))
        assert np.abs(seen[again:] - seen[:-again]).max() <= 1e-4
        for moon, period in enumerate(periods):
            mine, after = seen[:, 2 * moon : 2 * moon + 2], int(20 * period)
            assert np.abs(mine[after:] - mine[:-after]).max() <= 1e-4
            assert np.abs(mine[1:after] - mine[0]).max(-1).min() > 0.01
        assert not any(np.abs(seen[n:] - seen[:-n]).max() <= 1e-4 for n in range(1, again))


def test_the_periods_that_are_asked_are_not_among_those_that_are_learnt() -> None:
    assert len(triples()) == len(set(triples())) == 9
    assert common(triples()[-1]) > max(triples()[-1])


def test_a_batch_is_a_pure_function_of_its_number() -> None:
    assert torch.equal(batch(TINY, 1, 4), batch(TINY, 1, 4))
    assert not torch.equal(batch(TINY, 1, 4), batch(TINY, 1, 5))
    assert not torch.equal(batch(TINY, 1, 4), batch(TINY, 2, 4))


def test_turning_is_multiplying_complex_numbers() -> None:
    turns, x = Turns(6, torch.Generator().manual_seed(0)), torch.randn(5, 6)
    a, b = turns.weight.detach().unbind(-1)
    real, imaginary = x[:, 0::2], x[:, 1::2]
    found = turns(x).detach()
    assert (found[:, 0::2] - (real @ a.T - imaginary @ b.T)).abs().max() <= 1e-5
    assert (found[:, 1::2] - (real @ b.T + imaginary @ a.T)).abs().max() <= 1e-5


@pytest.mark.parametrize("heads", HEADS.values())
def test_a_moon_later_on_changes_no_answer_before_it(heads: int) -> None:
    model, seen = Sky(heads, 0), batch(TINY, 0, 0)
    other = seen.clone()
    other[:, 9] += 1.0
    with torch.no_grad():
        moved = (model(other) - model(seen)).abs().amax((0, 2)) > 0
    assert not moved[:9].any()
    assert moved[9:].any()


def test_heads_that_follow_a_moon_each_know_it_after_the_longest_period_with_nothing_learnt() -> None:
    """The maps that the claim says training finds, written down."""
    settings = MoonsSettings(asked=4)
    model = Sky(3, 0)
    with torch.no_grad():
        for turns, size in ((model.key, 3.0), (model.value, 1.0), (model.out, 1.0)):
            turns.weight.zero_()
            turns.weight[:, :, 0] = size * torch.eye(3)
    longest = max(triples()[-1]) * settings.steps_a_unit
    after = known_after(moons.errors(model, settings))
    assert after is not None
    assert longest / 2 < after <= 1.1 * longest
    model.heads = 1
    after = known_after(moons.errors(model, settings))
    assert after is not None
    assert after >= 0.9 * common(triples()[-1]) * settings.steps_a_unit


def test_the_whole_of_it_in_small_and_what_is_done_is_not_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = moons.run(tmp_path, TINY)
    assert list(result["errors"]) == list(HEADS)
    assert all(len(error) == 25 for many in result["errors"].values() for error in many)
    monkeypatch.setattr(moons, "learn", None)
    assert moons.run(tmp_path, TINY) == result


def test_known_is_known_to_the_end() -> None:
    assert known_after([1.0, 0.05, 0.3, 0.05, 0.01]) == 3
    assert known_after([0.01, 0.02]) == 0
    assert known_after([1.0, 0.02, 1.0]) is None


@pytest.mark.parametrize(
    ("three", "one", "word"),
    [
        ([41, 42], [119, 121], "reproduced"),
        ([41, 42], [119, None], "reproduced"),
        ([41, 90], [119, 121], "smaller effect"),
        ([90, 90], [119, 121], "not reproduced"),
        ([41, 42], [44, 121], "not reproduced"),
    ],
)
def test_a_verdict_needs_every_seed(three: list[int | None], one: list[int | None], word: str) -> None:
    result: dict[str, Any] = {
        "longest": 40.0,
        "common": 120.0,
        "known_after": dict(zip(HEADS, (three, one), strict=True)),
    }
    assert verdict(result).word == word


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"seeds": 0}, "seeds is 0"), ({"steps_a_unit": 3}, "an even number"), ({"length": 120}, "longest common period")],
)
def test_sizes_that_cannot_be_are_refused(changes: dict[str, int], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        MoonsSettings(**changes)


def test_the_command_prints_a_table_and_writes_a_plot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    result = moons.run(tmp_path, TINY)
    monkeypatch.setattr(moons, "run", lambda *_, **__: result)
    assert experiment_moons.main(["--out", str(tmp_path), "--seeds", "2"]) == 0
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("three heads of 2", "common multiple", "24 steps"))
    assert "<svg" in (tmp_path / "moons.svg").read_text()
