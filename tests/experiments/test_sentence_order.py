"""Sentence order against next sentence: both are asked for both, and the verdict says what a table of them means."""

from __future__ import annotations

from pathlib import Path

import pytest

from formers.data import build
from formers.errors import ConfigError
from formers.experiments import sentence_order
from formers.experiments.sentence_order import NEXT, ORDER, OrderSettings, share, verdict

SETTINGS = OrderSettings(recipe="albert.nano", steps=2, batch_size=4, seq_len=32)


def test_each_is_asked_for_both_and_what_is_trained_is_not_trained_again(tmp_path: Path) -> None:
    for name in ("one", "two", "three", "four", "five", "six", "seven", "eight"):
        lines = [f"The {name} has a number {i}. It is {i * i} squared, and {i * i * i} beyond." for i in range(30)]
        (tmp_path / f"{name}.txt").write_text("\n".join(lines))
    files = sorted(tmp_path.glob("*.txt"))
    build(files, tmp_path / "shards", tokenizer="wordpiece", vocab_size=160, validation=0.5, quiet=True)
    result = sentence_order.run(tmp_path / "out", SETTINGS, data=tmp_path / "shards", progress=False)
    assert result is not None
    assert result["accuracy"].keys() == result["accuracy"][NEXT].keys() == {NEXT, ORDER}
    for asked in result["accuracy"].values():
        assert all(
            0 <= row["interval"].low <= row["interval"].mean <= row["interval"].high <= 1 for row in asked.values()
        )
        assert asked[NEXT]["interval"].count > 20
    written = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("*/model/*")}
    again = sentence_order.run(tmp_path / "out", SETTINGS, data=tmp_path / "shards", progress=False)
    assert again == result
    assert written == {p: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("*/model/*")}


@pytest.mark.parametrize(
    ("next_next", "next_order", "order_next", "order_order", "word"),
    [
        (0.90, 0.52, 0.79, 0.86, "reproduced"),  # the paper's table 5
        (0.90, 0.75, 0.79, 0.86, "smaller effect"),
        (0.90, 0.52, 0.50, 0.86, "smaller effect"),
        (0.90, 0.52, 0.79, 0.53, "not reproduced"),
        (0.52, 0.51, 0.50, 0.51, "not reproduced"),
    ],
)
def test_the_verdict(next_next: float, next_order: float, order_next: float, order_order: float, word: str) -> None:
    table = {NEXT: {NEXT: next_next, ORDER: next_order}, ORDER: {NEXT: order_next, ORDER: order_order}}
    accuracy = {a: {b: {"interval": share(x, 1000)} for b, x in row.items()} for a, row in table.items()}
    assert verdict({"accuracy": accuracy}).word == word


def test_wilson_s_interval_is_that_of_the_books() -> None:
    found = share(0.9, 10)
    assert (found.low, found.high) == pytest.approx((0.5958, 0.9821), abs=1e-4)


def test_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigError, match="steps is 0"):
        OrderSettings(steps=0)
