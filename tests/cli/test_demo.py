"""`formers demo` from its first line to its report, on a text and models small enough for a test (small_demo.py)."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from formers.cli.demo import MINUTES
from formers.experiments import demo, matching
from formers.recipes import with_vocabulary
from tests.cli.commands import Formers
from tests.cli.small_demo import MINUTES as EACH
from tests.cli.small_demo import begun, called, small

ROOT = Path(__file__).parents[2]
LABELS = ["gpt2", "memorizing", "memory_mosaics"]


@dataclass(frozen=True)
class Ended:
    """A demo that Ctrl-C stopped in its second training, and that the same command brought to its end."""

    folder: Path
    before: dict[str, int]
    found: dict[str, Any]
    said: str

    def recipe(self, label: str) -> dict[str, Any]:
        return json.loads((self.folder / f"runs/demo/{label}.seed-0/recipe.json").read_text())


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    from formers.cli.live import Live

    folder, show = tmp_path_factory.mktemp("demo"), Live.show

    def stop_in_the_second(live: Live, row: dict[str, Any]) -> None:
        if row["kind"] == "event" and Path("runs/demo/memorizing.seed-0").exists():
            os.kill(os.getpid(), signal.SIGINT)
        show(live, row)

    with small(folder):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Live, "show", stop_in_the_second)
            stopped, _, _ = called("--json")
        before = begun(folder)
        code, out, said = called("--json")
        assert (stopped, code) == (130, 0), said
    return Ended(folder, before, json.loads(out), said)


def test_the_demo_ends_with_a_verdict_samples_and_a_report(ended: Ended):
    found, result = ended.found, ended.found["comparison"]
    assert sorted(result["ranking"]) == LABELS
    assert result["documents"]["gzip_bits_per_byte"] > 0
    assert found["writer"] == result["ranking"][0]
    assert (found["samples"], len(found["texts"])) == (20, 20)
    assert 0 <= found["tokenizable"] <= 20
    page = (ended.folder / found["report"]).read_text()
    assert all(
        words in page for words in ("<h2>Comparison</h2>", result["verdict"][:40], "trained once each", "gzip -9 needs")
    )
    for words in ("1/6", "6/6", "gzip -9", "Bits/byte", "Tokens/s", "runs/demo/report.html", "pass Python's tokenize"):
        assert words in ended.said


def test_what_one_training_each_cannot_tell_it_does_not_tell(ended: Ended):
    assert ended.found["comparison"]["verdict"].startswith("Cannot tell which is best")
    assert "--seeds 3" in ended.said
    assert not any(pair["told"] for pair in ended.found["comparison"]["pairs"])


def test_each_has_its_certificate(ended: Ended):
    for label in LABELS:
        certificate = ended.found["certificates"][label]
        assert certificate["ok"]
        assert json.loads((ended.folder / f"runs/demo/{label}.seed-0/certificate.json").read_text()) == certificate


def test_all_have_as_many_parameters_and_minutes_and_the_same_rows(ended: Ended):
    recipes = [ended.recipe(label) for label in LABELS]
    sizes = [recipe["parameters"] for recipe in recipes]
    assert max(sizes) / min(sizes) < 1.01
    assert {recipe["train"]["minutes"] for recipe in recipes} == {EACH}
    assert len({json.dumps(recipe["data"], sort_keys=True) for recipe in recipes}) == 1
    for label in LABELS:
        lines = (ended.folder / f"runs/demo/{label}.seed-0/metrics.jsonl").read_text().splitlines()
        rows = [row for row in map(json.loads, lines) if row["kind"] in ("train", "eval")]
        assert rows[-1]["kind"] == "eval"
        assert rows[-1]["seconds"] >= 60 * EACH
        assert all(row["seconds"] < 60 * EACH for row in rows[:-2]), "no step began when the time was over"


def test_the_same_command_goes_on_where_it_stopped(ended: Ended):
    assert sorted(ended.before) == ["gpt2.seed-0", "memorizing.seed-0"]
    assert begun(ended.folder).items() > ended.before.items()  # the very folders that stood there
    assert "Resumed from step" in ended.said


def test_killed_in_its_second_training_it_goes_on_to_its_end(tmp_path: Path):
    command = [sys.executable, "-m", "tests.cli.small_demo", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["code"] == 0
    assert "gpt2.seed-0" in found["before"]
    assert found["after"]["gpt2.seed-0"] == found["before"]["gpt2.seed-0"]
    assert sorted(found["after"]) == [f"{label}.seed-0" for label in LABELS]
    assert sorted(found["result"]["comparison"]["ranking"]) == LABELS


def test_more_seeds_are_added_to_a_demo_that_ended_and_a_second_one_takes_its_place(ended: Ended):
    out = ended.folder / "runs/demo"
    assert demo.find(out, minutes=EACH, seeds=3)
    assert not demo.find(out, minutes=EACH, seeds=1)
    assert not demo.find(out, minutes=2 * EACH, seeds=3)
    assert begun(ended.folder)
    demo.begin(out, minutes=EACH)
    assert [file.name for file in out.iterdir()] == [demo.MARK]


def test_the_demo_leaves_what_is_not_its_own_alone(formers: Formers):
    Path("runs/demo").mkdir(parents=True)
    Path("runs/demo/diary.txt").write_text("precious")
    assert "no folder of the demo" in formers.refuses("demo")
    assert Path("runs/demo/diary.txt").read_text() == "precious"


def test_the_real_three_are_brought_to_one_size():
    recipes = {entry.label: entry.recipe for entry in demo.entries()}
    assert list(recipes) == LABELS
    assert recipes["gpt2"].data.sources == ("stdlib",)
    models = {
        label: recipe.__class__(**{**vars(recipe), "model": with_vocabulary(recipe.model, demo.VOCABULARY)})
        for label, recipe in recipes.items()
    }
    settings = demo.settings(MINUTES)
    target = matching.parameters(models["gpt2"])
    made, _ = matching.match_all(models, target, matching.parameters, what="parameters", tolerance=settings.tolerance)
    assert len(made) == 3
    assert str(settings.budget) == f"{MINUTES:g} minutes"
    assert settings.train["compile"] == "off", "what compiling takes is not the same for all"
