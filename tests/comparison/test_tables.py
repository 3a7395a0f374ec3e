"""The table's numbers are the run's, in the terminal, in JSON and in CSV."""

from __future__ import annotations

import csv
import io
import json
import math
import statistics
from pathlib import Path

from rich.console import Console

from formers.comparison import find_runs, listing, read_run, table
from formers.comparison.words import certificate_words, duration, large, number, short, show, summary

from .runfolders import CERTIFICATE, LEAKING, eval_row, metrics_of, recipe_of, train_rows, write_run


def printed(content: object, width: int = 80) -> str:
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(content)
    return console.export_text()


def test_the_numbers_are_those_of_the_run(tmp_path: Path) -> None:
    rows = metrics_of(60, every=20)
    for row in rows:
        if row["kind"] == "eval" and row["step"] == 40:
            row["loss"] = 1.5  # the best is not the last
    folder = write_run(tmp_path / "run", rows, recipe=recipe_of(steps=60), certificate=CERTIFICATE)
    run, row = read_run(folder), table([folder]).rows[0]
    last = run.validation[-1]
    assert (row["steps"], row["tokens"], row["parameters"]) == (60, 60 * 4096, 1_384_960)
    assert (row["validation_loss"], row["best_validation_loss"]) == (last["loss"], 1.5)
    assert [row[key] for key in ("bits_per_byte", "perplexity", "accuracy")] == [
        last[key] for key in ("bits_per_byte", "perplexity", "accuracy")
    ]
    assert row["tokens_per_second"] == statistics.median(r["tokens_per_second"] for r in run.train)
    assert (row["gzip_bits_per_byte"], row["unigram_bits_per_byte"]) == (2.31, 3.97)
    assert row["certificate"] == "2 of 2 laws hold"


def test_json_and_csv_hold_the_same_and_null_what_is_not_finite(tmp_path: Path) -> None:
    folders = [
        write_run(tmp_path / "whole", metrics_of(30)),
        write_run(tmp_path / "nan", [{"kind": "train", "step": 1, "loss": None}]),
    ]
    content = table(folders)
    from_json = json.loads(content.json())
    from_csv = list(csv.DictReader(io.StringIO(content.csv())))
    assert [row["name"] for row in from_json] == [row["name"] for row in from_csv] == ["whole", "nan"]
    assert math.isnan(content.rows[1]["train_loss"])
    assert (from_json[1]["train_loss"], from_csv[1]["train_loss"], from_json[1]["bits_per_byte"]) == (None, "", None)
    assert float(from_csv[0]["bits_per_byte"]) == from_json[0]["bits_per_byte"]
    assert "not finite" in printed(content)


def test_four_runs_stand_side_by_side_in_eighty_columns_and_five_take_a_line_each(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / f"run-{i}", metrics_of(30, seed=i), certificate=CERTIFICATE) for i in range(5)]
    beside, below = printed(table(folders[:4])), printed(table(folders), 120)
    assert "Bits/byte" in beside.splitlines()[3]
    assert all(f"run-{i}" in beside.splitlines()[0] for i in range(4))
    assert len([line for line in below.splitlines() if "run-" in line]) == 5
    assert "Bits/byte" in below.splitlines()[0]


def test_a_run_with_a_failing_certificate_is_never_the_best(tmp_path: Path) -> None:
    good = write_run(tmp_path / "good", metrics_of(30), certificate=CERTIFICATE)
    worse = write_run(tmp_path / "worse", metrics_of(30, floor=2.6), certificate=CERTIFICATE)
    leak = write_run(tmp_path / "leak", metrics_of(30, floor=0.1), certificate=LEAKING)
    content = table([leak, worse, good])
    bits = next(column for column in content.columns if column.key == "bits_per_byte")
    assert content.best(bits) == {2}
    said = " ".join(summary([read_run(path) for path in (leak, worse, good)], content.rows))
    assert "good needs the fewest bits per byte" in said
    assert "Left out of the ranking, because its certificate fails: leak" in said


def test_names_are_printed_as_they_are_and_never_as_markup(tmp_path: Path) -> None:
    content = table([write_run(tmp_path / "[red]x", metrics_of(5))])
    assert "[red]x" in printed(content)


def test_the_list_of_runs_prints_broken_ones_too(tmp_path: Path) -> None:
    write_run(tmp_path / "good", metrics_of(30), recipe=recipe_of(steps=30))
    (write_run(tmp_path / "bad") / "recipe.json").write_text("{")
    said = printed(listing(find_runs(tmp_path)), 200)
    assert "finished" in said
    assert "broken" in said
    assert "not JSON" in said


def test_the_summary_of_one_run_says_what_it_is_and_what_came_out(tmp_path: Path) -> None:
    warning = {"kind": "event", "step": 30, "level": "warning", "message": "slow"}
    folder = write_run(
        tmp_path / "demo", [*metrics_of(30), warning], recipe=recipe_of(steps=100), certificate=CERTIFICATE
    )
    said = " ".join(summary([read_run(folder, now=9e9)], table([folder]).rows))
    for words in (
        "demo is a gpt2 model with 1.38 million parameters",
        "stopped at step 30 of 100",
        "gzip\u00a0-9",
        "2.310",
        "1 warning",
    ):
        assert words in said
    assert "2 of 2 laws hold" in said


def test_the_summary_warns_where_runs_were_not_given_the_same_data(tmp_path: Path) -> None:
    other = recipe_of()
    other["data"]["source"] = "my.txt"
    folders = [write_run(tmp_path / "a", metrics_of(30)), write_run(tmp_path / "b", metrics_of(30), recipe=other)]
    runs = [read_run(folder) for folder in folders]
    assert "data settings differ (source)" in " ".join(summary(runs, table(runs).rows))
    assert "data settings" not in " ".join(summary([runs[0], runs[0]], table(runs[:1]).rows * 2))


def test_a_run_that_was_never_evaluated_is_not_ranked(tmp_path: Path) -> None:
    rows = train_rows(10)
    runs = [read_run(write_run(tmp_path / "a", rows)), read_run(write_run(tmp_path / "b", [*rows, eval_row(rows[-1])]))]
    assert "cannot be ranked" in " ".join(summary(runs, table(runs).rows))


def test_numbers_read_as_people_write_them() -> None:
    assert [number(v) for v in (0, 2.34567, 15.0, 1234.5, 0.00012345)] == ["0", "2.346", "15.00", "1,234", "0.0001234"]
    assert [large(v) for v in (999, 9_999, 123_456, 1_384_960, 2.5e9)] == [
        "999",
        "9,999",
        "123,456",
        "1.38 million",
        "2.5 billion",
    ]
    assert [short(v) for v in (999, 9_994, 123_456, 1_384_960)] == ["999", "9,994", "123k", "1.38M"]
    assert [duration(s) for s in (0.5, 48, 59.7, 200, 3600, 7500, 100_000)] == [
        "0.5 s", "48 s", "1 min", "3 min 20 s", "1 h", "2 h 5 min", "1 d 3 h"
    ]  # fmt: skip
    assert show(None, "number") == "–"
    assert certificate_words(None) == "none"
    assert certificate_words(LEAKING) == "fails 1 of 2 laws"
