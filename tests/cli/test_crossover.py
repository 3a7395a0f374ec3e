"""`formers crossover`: the table, the files, the JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from formers.experiments import crossover
from tests.cli.commands import Formers


def pretended(asked: dict[str, Any]) -> dict[str, Any]:
    cost = asked["length"] ** (2 if asked["mechanism"] == "full" else 1) / 1e5
    figures = {"seconds": cost, "runs": 3, "peak_bytes": None}
    return {"forward": figures, "training": figures if asked["training"] else None}


def test_it_prints_a_table_and_writes_a_chart(
    formers: Formers, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(crossover, "in_a_process", pretended)
    asked = ["crossover", "--lengths", 64, 128, "--only", "window", "--out", tmp_path / "map"]
    out = formers(*asked).out
    assert "window" in out
    assert "Faster from" in out
    assert "16,777,216 operations forward for 128 tokens, 4.00 x for twice as many; measured, 4.00 x" in out
    assert "forward and backward 0.6 ms" in out
    found = formers(*asked, "--json").json
    assert found["mechanisms"]["window"]["training"]["seconds_slope"] == pytest.approx(1.0)
    assert [p["length"] for p in found["points"]] == [64, 64, 128, 128]
    assert json.loads((tmp_path / "map" / "crossover.json").read_text())["points"] == found["points"]
    svg = (tmp_path / "map" / "crossover.svg").read_text()
    assert svg.count('class="line"') == 2
    assert "Forward and backward pass" in svg


def test_the_forward_pass_alone(formers: Formers, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(crossover, "in_a_process", pretended)
    found = formers("crossover", "--lengths", 64, 128, "--only", "fixed", "--forward", "--out", tmp_path, "--json").json
    assert all(p["training"] is None for p in found["points"])


def test_a_mechanism_that_is_unknown_is_refused(formers: Formers) -> None:
    assert "did you mean 'window'" in formers.refuses("crossover", "--only", "windw")


def hashing_pays_from_100(asked: dict[str, Any]) -> dict[str, Any]:
    found = pretended(asked)
    if asked["mechanism"] == "lsh":
        found["training"]["seconds"] = asked["length"] * 100 / 1e5
    return found


def hashing_never_pays(asked: dict[str, Any]) -> dict[str, Any]:
    found = pretended(asked)
    if asked["mechanism"] == "lsh":
        found["training"]["seconds"] = asked["length"] ** 2 * 1.1 / 1e5
    return found


@pytest.mark.parametrize(
    ("measured", "said"),
    [
        (hashing_pays_from_100, "hashing was faster from 100 tokens on: for a Reformer, --model.full-below 100"),
        (hashing_never_pays, "hashing was not faster up to 128 tokens: for a Reformer, --model.full-below 129"),
    ],
)
def test_its_last_line_tells_a_reformer_below_which_length_not_to_hash(
    measured: Any, said: str, formers: Formers, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(crossover, "in_a_process", measured)
    out = formers("crossover", "--lengths", 64, 128, "--only", "lsh", "--out", tmp_path / "map").out
    assert out.strip().splitlines()[-1] == said


def test_where_hashing_was_not_measured_it_says_nothing_of_it(
    formers: Formers, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(crossover, "in_a_process", pretended)
    assert "full-below" not in formers("crossover", "--lengths", 64, 128, "--only", "window", "--out", tmp_path).out
