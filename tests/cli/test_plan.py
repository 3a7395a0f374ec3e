"""`formers plan`: before a training, and against one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.commands import Formers


def test_a_recipe_is_planned_with_the_options_it_is_trained_with(formers: Formers):
    options = ["--train.batch-size", "4", "--train.compile", "off", "--train.precision", "float32"]
    small = formers("plan", "gpt2.nano", *options, "--json").json
    large = formers("plan", "gpt2.nano", *options, "--model.num-layers", "6", "--json").json
    assert sum(small["bytes"].values()) == small["peak_bytes"] < large["peak_bytes"]
    assert small["fits"]
    assert small["changes"] == []
    assert small["numerics"]["precision"] == "float32"
    assert small["tokens_a_step"] == 4 * 128
    written = formers("plan", "gpt2.nano", *options).out
    assert "peak memory" in written
    assert "it fits" in written
    assert "300 steps" in written


def test_what_does_not_fit_is_told_what_would(formers: Formers, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("formers.experiments.plan.memory_to_take", lambda _: 10**6)
    written = formers("plan", "gpt2.nano", "--train.batch-size", "2", "--train.compile", "off").out
    assert "does NOT fit" in written
    assert "not one row fits" in written
    assert "--model.trunk reversible" in written


def test_a_run_is_told_prediction_against_fact(formers: Formers, run: Path):
    found = formers("plan", run, "--json").json
    environment = json.loads((run / "environment.json").read_text())
    assert found["fact"]["peak_bytes"] == environment["peak_bytes"] > 10**8
    assert found["fact"]["seconds_a_step"] > 0
    assert found["numerics"]["precision"] == environment["precision"]
    assert "predicted / fact" in formers("plan", run).out


def test_mistakes_are_refused(formers: Formers):
    assert "no recipe and no run is named" in formers.refuses("plan")
    assert "gpt2.tiny" in formers.refuses("plan", "gpt2.tyni")
