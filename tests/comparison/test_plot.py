"""Charts as SVG."""

from __future__ import annotations

import itertools
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from formers.comparison.plot import Chart, Line, svg, write_chart
from formers.errors import RunError

CHART = Chart("A < B", "x", "y", [Line("one & two", [0, 8, 64], [3.0, 2.0, 1.0])], [(0, "0"), (8, "8"), (64, "64")])


def test_points_stand_in_order_and_a_lower_value_stands_lower() -> None:
    circles = [e for e in ET.fromstring(svg(CHART)).iter() if e.tag.endswith("circle")][:3]
    across, down = ([float(c.attrib[name]) for c in circles] for name in ("cx", "cy"))
    assert across == sorted(across)
    assert down == sorted(down)
    assert across[2] - across[1] == pytest.approx((across[1] - across[0]) * 3 / 2, abs=0.2)  # log2: 8/4 to 8 to 64


def test_words_are_escaped_and_intervals_drawn() -> None:
    lines = [Line("a", [1, 2], [1.0, 2.0], low=[0.5, 1.5], high=[1.5, 2.5])]
    drawn = svg(Chart("A < B", "x", "y", lines, [(1, "1")]))
    assert "A &lt; B" in drawn
    assert drawn.count('stroke-width="1.5"') == 2


def test_one_value_alone_can_be_drawn(tmp_path: Path) -> None:
    assert write_chart(Chart("t", "x", "y", [Line("a", [4], [1.0])], [(4, "4")]), tmp_path / "c.svg").is_file()
    with pytest.raises(RunError, match="is a folder"):
        write_chart(CHART, tmp_path)


def test_values_of_many_sizes_are_spaced_by_their_logarithms() -> None:
    drawn = ET.fromstring(svg(Chart("t", "x", "y", [Line("a", [1, 2, 4], [0.01, 1.0, 100.0])], [(1, "1")], log_y=True)))
    down = [float(e.attrib["cy"]) for e in drawn.iter() if e.tag.endswith("circle")][:3]
    assert down[0] - down[1] == pytest.approx(down[1] - down[2], abs=0.2)
    assert {"0.01", "0.1", "1", "10", "100"} <= {e.text for e in drawn.iter() if e.tag.endswith("text")}


def test_names_that_do_not_fit_in_a_line_stand_in_the_next() -> None:
    lines = [Line(f"line {n}", [1, 2], [float(n), n + 1.0]) for n in range(9)]
    drawn = ET.fromstring(svg(Chart("t", "x", "y", lines, [(1, "1")])))
    names = [(float(e.attrib["x"]), float(e.attrib["y"])) for e in drawn.iter() if (e.text or "").startswith("line ")]
    assert len(set(names)) == 9
    assert max(x for x, _ in names) < 720 - 80
    assert len({y for _, y in names}) == 2
    paths = [e for e in drawn.iter() if e.tag.endswith("path")]
    assert len({e.attrib["stroke"] for e in paths}) == 9


def test_long_names_of_the_legend_do_not_run_into_each_other() -> None:
    lines = [Line(f"trunk.blocks.{n}.attention", [0, 1], [0.0, 1.0]) for n in range(4)]
    names = [
        e
        for e in ET.fromstring(svg(Chart("t", "x", "y", lines, [(1, "1")]))).iter()
        if e.text in {n.name for n in lines}
    ]
    places = [(float(e.attrib["x"]), float(e.attrib["y"])) for e in names]
    assert len(places) == 4
    beside = [b[0] - a[0] for a, b in itertools.pairwise(places) if a[1] == b[1]]
    assert beside
    assert min(beside) > 24 * 7
