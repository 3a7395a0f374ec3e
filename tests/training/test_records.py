"""Run folders: what a crash can leave behind, and what a reader then finds."""

from __future__ import annotations

import json

import pytest

from formers.errors import RunError
from formers.training.records import Metrics, RunFolder, cut_back, environment, plain, read_json, write_json


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def row(step, kind="train"):
    return {"kind": kind, "step": step}


def test_a_row_is_in_the_file_before_append_returns(tmp_path):
    metrics = Metrics(tmp_path / "metrics.jsonl", keep=-1)
    metrics.append(row(1))
    assert lines(metrics.path) == [row(1)]
    metrics.close()


def test_resuming_keeps_the_rows_up_to_the_checkpoint_and_half_a_line_goes(tmp_path):
    path = tmp_path / "metrics.jsonl"
    rows = [row(1), row(2), row(2, "eval"), row(3), row(3, "event")]
    path.write_text("".join(json.dumps(r) + "\n" for r in rows) + '{"kind": "train", "st')
    metrics = Metrics(path, keep=2)
    metrics.append(row(3))
    metrics.sync()
    metrics.close()
    assert lines(path) == [*rows[:3], row(3)]


def test_a_new_run_starts_with_no_rows(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps(row(1)) + "\n")
    Metrics(path, keep=-1).close()
    assert path.read_bytes() == b""


def test_a_damaged_line_within_is_refused_and_the_file_is_left_alone(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("no json\n" + json.dumps(row(1)) + "\n")
    before = path.read_bytes()
    with pytest.raises(RunError, match="no json"):
        cut_back(path, 1)
    assert path.read_bytes() == before


def test_numbers_that_json_does_not_have_become_null(tmp_path):
    write_json(tmp_path / "x.json", {"a": float("nan"), "b": (1, float("inf")), "c": tmp_path})
    assert read_json(tmp_path / "x.json") == {"a": None, "b": [1, None], "c": str(tmp_path)}
    assert plain(0.5) == 0.5


@pytest.mark.parametrize("content", ["", "{", "[1]", "\xff"])
def test_an_unreadable_file_is_named(tmp_path, content):
    path = tmp_path / "recipe.json"
    path.write_text(content)
    with pytest.raises(RunError, match=r"recipe\.json"):
        read_json(path)
    with pytest.raises(RunError, match=r"missing\.json"):
        read_json(tmp_path / "missing.json")


CHOSEN = {"device": "cpu", "precision": "bf16", "compile": False, "threads": 2}


def test_samples_follow_the_metrics_also_when_these_are_cut_back(tmp_path):
    with RunFolder(tmp_path, write=True, resume=False) as folder:
        folder.start({"name": "x"}, CHOSEN, resumed_from=None)
        for step, prompt, text in ((5, "def ", "f():"), (9, "x", " = 1")):
            folder.append({"kind": "sample", "step": step, "prompt": prompt, "text": text})
        folder.write_samples()
    assert (tmp_path / "samples.txt").read_text() == "--- step 5 ---\ndef f():\n\n--- step 9 ---\nx = 1\n"
    with RunFolder(tmp_path, write=True, resume=True) as folder:
        folder.start({"name": "x"}, CHOSEN, resumed_from=5)
    assert (tmp_path / "samples.txt").read_text() == "--- step 5 ---\ndef f():\n"


def test_a_folder_that_holds_a_run_is_not_written_to_unless_it_is_resumed(tmp_path):
    with RunFolder(tmp_path, write=True, resume=False) as folder:
        folder.start({"name": "x"}, CHOSEN, resumed_from=None)
    with pytest.raises(RunError, match="holds a run already"):
        RunFolder(tmp_path, write=True, resume=False)
    RunFolder(tmp_path, write=True, resume=True).__exit__()


def test_two_trainings_cannot_write_to_one_folder(tmp_path):
    with RunFolder(tmp_path, write=True, resume=True), pytest.raises(RunError, match="another training is writing"):
        RunFolder(tmp_path, write=True, resume=True)
    RunFolder(tmp_path, write=True, resume=True).__exit__()


def test_a_resumed_run_keeps_when_it_was_started(tmp_path):
    with RunFolder(tmp_path, write=True, resume=False) as folder:
        folder.start({}, CHOSEN, resumed_from=None)
    found = read_json(tmp_path / "environment.json")
    write_json(tmp_path / "environment.json", {**found, "started": "then"})
    with RunFolder(tmp_path, write=True, resume=True) as folder:
        folder.start({}, CHOSEN, resumed_from=3)
    found = read_json(tmp_path / "environment.json")
    assert found["started"] == "then"
    assert found["resumed"] > "2020"


def test_the_environment_is_flat_and_says_what_was_chosen():
    found = environment(CHOSEN)
    assert found.keys() >= {"formers", "python", "torch", "platform", "cpu", "cores", "started", "threads"}
    assert not any(isinstance(value, dict | list) for value in found.values())
