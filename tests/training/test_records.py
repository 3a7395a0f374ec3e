"""Run folders: what a crash can leave behind, and what a reader then finds."""

from __future__ import annotations

import json

import pytest

from formers.errors import RunError
from formers.training.records import Metrics, cut_back, environment, plain, read_json, write_json, write_samples


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


def test_samples_are_rewritten_whole(tmp_path):
    path = tmp_path / "samples.txt"
    rows = [{"step": 5, "prompt": "def ", "text": "f():"}, {"step": 9, "prompt": "x", "text": " = 1"}]
    write_samples(path, rows[:1])
    write_samples(path, rows)
    assert path.read_text() == "--- step 5 ---\ndef f():\n\n--- step 9 ---\nx = 1\n"


def test_the_environment_is_flat_and_says_what_was_chosen():
    found = environment({"device": "cpu", "precision": "bf16", "compile": False, "threads": 2})
    assert found.keys() >= {"formers", "python", "torch", "platform", "cpu", "cores", "started", "threads"}
    assert not any(isinstance(value, dict | list) for value in found.values())
