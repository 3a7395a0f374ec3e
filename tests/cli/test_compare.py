"""`formers compare`, `schedule` and `tune`: what they print, write and refuse."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from formers.experiments import outcome
from formers.experiments import run as runs
from formers.training.settings import TrainSettings
from tests.cli.commands import Formers, in_a_fresh_process

SETTINGS = ["batch_size=4", "seq_len=32", "compile=off", "precision=float32"]
QUICK = ["--set", *SETTINGS, "--budget", "steps=2", "--seeds", 2, "--documents", 4, "--batch-size", 4, "--seq-len", 32]
OWN = """
import dataclasses
from formers import recipes

def small():
    base = recipes.get("gpt2.nano")
    sizes = dataclasses.replace(base.model, d_model=8, num_layers=1, max_length=256)
    return dataclasses.replace(base, name="mine.py:small", model=sizes)
"""


@pytest.fixture(autouse=True)
def short_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "SAMPLE_TOKENS", 1)
    monkeypatch.setattr(outcome, "SAMPLE_TOKENS", 4)


@pytest.fixture
def shards(formers: Formers, text: Path) -> Path:
    formers(
        "data", "build", text, "--out", "shards", "--tokenizer", "byte", "--separator", "\n\n\n", "--validation", 0.05
    )
    return Path("shards")


def test_compare_prints_a_table_and_a_verdict_and_writes_what_report_reads(formers: Formers, shards: Path) -> None:
    Path("mine.py").write_text(OWN)
    asked = ["compare", "a=mine.py:small", "b=mine.py:small", "--data", shards, *QUICK, "--out", "out"]
    formers("data", "build", "my.txt", "--out", "letters", "--tokenizer", "char", "--separator", "\n\n\n")
    letters = [*asked[:4], "letters", *asked[5:]]
    assert "é" in formers.refuses(*letters, "--text", "café")  # before anything is trained
    said = formers(*asked, "--dry-run")
    assert said.code == 0, said.err
    assert "4 trainings, 4 documents to read: about " in said.out
    assert not list(Path("out").glob("*/recipe.json"))
    done = formers(*asked)
    assert done.code == 0, done.err
    assert "Cannot tell which is best" in " ".join(done.out.split())
    for name in ("compare.json", "compare.csv", "report.html", "scores.jsonl", "costs.json", "texts.json"):
        assert (Path("out") / name).is_file(), name
    again = formers(*asked, "--json").json
    assert again["ranking"] == json.loads(Path("out/compare.json").read_text())["ranking"]
    rows = list(csv.DictReader(Path("out/compare.csv").read_text().splitlines()))
    assert [row["name"] for row in rows] == again["ranking"]
    for row in rows:  # the same numbers in JSON and CSV
        assert float(row["bits_per_byte"]) == again["entrants"][row["name"]]["bits_per_byte"]
    page = formers("report", "out", "--out", "page.html", "--csv", "runs.csv", "--json").json
    assert page["comparisons"][0]["verdict"] == again["verdict"]
    assert len(page["runs"]) == 4
    assert [row["bits_per_byte"] for row in page["runs"]] == [
        float(row["bits_per_byte"]) for row in csv.DictReader(Path("runs.csv").read_text().splitlines())
    ]
    assert "Every pair" in Path("page.html").read_text()


def test_a_task_in_place_of_text(formers: Formers) -> None:
    Path("mine.py").write_text(OWN)
    asked = ["compare", "a=mine.py:small", "b=mine.py:small", "--task", "copying", "--budget", "steps=1", "--seeds", 2]
    assert formers(*asked, "--dry-run", "--json").json["trainings"] == 4
    done = formers(*asked, "--batch-size", 4, "--set", "compile=off", "--out", "task")
    assert done.code == 0, done.err
    assert "of the answers wrong" in " ".join(done.out.split())
    result = json.loads(Path("task/compare.json").read_text())
    assert result["task"]["name"] == "copying"
    assert "Right" in Path("task/report.html").read_text()


def test_compare_refuses_early(formers: Formers) -> None:
    assert "no recipe is named" in formers.refuses("compare")
    assert "no budget" in formers.refuses("compare", "gpt2.nano")
    assert "did you mean 'tokens'" in formers.refuses("compare", "gpt2.nano", "--budget", "tokns=1M")
    assert "there is no run" in formers.refuses("compare", "runs/nowhere", "--budget", "steps=1")
    assert "did you mean 'gpt2.nano'" in formers.refuses("compare", "gpt2.nono", "--budget", "steps=1")
    wrong = ["compare", "gpt2.nano", "--budget", "steps=1", "--set", "batchsize=4"]
    assert "did you mean 'batch_size'" in formers.refuses(*wrong, "--task", "recall")
    assert "did you mean 'recall'" in formers.refuses("compare", "gpt2.nano", "--budget", "steps=1", "--task", "recal")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--budget", "steps=1", "--seed", -1, "--seq-len", 0], "seed is -1, wanted at least 0; seq_len is 0"),
        (["--budget", "steps=1", "--set", "steps=9"], "steps is set, wanted --budget steps=N in its place"),
        (["--budget", "tokens=1e400"], "a number above 0"),
        (["--budget", "bytes=1MB", "--task", "copying"], "whose rows are no text"),
        (
            ["--budget", "steps=1", "--task", "copying", "--data", "x", "--text", "y"],
            "--data, --text with --task copying",
        ),
        (["llama.nano@none", "--budget", "steps=1"], "parameters='none'"),
    ],
)
def test_compare_refuses_what_it_would_pass_over(formers: Formers, words: list[object], said: str) -> None:
    assert said in " ".join(formers.refuses("compare", "gpt2.nano", *words).split())


def test_a_folder_that_is_no_comparison_on_text_is_refused(formers: Formers) -> None:
    Path("bad").mkdir()
    Path("bad/compare.json").write_text("{")
    assert "cannot be read" in formers.refuses("compare", "bad")
    about = {"verdict": "", "ranking": ["a"], "entrants": {"a": {"runs": []}}, "pairs": []}
    Path("bad/compare.json").write_text(json.dumps({**about, "task": {"name": "copying"}}))
    assert "compares on the task copying" in formers.refuses("compare", "bad", "gpt2.nano", "--budget", "steps=1")
    Path("bad/compare.json").write_text(json.dumps(about))
    assert "the label 'old'" in formers.refuses("compare", "old=bad")


def test_schedule_draws_what_is_applied_without_torch(formers: Formers) -> None:
    asked = ["--train.steps", "40", "--train.schedule", "wsd", "--train.lr", "0.5"]
    found = formers("schedule", "gpt2.nano", *asked, "--json", "--out", "lr.svg").json
    schedule = TrainSettings(steps=40, schedule="wsd", lr=0.5, warmup=20).learning_rate
    assert found["lr"] == [schedule.lr_at(step) for step in range(1, 41)]
    assert Path("lr.svg").read_text().startswith("<svg")
    drawn = formers("schedule", "gpt2.nano", *asked).out
    assert "█" in drawn
    assert "0.5000 ┤" in drawn
    assert "step 40" in drawn
    timed = formers("schedule", "gpt2.nano", "--train.minutes", "3").out
    assert "end of the time" in timed
    assert "no recipe" in formers.refuses("schedule")
    never = formers("schedule", "gpt2.nano", "--train.warmup", 500).out
    assert "the warm-up never ends, 0.003 is not reached" in never
    assert "lowest" not in never
    for verb in ("schedule", "tune", "plan", "train"):
        assert "RECIPE first: gpt2.nano --json" in formers.refuses(verb, "--json", "gpt2.nano")
    assert "decay_share" in formers.refuses("schedule", "gpt2.nano", "--train.decay-share", "2")


def test_tune_prints_what_mattered_and_its_best_recipe_trains(formers: Formers, shards: Path) -> None:
    pytest.importorskip("optuna", reason="optuna is not installed (extra: tune)")
    quick = [
        "--set",
        *SETTINGS,
        "--budget",
        "steps=2",
        "--data",
        shards,
        "--search",
        "train.lr=1e-4:1e-2",
        "--out",
        "search",
    ]
    done = formers("tune", "gpt2.nano", *quick, "--trials", 2)
    assert done.code == 0, done.err
    assert "best: trial" in done.out
    found = formers("tune", "gpt2.nano", *quick, "--trials", 2, "--json").json
    assert len(found["trials"]) == 2
    assert "Too few trials" in done.out
    run = formers("schedule", f"search/trial-{found['best']['trial']}", "--json").json  # of a run what it was given
    best = formers("schedule", "search/best.json", "--json").json
    assert run["peak"] == best["peak"]
    assert best["peak"] == found["best"]["settings"]["train.lr"]
    assert "did you mean 'train.lr'" in formers.refuses("tune", "gpt2.nano", "--search", "train.lrr=1:2")


def test_help_of_the_new_verbs_needs_no_torch() -> None:
    for verb in ("compare", "tune"):
        outcome_ = in_a_fresh_process(verb, "--help")
        assert outcome_.code == 0
        assert outcome_.err.endswith("NO TORCH\n")
