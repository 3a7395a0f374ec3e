"""A line chart as one SVG file: no library, no script, readable wherever it is opened, in light and in dark."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from formers.comparison.escaping import text
from formers.comparison.shell import check_out, write

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 720, 400, 70, 36, 62, 56
LEGEND, LEGEND_STEP, LEGEND_LINE, LETTER = 44, 126, 16, 7.5
COLOURS = ("#1f6fb4", "#c2571a", "#2b8a3e", "#8e44ad", "#7a6a00", "#c0392b", "#16808f", "#b0448a", "#5b6b7a", "#8b5a2b")

STYLE = """
  svg { font: 13px system-ui, sans-serif; background: #fff; fill: #222 }
  .axis, .tick { stroke: #888; stroke-width: 1 } .grid { stroke: #ddd } .line { fill: none; stroke-width: 2 }
  @media (prefers-color-scheme: dark) { svg { background: #161616; fill: #ddd } .grid { stroke: #333 } }
"""


@dataclass(frozen=True)
class Line:
    """A named line; `low` and `high` give each point an interval."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()


@dataclass(frozen=True)
class Chart:
    """Lines over one axis. `ticks` names places on the x axis; `log_x` spaces x by its logarithm (0 stands left of all);
    `log_y` spaces y by its own, for values above 0; `dots` marks every point."""

    title: str
    x_label: str
    y_label: str
    lines: Sequence[Line]
    ticks: Sequence[tuple[float, str]]
    log_x: bool = True
    log_y: bool = False
    dots: bool = True


def write_chart(chart: Chart, out: Path | str) -> Path:
    """Write the chart to `out`; returns it. Raises RunError where it cannot be written."""
    out = check_out(out)
    write(out, svg(chart))
    return out


def svg(chart: Chart) -> str:
    """The chart as the text of an SVG file."""
    across, up = _x_scale(chart), _y_scale(chart)
    body = [_axes(chart, across, up)]
    body += [_line(line, COLOURS[i % len(COLOURS)], across, up, chart.dots) for i, line in enumerate(chart.lines)]
    body.append(_legend(chart))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{text(chart.title)}">'
        f"<style>{STYLE}</style>\n" + "\n".join(body) + "\n</svg>\n"
    )


Scale = Callable[[float], float]


def _x_scale(chart: Chart) -> Scale:
    places = [x for line in chart.lines for x in line.x] + [x for x, _ in chart.ticks]
    above = min((x for x in places if x > 0), default=1.0)

    def at(x: float) -> float:
        return math.log2(max(x, above / 4)) if chart.log_x else x

    low, high = min(map(at, places)), max(map(at, places))
    return lambda x: LEFT + (at(x) - low) / ((high - low) or 1) * (WIDTH - LEFT - RIGHT)


def _y_bounds(chart: Chart) -> tuple[float, float]:
    values = [y for line in chart.lines for y in (*line.y, *line.low, *line.high) if math.isfinite(y)]
    if chart.log_y:
        values = [math.log10(y) for y in values if y > 0]
    low, high = min(values), max(values)
    pad = (high - low) * 0.08 or 0.1
    return low - pad, high + pad


def _y_scale(chart: Chart) -> Scale:
    low, high = _y_bounds(chart)
    top = TOP + LEGEND_LINE * ((len(chart.lines) - 1) // _names_in_a_line(chart)[0])

    def up(y: float) -> float:
        return HEIGHT - BOTTOM - ((math.log10(y) if chart.log_y else y) - low) / (high - low) * (HEIGHT - top - BOTTOM)

    return up


def _axes(chart: Chart, across: Scale, up: Scale) -> str:
    parts = [f'<text x="{LEFT}" y="24" font-weight="600">{text(chart.title)}</text>']
    low, high = _y_bounds(chart)
    for value in _round_powers(low, high) if chart.log_y else _round_values(low, high):
        y = f"{up(value):.1f}"
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y}" text-anchor="end" dominant-baseline="middle">{value:g}</text>')
    base = HEIGHT - BOTTOM
    for place, name in chart.ticks:
        x = f"{across(place):.1f}"
        parts.append(f'<line class="tick" x1="{x}" x2="{x}" y1="{base}" y2="{base + 5}"/>')
        parts.append(f'<text x="{x}" y="{base + 19}" text-anchor="middle">{text(name)}</text>')
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{base}" y2="{base}"/>')
    parts.append(
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 14}" text-anchor="middle">{text(chart.x_label)}</text>'
    )
    parts.append(
        f'<text transform="translate(16 {HEIGHT / 2}) rotate(-90)" text-anchor="middle">{text(chart.y_label)}</text>'
    )
    return "\n".join(parts)


def _round_values(low: float, high: float) -> list[float]:
    """About five round numbers between."""
    rough = (high - low) / 5
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * times for times in (1, 2, 5, 10) if power * times >= rough)
    first = math.ceil(low / step)
    return [round(n * step, 10) for n in range(first, math.floor(high / step) + 1)]


def _round_powers(low: float, high: float) -> list[float]:
    """Powers of ten between, given their exponents; with 2 and 5 times each where they are few."""
    exponents = range(math.floor(low), math.ceil(high) + 1)
    times = (1,) if high - low > 3 else (1, 2, 5)
    found = [times_ * 10.0**e for e in exponents for times_ in times]
    return [value for value in found if low <= math.log10(value) <= high]


def _names_in_a_line(chart: Chart) -> tuple[int, float]:
    """How many names of the legend stand side by side, and how far apart."""
    step = max(LEGEND_STEP, 20 + LETTER * max(len(line.name) for line in chart.lines))
    return max(1, int((WIDTH - LEFT) // step)), step


def _legend(chart: Chart) -> str:
    columns, step = _names_in_a_line(chart)
    parts = []
    for i, line in enumerate(chart.lines):
        x, y = LEFT + 4 + step * (i % columns), LEGEND + LEGEND_LINE * (i // columns)
        parts.append(f'<circle cx="{x:g}" cy="{y}" r="4" fill="{COLOURS[i % len(COLOURS)]}"/>')
        parts.append(f'<text x="{x + 9:g}" y="{y}" dominant-baseline="middle">{text(line.name)}</text>')
    return "\n".join(parts)


def _line(line: Line, colour: str, across: Scale, up: Scale, dots: bool) -> str:
    points = [(across(x), up(y)) for x, y in zip(line.x, line.y, strict=True) if math.isfinite(y)]
    path = " ".join(f"{'L' if i else 'M'}{x:.1f} {y:.1f}" for i, (x, y) in enumerate(points))
    parts = [f'<path class="line" stroke="{colour}" d="{path}"/>']
    if dots:
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>' for x, y in points]
    for x, low, high in zip(line.x, line.low, line.high, strict=False):
        place = f"{across(x):.1f}"
        parts.append(
            f'<line x1="{place}" x2="{place}" y1="{up(low):.1f}" y2="{up(high):.1f}" stroke="{colour}" stroke-width="1.5"/>'
        )
    return "\n".join(parts)
