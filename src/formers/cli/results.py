"""What the experiments print and keep: a verdict in words, changes with their intervals, a chart by place."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from formers.cli.console import emit, stdout
from formers.files import write_json

if TYPE_CHECKING:
    from formers.comparison.plot import Chart
    from formers.experiments.claims import Interval, Verdict

FIRST_SHOWN = 256
"""Tokens from the start of a document from which a chart by place begins."""


Result = dict[str, Any]


def finish(
    name: str,
    result: Result | None,
    out: Path,
    *,
    verdict: Callable[[Result], Verdict],
    table: Callable[[Result], Any],
    chart: Callable[[Result], Chart] | None = None,
    as_json: bool,
) -> int:
    """Write out/NAME.json and, of a chart, out/NAME.svg; print the result as JSON, or its table and the verdict in words.

    The exit code. A result of None: the training was stopped, and has said how to go on.
    """
    if result is None:
        return 130
    from formers.comparison.plot import write_chart

    says = verdict(result)
    write_json(out / f"{name}.json", {**result, "verdict": says})
    if chart is not None:
        write_chart(chart(result), out / f"{name}.svg")
    if as_json:
        emit({**result, "verdict": says, "folder": out})
        return 0
    stdout().print(table(result))
    stdout().print(f"\n{says.word}: {says.claim}", markup=False)
    stdout().print(f"written: {out}", markup=False)
    return 0


def change(interval: Interval | None) -> str:
    """A mean difference and its interval; nothing where there were too few pairs."""
    return "" if interval is None else f"{interval.mean:+.4f} ({interval.low:+.4f} to {interval.high:+.4f})"


def by_place(lines: Mapping[str, Sequence[Mapping[str, float]]]) -> Chart:
    """Loss by place in the document, a line for each name; the first tokens, which all find hard, are left out."""
    from formers.comparison.plot import Chart, Line

    shown = {name: [row for row in rows if row["start"] >= FIRST_SHOWN] for name, rows in lines.items()}
    places = sorted({row["start"] for rows in shown.values() for row in rows})
    return Chart(
        "Loss by place in the document",
        "tokens from its start",
        "nats a token",
        [Line(name, [row["start"] for row in rows], [row["loss"] for row in rows]) for name, rows in shown.items()],
        [(float(place), in_thousands(int(place))) for place in places],
    )


def in_thousands(tokens: int) -> str:
    """A tick of an axis: 512, 8k."""
    return f"{tokens // 1024}k" if tokens >= 1024 else str(tokens)
