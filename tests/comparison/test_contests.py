"""The report of a comparison: its verdict first, its numbers the same wherever they stand."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from formers.comparison import write_report
from formers.comparison.budget import limit
from formers.comparison.contests import contest_table, read_contest
from formers.comparison.equal import equal, loss_at
from formers.comparison.report import with_contests
from formers.comparison.runs import read_run
from formers.errors import RunError

from .contestfolder import write_contest
from .runfolders import metrics_of, recipe_of, write_run
from .test_report import Page


def test_the_page_says_the_verdict_and_shows_every_pair_and_text(tmp_path: Path) -> None:
    folder = write_contest(tmp_path / "out")
    out = write_report([folder], tmp_path / "report.html")
    page = Page(out)
    words = " ".join(page.words)
    assert "first wins: it needs" in words
    assert "3 entrants compared" in words
    assert "Every pair" in words
    assert "<script>alert(1)</script>" in words  # as text
    assert "·write⏎" in words
    assert len(page.scripts) == 3
    assert out.stat().st_size <= limit(9)
    assert page.content.count('class="sortable"') == 3
    assert "only several seeds can tell" not in words  # what is said of single trainings


def test_runs_of_an_entrant_share_a_colour_and_have_their_own_dash_and_operations(tmp_path: Path) -> None:
    folder = write_contest(tmp_path / "out")
    data = Page(write_report([folder], tmp_path / "report.html")).data()
    assert [look["colour"] for look in data["looks"]] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert len({tuple(look["dash"]) for look in data["looks"][:3]}) == 3
    assert [run["operations"] for run in data["runs"][::3]] == [1e6, 2e6, 3e6]
    assert data["runs"][0]["position"]["start"] == [0, 16, 32, 64, 128]
    assert data["runs"][0]["position"]["loss"][0] == 3


def test_terminal_json_and_csv_have_the_same_numbers(tmp_path: Path) -> None:
    result = read_contest(write_contest(tmp_path / "out"))
    table = contest_table(result)
    rows = json.loads(table.json())
    read = list(csv.DictReader(table.csv().splitlines()))
    for row, line in zip(rows, read, strict=True):
        assert float(line["bits_per_byte"]) == row["bits_per_byte"] == result["entrants"][row["name"]]["bits_per_byte"]
        assert line["behind"] == (row["behind"] or "")
    assert table.best(next(c for c in table.columns if c.key == "bits_per_byte")) == {0}


def test_a_comparison_stands_for_its_runs_beside_others(tmp_path: Path) -> None:
    folder, other = write_contest(tmp_path / "out"), write_run(tmp_path / "other", metrics_of(20))
    runs, contests = with_contests([folder, other])
    assert len(runs) == 10
    assert len(contests) == 1
    assert "10 trainings side by side" in " ".join(Page(write_report([folder, other], tmp_path / "r.html")).words)


def test_a_damaged_comparison_is_refused(tmp_path: Path) -> None:
    folder = write_contest(tmp_path / "out")
    (folder / "compare.json").write_text('{"verdict": ')
    with pytest.raises(RunError, match="cannot be read"):
        write_report([folder], tmp_path / "r.html")
    (folder / "compare.json").write_text("{}")
    with pytest.raises(RunError, match="holds no comparison"):
        write_report([folder], tmp_path / "r.html")


def rows_of(losses: list[float], each: float) -> list[dict[str, Any]]:
    return [
        {"kind": "train", "step": n, "tokens": 100 * n, "seconds": each * n, "loss": loss, "tokens_per_second": 1.0}
        for n, loss in enumerate(losses, 1)
    ]


def test_losses_are_compared_where_as_much_was_spent(tmp_path: Path) -> None:
    losses = [5.0 - 0.1 * n for n in range(20)]
    quick = read_run(
        write_run(tmp_path / "quick", rows_of(losses, 1.0), recipe={**recipe_of(), "operations_per_token": 10})
    )
    slow = read_run(
        write_run(tmp_path / "slow", rows_of(losses, 2.0), recipe={**recipe_of(), "operations_per_token": 40})
    )
    found = equal({"quick": [quick], "slow": [slow]})
    assert found["at"] == {"tokens": 2000, "seconds": 20.0, "operations": 20_000.0}
    assert found["quick"]["tokens"] == found["slow"]["tokens"] == pytest.approx(sum(losses[-5:]) / 5)
    assert found["slow"]["seconds"] == pytest.approx(sum(losses[5:10]) / 5)  # it had made ten steps
    assert found["slow"]["operations"] == pytest.approx(sum(losses[:5]) / 5)  # and five for as many operations
    assert loss_at(quick, "tokens", 5000) is None
