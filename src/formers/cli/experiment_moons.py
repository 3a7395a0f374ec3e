"""`formers experiment moons`: three memories that each follow a moon, and one that waits for the whole sky."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from formers.cli.console import stderr, table
from formers.cli.parse import Flag, parse
from formers.cli.results import finish


@dataclass(frozen=True)
class Options:
    """Train one layer of context memories to say where three moons stand next, as three heads of two dimensions and as one of
    six, and ask them of periods that they have not seen.

    Writes moons.json and moons.svg. What was trained already is not trained again.
    """

    out: Path = Path("runs/moons")
    """Where the results go."""
    seeds: int = 3
    """Trainings of each."""
    steps: int = 500
    """Steps of a training."""
    batch_size: int = 8
    """Starts a step; the paper's is 64."""
    json: Flag = False
    """Print the result as JSON on stdout."""


def main(arguments: list[str]) -> int:
    options = parse(Options, arguments, "experiment moons")
    from formers.experiments import moons

    settings = moons.MoonsSettings(seeds=options.seeds, steps=options.steps, batch_size=options.batch_size)
    result = moons.run(options.out, settings, progress=None if options.json else stderr().print)
    return finish("moons", result, options.out, verdict=moons.verdict, table=_table, chart=_chart, as_json=options.json)


def _table(result: Mapping[str, Any]) -> Any:
    seeds = range(result["settings"]["seeds"])
    content = table("Model", *(f"Known after, seed {seed}" for seed in seeds), right=range(1, len(seeds) + 1))
    for name, after in result["known_after"].items():
        content.add_row(name, *("never" if steps is None else f"{steps} steps" for steps in after))
    content.add_row("longest period", f"{result['longest']:.0f} steps")
    content.add_row("common multiple", f"{result['common']:.0f} steps")
    return content


def _chart(result: Mapping[str, Any]) -> Any:
    from formers.comparison.plot import Chart, Line

    length = result["settings"]["length"]
    lines = []
    for name, seeds in result["errors"].items():
        columns = list(zip(*seeds, strict=True))
        mean = [sum(column) / len(column) for column in columns]
        low, high = [min(column) for column in columns], [max(column) for column in columns]
        lines.append(Line(name, range(1, length + 1), mean, low, high))
    ticks = [(result["longest"], "longest period"), (result["common"], "common multiple"), (length, f"{length} steps")]
    return Chart("Three moons", "steps seen", "distance from a moon's place", lines, ticks, log_x=False)
