"""Tuning: a search that goes on where it stopped, the best recipe, and what mattered."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from formers import recipes
from formers.comparison.effects import effects
from formers.data import Shards
from formers.errors import ConfigError, RunError, TargetError
from formers.experiments import run, tune
from formers.experiments.budget import Budget
from formers.experiments.text import prepare
from formers.experiments.tune import Range, TuneSettings, changed, parse_ranges, usual
from tests.experiments.compared import QUICK, recipe, shards

pytest.importorskip("optuna", reason="optuna is not installed (extra: tune)")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shards]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "SAMPLE_TOKENS", 1)
        yield shards(tmp_path_factory.mktemp("text"))


RANGES = [Range("train.lr", 1e-5, 3e-2), Range("model.d_model", 8, 16, 8)]


def settings(trials: int) -> TuneSettings:
    return TuneSettings(Budget("steps", 8), trials=trials, train=dict(QUICK))


def tuned(text: Shards, out: Path, trials: int) -> dict[str, Any]:
    asked, _ = prepare(recipe(), folder=text.folder)
    assert tune.tune(asked, text, RANGES, settings(trials), out, progress=False) is None
    return tune.account(asked, RANGES, settings(trials), out)


def test_a_search_goes_on_finds_what_is_better_and_says_what_mattered(text: Shards, tmp_path: Path) -> None:
    first = tuned(text, tmp_path, 2)
    assert len(first["trials"]) == 2
    assert first["first"]["settings"] == {"train.lr": 1e-2, "model.d_model": 16}  # the recipe as it is
    found = tuned(text, tmp_path, 6)
    assert [trial["trial"] for trial in found["trials"]] == list(range(6))
    assert found["trials"][:2] == first["trials"]
    assert found["best"]["bits_per_byte"] == min(trial["bits_per_byte"] for trial in found["trials"])
    rates = next(row for row in found["mattered"] if row["name"] == "train.lr")
    assert rates["mean"] < 0  # in 8 steps a larger rate learns more
    assert set(found["importance"]) == {"train.lr", "model.d_model"}
    best = recipes.get(str(tmp_path / "best.json"))
    assert best.train.lr == found["best"]["settings"]["train.lr"]
    assert best.model.d_model == found["best"]["settings"]["model.d_model"]
    with pytest.raises(RunError, match="holds another search"):
        tune.open_study(tmp_path, recipe(), RANGES[:1], settings(1))


def test_a_trial_that_was_killed_goes_on_before_another_is_begun(text: Shards, tmp_path: Path) -> None:
    asked, _ = prepare(recipe(), folder=text.folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tune.Run, "start", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            tune.tune(asked, text, RANGES, settings(2), tmp_path, progress=False)
    before = [
        json.loads(line) for line in (tmp_path / tune.JOURNAL).read_text().splitlines()
    ]  # a journal of JSON lines
    assert before
    found = tuned(text, tmp_path, 1)
    assert [(trial["trial"], trial["state"]) for trial in found["trials"]] == [(0, "complete")]
    assert (tmp_path / "trial-0" / "model").is_dir()


def test_sizes_that_do_not_fit_fail_their_trial_alone(text: Shards, tmp_path: Path) -> None:
    asked, _ = prepare(recipe(), folder=text.folder)
    said: list[str] = []
    odd = [Range("model.d_model", choices=(15, 16))]
    assert tune.tune(asked, text, odd, settings(4), tmp_path, progress=False, say=said.append) is None
    states = {
        t["settings"]["model.d_model"]: t["state"] for t in tune.account(asked, odd, settings(4), tmp_path)["trials"]
    }
    assert states[16] == "complete"
    assert states.get(15, "fail") == "fail"


def test_ranges_are_read_and_refused() -> None:
    own = recipe()
    found = parse_ranges(
        ["train.lr=1e-4:1e-2", "model.num_layers=1:4", "model.d_ff=64:128:32", "train.schedule=cosine,linear"], own
    )
    assert found[0] == Range("train.lr", 1e-4, 1e-2)
    assert (found[1].low, found[1].high, found[1].whole) == (1, 4, True)
    assert found[2].step == 32
    assert found[3].choices == ("cosine", "linear")
    for word, said in (
        ("train.lrr=1:2", "did you mean 'train.lr'"),
        ("model.width=1:2", "wanted: model. and one of .*d_model"),
        ("lr=1:2", "train.NAME or model.NAME"),
        ("train.lr=2e-2:1e-2", "LOW:HIGH"),
        ("model.num_layers=one:two", "LOW:HIGH"),
        ("model.num_layers=1:4:0", "LOW:HIGH"),
        ("train.lr=1e-4:inf", "LOW:HIGH"),
        ("train.steps=10:20", "wanted --budget steps=N"),
        ("model.dropout=0:0.5", "searched by its logarithm"),
    ):
        with pytest.raises(ConfigError, match=said):
            parse_ranges([word], own)
    (dropout,) = parse_ranges(["model.dropout=0:0.5:0.1"], own)
    assert tune.distributions([dropout])["model.dropout"].log is False
    assert tune._own_values(own, [dropout]) == {"model.dropout": 0.0}
    assert tune._own_values(own, [Range("train.lr", 1e-3, 1.0, 0.02)]) is None  # its own rate is no step of these
    with pytest.raises(ConfigError, match="seed is -1"):
        TuneSettings(Budget("steps", 8), seed=-1, train={"minutes": 3})
    assert [each.name for each in usual(own)] == ["train.lr", "model.num_layers", "model.d_model"]
    assert changed(own, {"train.lr": 0.5, "model.num_layers": 3}).model.num_layers == 3
    with pytest.raises(TargetError, match="cannot be read"):
        recipes.get("nowhere.json")


def test_an_effect_is_that_of_doubling_the_others_held_still() -> None:
    rng = np.random.default_rng(0)
    rows = [
        {"lr": float(2.0 ** rng.uniform(-3, 3)), "layers": int(rng.integers(1, 5)), "kind": "ab"[n % 2]}
        for n in range(60)
    ]
    scores = [3 - 0.5 * np.log2(r["lr"]) + 0.2 * (r["kind"] == "b") + rng.normal(0, 0.05) for r in rows]
    found = {effect.name: effect for effect in effects(rows, scores)}
    assert found["lr"].mean == pytest.approx(-0.5, abs=0.02)
    assert found["lr"].told
    assert found["kind"].per == "b for a"
    assert found["kind"].low < 0.2 < found["kind"].high
    assert not found["layers"].told
    assert effects(rows[:3], scores[:3]) == []
