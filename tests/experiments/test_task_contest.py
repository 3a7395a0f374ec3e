"""Synthetic tasks as comparisons: shares of right answers, paired over seeds."""

from __future__ import annotations

from pathlib import Path

import pytest

from formers.errors import ConfigError
from formers.experiments import task_contest
from formers.experiments.entrants import Entry
from tests.experiments.compared import recipe, settings


def test_recipes_are_trained_and_scored_on_a_task_and_nothing_is_done_twice(tmp_path: Path) -> None:
    named = [Entry("one", recipe(num_layers=1, max_length=256)), Entry("two", recipe(num_layers=2, max_length=256))]
    asked = settings(amount=2, batch_size=4, tolerance=0.2)
    plan = task_contest.make_plan(named, "copying", asked)
    said: list[str] = []
    assert task_contest.run_all(plan, tmp_path, progress=False, say=said.append) is None
    assert len(said) == 4
    found = task_contest.summarise(plan, tmp_path)
    assert set(found["ranking"]) == {"one", "two"}
    assert "of the answers wrong" in found["verdict"]
    row = found["entrants"]["one"]
    assert row["accuracy"] == pytest.approx(sum(row["of_seeds"]) / 2)
    assert 0 <= row["chance"] < 1
    assert task_contest.run_all(plan, tmp_path, progress=False, say=said.append) is None
    assert len(said) == 4


def test_what_is_no_task_and_what_cannot_read_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'copying'"):
        task_contest.make_plan([Entry("one", recipe())], "copyin", settings())
    with pytest.raises(ConfigError, match="recipes alone"):
        task_contest.make_plan([Entry("one", recipe()), Entry("run", runs=(tmp_path,))], "copying", settings())
    with pytest.raises(ConfigError, match="has positions for 8"):
        task_contest.make_plan([Entry("one", recipe(max_length=8))], "copying", settings())
