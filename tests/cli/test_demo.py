"""`formers demo` from its first line to its report, on a text and a model small enough for a test."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from formers.experiments import demo
from formers.recipes import DataSettings
from formers.recipes.gpt2 import nano
from tests.cli.commands import Formers
from tests.cli.conftest import TEXT


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The demo's recipe on one short file."""
    (tmp_path / "code.txt").write_text(TEXT)

    def recipe(minutes: float):
        base = nano()
        train = dataclasses.replace(
            base.train,
            minutes=minutes,
            compile="off",
            batch_size=2,
            seq_len=128,
            eval_every=0,
            eval_batches=0,
            precision="float32",
        )
        data = DataSettings(sources=(str(tmp_path / "code.txt"),), tokenizer="byte")
        return dataclasses.replace(base, name=demo.NAME, data=data, train=train)

    monkeypatch.setattr(demo, "recipe", recipe)


@pytest.mark.usefixtures("small")
def test_the_demo_ends_with_a_score_samples_and_a_report(formers: Formers):
    outcome = formers("demo", "--minutes", "0.02", "--json")
    assert outcome.code == 0, outcome.err
    found = outcome.json
    assert found["certificate"]["ok"]
    assert found["evaluation"]["bits_per_byte"] > 0
    assert set(found["evaluation"]["baselines"]) == {"gzip_bits_per_byte", "unigram_bits_per_byte"}
    assert found["samples"] == 20
    assert len(found["texts"]) == 20
    assert 0 <= found["tokenizable"] <= 20
    assert "<html" in Path(found["report"]).read_text()[:300]
    assert json.loads(Path("runs/demo/certificate.json").read_text()) == found["certificate"]
    for said in ("1/5", "5/5", "gzip -9", "bits per byte", "runs/demo/report.html", "pass Python's tokenize"):
        assert said in outcome.err


@pytest.mark.usefixtures("small")
def test_a_second_demo_takes_the_place_of_the_first(formers: Formers):
    started = [
        formers("demo", "--minutes", "0.01", "--json") and Path("runs/demo/environment.json").stat().st_mtime_ns
        for _ in "ab"
    ]
    assert started[0] < started[1]


@pytest.mark.usefixtures("small")
def test_the_demo_leaves_what_is_not_its_own_alone(formers: Formers):
    Path("runs/demo").mkdir(parents=True)
    Path("runs/demo/diary.txt").write_text("precious")
    assert "no run of the demo" in formers.refuses("demo")
    assert Path("runs/demo/diary.txt").read_text() == "precious"


def test_the_real_recipe_is_a_gpt2_on_the_standard_library():
    recipe = demo.recipe()
    assert recipe.architecture == "gpt2"
    assert recipe.data.sources == ("stdlib",)
    assert recipe.train.minutes == demo.MINUTES
    assert recipe.train.eval_batches == 0, "every validation token is scored, so that gzip -9 sees the same bytes"
