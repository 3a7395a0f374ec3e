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
    label = {height - 1: "0", 0: number(top)}
    wide = max(map(len, label.values()))
    rows = []
    for row in range(height):
        below = 8 * (height - 1 - row)
        cells = "".join(EIGHTHS[min(8, max(0, eighths - below))] for eighths in filled)
        rows.append(f"{label.get(row, ''):>{wide}} {'┤' if row in label else '│'}{cells}")
    left, right = ends
    return [*rows, " " * (wide + 2) + left + right.rjust(len(columns) - len(left))]


def bars(shares: Sequence[tuple[str, float, str]], *, width: int = 40) -> list[str]:
    """A line for each (name, share of the whole, words): names and words in columns, the share as a bar."""
    names = max((len(name) for name, _, _ in shares), default=0)
    words = max((len(said) for _, _, said in shares), default=0)
    return [
        f"{name:<{names}}  {said:>{words}}  {100 * share:3.0f} %  {_bar(share, width)}".rstrip()
        for name, share, said in shares
    ]


def _bar(share: float, width: int) -> str:
    full, rest = divmod(round(8 * width * min(1.0, max(0.0, share))), 8)
    return "█" * full + ("", *"▏▎▍▌▋▊▉")[rest]


def _columns(values: Sequence[float], width: int) -> list[float]:
    if len(values) <= width:
        times = max(1, width // max(1, len(values)))
        return [value for value in values for _ in range(times)]
    edges = [round(i * len(values) / width) for i in range(width + 1)]
    return [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
