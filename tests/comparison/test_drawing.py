"""Lines and bars of letters."""

from __future__ import annotations

from formers.comparison.drawing import bars, draw


def test_a_line_reaches_its_largest_value_at_the_top_and_nothing_at_the_bottom() -> None:
    drawn = draw([0.0, 1.0, 2.0, 4.0], width=4, height=2, ends=("a", "b"))
    assert drawn == ["4.000 ┤   █", "    0 ┤ ▄██", "       a  b"]


def test_many_values_share_columns_by_their_mean() -> None:
    drawn = draw([0.0, 2.0] * 50, width=10, height=1)
    assert drawn[0].endswith("█" * 10)  # all means are alike
    assert drawn[0].startswith("1.000")


def test_a_line_of_nothing_is_flat() -> None:
    assert draw([0.0, 0.0], width=2, height=1)[0].endswith("┤  ")


def test_bars_are_as_long_as_their_shares() -> None:
    lines = bars([("all", 1.0, "8"), ("half", 0.5, "4"), ("none", 0.0, "0")], width=8)
    assert [line.count("█") for line in lines] == [8, 4, 0]
    assert lines[0].startswith("all   8  100 %")
