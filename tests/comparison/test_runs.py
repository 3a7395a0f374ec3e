"""Run folders are read whole or refused with the place of the damage."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from formers.comparison import find_runs, read_run
from formers.comparison.runs import RUNNING_WITHIN, labels, read_runs
from formers.errors import RunError

from .runfolders import CERTIFICATE, ENVIRONMENT, eval_row, metrics_of, recipe_of, train_rows, write_run

LATER = RUNNING_WITHIN + 1


def long_after(folder: Path) -> float:
    """A time at which the run is surely no longer running."""
    return (folder / "recipe.json").stat().st_mtime + LATER


def test_a_run_is_read_by_kind_and_in_order(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "demo", metrics_of(50), recipe=recipe_of(steps=50), certificate=CERTIFICATE))
    assert (run.name, run.recipe_name, run.steps, run.planned_steps, run.status) == (
        "demo",
        "gpt2.tiny",
        50,
        50,
        "finished",
    )
    assert [row["step"] for row in run.train] == list(range(1, 51))
    assert [row["step"] for row in run.evals] == [25, 50]
    assert (len(run.samples), len(run.events), run.parameters) == (4, 1, 1_384_960)
    assert run.environment == ENVIRONMENT
    assert run.certificate == CERTIFICATE
    assert run.notes == ()


def test_an_unfinished_last_line_is_left_out_and_said(tmp_path: Path) -> None:
    for number, tail in enumerate(('{"kind":"train","step":11,"lo', "\0" * 30, '{"kind": "sample", "text": "\udcff')):
        folder = write_run(tmp_path / f"cut-{number}", train_rows(10))
        with (folder / "metrics.jsonl").open("ab") as file:
            file.write(tail.encode("utf-8", "surrogateescape"))
        run = read_run(folder)
        assert run.steps == 10
        assert "unfinished" in run.notes[0]


def test_a_last_line_that_lacks_only_its_newline_counts(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run", train_rows(10), tail='{"kind":"train","step":11,"loss":1.5}'))
    assert run.steps == 11
    assert run.notes == ()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"kind":"train","step":4,"loss', "not JSON"),
        ("[1, 2]", "no kind"),
        ('{"step":4}', "no kind"),
        ('{"kind":"train","loss":1.0}', "step is None"),
        ('{"kind":"train","step":4,"loss":"low"}', "loss is 'low'"),
        ('{"kind":"eval","step":4,"loss":2.0,"by_position":[{"start":0}]}', "by_position"),
    ],
)
def test_a_broken_line_in_the_middle_is_refused_with_its_number(tmp_path: Path, line: str, said: str) -> None:
    rows = [json.dumps(row) for row in train_rows(6)]
    folder = write_run(tmp_path / "run")
    (folder / "metrics.jsonl").write_text("\n".join([*rows[:3], line, *rows[3:]]) + "\n")
    with pytest.raises(RunError) as error:
        read_run(folder)
    assert f"line 4{':' if said != 'not JSON' and said != 'no kind' else ''}" in error.value.found
    assert said in error.value.found
    assert error.value.do


def test_steps_that_go_back_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="step 3 comes after step 5"):
        read_run(write_run(tmp_path / "twice", [*train_rows(5), *train_rows(5)[2:]]))


def test_what_is_no_run_is_refused_with_a_way_on(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    half = write_run(tmp_path / "half")
    (half / "recipe.json").write_text('{"name": "gpt2')
    listed = write_run(tmp_path / "listed")
    (listed / "recipe.json").write_text("[]")
    lawless = write_run(tmp_path / "lawless", certificate={"ok": True})
    for folder, said in (
        (tmp_path / "absent", "not a folder"),
        (empty, "no recipe.json"),
        (half, "not JSON"),
        (listed, "JSON list"),
        (lawless, "no list of laws"),
    ):
        with pytest.raises(RunError, match=said) as error:
            read_run(folder)
        assert str(folder) in error.value.found
        assert error.value.wanted
    with pytest.raises(RunError, match="no run was given"):
        read_runs([])


def test_the_status_follows_from_what_is_there(tmp_path: Path) -> None:
    fatal = {"kind": "event", "step": 20, "level": "error", "message": "the loss is NaN"}
    early = {"kind": "event", "step": 3, "level": "error", "message": "a checkpoint could not be written"}
    by_minutes = {**recipe_of(), "train": {"minutes": 2}}
    cases = {
        "finished": write_run(tmp_path / "a", train_rows(300), recipe=recipe_of(steps=300)),
        "stopped": write_run(tmp_path / "b", [*train_rows(20), early], recipe=recipe_of(steps=300)),
        "failed": write_run(tmp_path / "c", [*train_rows(20), fatal], recipe=recipe_of(steps=300)),
        "not started": write_run(tmp_path / "d"),
    }
    for status, folder in cases.items():
        assert read_run(folder, now=long_after(folder)).status == status
    timed = write_run(tmp_path / "e", train_rows(20), recipe=by_minutes)
    assert read_run(timed, now=long_after(timed)).status == "stopped"
    (timed / "model").mkdir()
    assert read_run(timed, now=long_after(timed)).status == "finished"
    assert read_run(cases["stopped"], now=long_after(cases["stopped"]) - LATER).status == "running"


def test_kinds_of_a_later_version_are_noted_and_skipped(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run", [*train_rows(3), {"kind": "histogram", "step": 3}]))
    assert "histogram" in run.notes[0]


def test_runs_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / place) for place in ("a/seed-0", "b/seed-0", "b/seed-1")]
    runs = read_runs([*folders, folders[0]])
    assert labels(runs) == ["a/seed-0", "b/seed-0", "seed-1"]


def test_runs_are_found_newest_first_and_broken_ones_stay_in_the_list(tmp_path: Path) -> None:
    rows = metrics_of(60, every=20)
    old = write_run(tmp_path / "deep/er/old", rows, recipe=recipe_of(steps=60))
    new = write_run(tmp_path / "new", [*rows, *train_rows(61)[60:]], recipe=recipe_of("llama.tiny", steps=90))
    (new / "checkpoints" / "step-60").mkdir(parents=True)
    write_run(new / "checkpoints" / "step-60")
    broken = write_run(tmp_path / "broken", rows)
    (broken / "recipe.json").unlink()
    for folder, age in ((old, 9000), (broken, 8000), (new, 7000)):
        os.utime(folder / "metrics.jsonl", (1e9 - age, 1e9 - age))
    found = find_runs(tmp_path, now=1e9)
    assert [(run.name, run.status, run.age) for run in found] == [
        ("new", "stopped", 7000),
        ("broken", "broken", 8000),
        ("old", "finished", 9000),
    ]
    assert "recipe.json" in found[1].problem
    whole = read_run(new)
    assert (found[0].recipe, found[0].steps, found[0].last_loss) == ("llama.tiny", 61, whole.train[-1]["loss"])
    assert found[0].bits_per_byte == whole.validation[-1]["bits_per_byte"]
    with pytest.raises(RunError, match="no folder"):
        find_runs(tmp_path / "nowhere")


def test_other_splits_do_not_count_as_validation(tmp_path: Path) -> None:
    rows = train_rows(10)
    run = read_run(write_run(tmp_path / "run", [*rows, eval_row(rows[-1]), {**eval_row(rows[-1]), "split": "test"}]))
    assert (len(run.evals), len(run.validation)) == (2, 1)


def test_comparison_needs_neither_torch_nor_a_model() -> None:
    code = "import sys, formers.comparison; print(sorted({'torch', 'numpy', 'formers.models'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
