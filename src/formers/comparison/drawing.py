"""A line drawn in letters, for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from .words import number

EIGHTHS = " ▁▂▃▄▅▆▇█"


def draw(values: Sequence[float], *, width: int = 72, height: int = 10, ends: tuple[str, str] = ("", "")) -> list[str]:
    """Lines of text: `values` from left to right as columns from 0 up to their largest, which stands beside the axis, as 0
    does. A column of more than one value shows their mean. `ends`: what stands below the first and the last."""
    columns = _columns(values, width)
    top = max(columns, default=0.0) or 1.0
    filled = [round(8 * height * max(0.0, value) / top) for value in columns]
    label = {0: number(top), height - 1: "0"}
    wide = max(map(len, label.values()))
    rows = []
    for row in range(height):
        below = 8 * (height - 1 - row)
        cells = "".join(EIGHTHS[min(8, max(0, eighths - below))] for eighths in filled)
        rows.append(f"{label.get(row, ''):>{wide}} {'┤' if row in label else '│'}{cells}")
    left, right = ends
    return [*rows, " " * (wide + 2) + left + right.rjust(len(columns) - len(left))]


def _columns(values: Sequence[float], width: int) -> list[float]:
    if len(values) <= width:
        times = max(1, width // max(1, len(values)))
        return [value for value in values for _ in range(times)]
    edges = [round(i * len(values) / width) for i in range(width + 1)]
    return [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
