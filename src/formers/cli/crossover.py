"""`formers crossover`: from which length on each mechanism beats full attention, on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from formers.cli.console import emit, speaker, stdout, table
from formers.cli.parse import Flag, parse


@dataclass(frozen=True)
class Options:
    """Time and peak memory of attention mechanisms against length, forward and backward, measured here.

    Writes crossover.json and crossover.svg. Ctrl-C is fine: the same command goes on where it stopped.
    """

    lengths: tuple[int, ...] = (256, 512, 1024, 2048, 4096, 8192, 16_384, 32_768)
    """Tokens of the text."""
    only: tuple[str, ...] = ()
    """Mechanisms to measure beside full attention; none named: all."""
    budget: float | None = None
    """Minutes after which no further point is begun; the same command goes on."""
    longest: float = 60.0
    """Seconds that one pass may be expected to take; longer ones are left out."""
    d_model: int = 256
    """Width of the layer."""
    num_heads: int = 4
    """Its heads."""
    forward: Flag = False
    """Measure the forward pass alone."""
    out: Path = Path("runs/crossover")
    """Where the results go; what was measured there is not measured again."""
    json: Flag = False
    """Print the result as JSON on stdout."""


def main(arguments: list[str]) -> int:
    options = parse(Options, arguments, "crossover")
    from formers.comparison.plot import write_chart
    from formers.experiments import crossover
    from formers.experiments.mechanisms import MECHANISMS

    settings = crossover.CrossoverSettings(
        options.lengths,
        options.only or tuple(MECHANISMS),
        options.d_model,
        options.num_heads,
        training=not options.forward,
        longest=options.longest,
    )
    talk = speaker(options.json)
    seconds = None if options.budget is None else 60 * options.budget
    result = crossover.run(
        options.out, settings, budget=seconds, say=lambda text: talk.print(text, markup=False, soft_wrap=True)
    )
    write_chart(chart(result), options.out / "crossover.svg")
    if options.json:
        emit({**result, "folder": options.out})
        return 0
    stdout().print(_table(result))
    stdout().print(f"\n{_by_count(result)}", markup=False, soft_wrap=True)
    stdout().print(f"\n{options.out / 'crossover.json'}, {options.out / 'crossover.svg'}", markup=False)
    told = _told_a_reformer(result)
    if told:
        stdout().print(told, markup=False, soft_wrap=True)
    return 0


def _by_count(result: Mapping[str, Any]) -> str:
    """What twice the length costs full attention: counted, and measured."""
    from formers.experiments.crossover import full_operations

    longest, d_model = max(p["length"] for p in result["points"]), result["fixed"]["d_model"]
    counted = full_operations(longest, d_model)
    times = full_operations(2 * longest, d_model) / counted
    steep = result["mechanisms"]["full"][_mode(result)]["seconds_slope"]
    measured = "" if steep is None else f"; measured, {2**steep:.2f} x the time (slope {steep:.2f})"
    by_count = f"{counted:,} operations forward for {longest:,} tokens, {times:.2f} x for twice as many"
    return f"full attention by count: {by_count}{measured}"


def _told_a_reformer(result: Mapping[str, Any]) -> str | None:
    """The setting that makes a Reformer attend in full where hashing was not faster here; none where that is not known."""
    mode = _mode(result)
    lengths = {
        name: {p["length"] for p in result["points"] if p["mechanism"] == name and p.get(mode)}
        for name in ("full", "lsh")
    }
    both = lengths["full"] & lengths["lsh"]
    if len(both) < 2:
        return None
    pays = result["mechanisms"]["lsh"][mode]["seconds_beats_full_from"]
    found = (
        f"hashing was not faster up to {max(both):,} tokens"
        if pays is None
        else f"hashing was faster from {pays:,} tokens on"
    )
    return f"{found}: for a Reformer, --model.full-below {max(both) + 1 if pays is None else pays}"


def _table(result: Mapping[str, Any]) -> Any:
    mode = _mode(result)
    columns = ("Mechanism", "Longest", "ms", "MB", "Slope of time", "Of memory", "Faster from", "Smaller from")
    content = table(*columns, right=range(1, len(columns)))
    for name, judged in result["mechanisms"].items():
        points = [p for p in result["points"] if p["mechanism"] == name and p.get(mode)]
        if points:
            last, found = points[-1], judged[mode]
            figures = last[mode]
            peak = figures["peak_bytes"]
            content.add_row(
                name,
                f"{last['length']:,}",
                f"{1000 * figures['seconds']:,.0f}",
                "" if peak is None else f"{peak / 1e6:,.0f}",
                *(_number(found[f"{measure}_slope"], ".2f") for measure in ("seconds", "peak_bytes")),
                *(_from(name, found[f"{measure}_beats_full_from"]) for measure in ("seconds", "peak_bytes")),
            )
    return content


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _from(name: str, length: int | None) -> str:
    if name == "full":
        return ""
    return "not within" if length is None else f"{length:,}"


def _mode(result: Mapping[str, Any]) -> str:
    return "training" if any(p.get("training") for p in result["points"]) else "forward"


def chart(result: Mapping[str, Any]) -> Any:
    """Time of the forward and backward pass (of the forward pass where that alone was measured), both axes logarithmic."""
    from formers.comparison.plot import Chart, Line

    mode, lines = _mode(result), []
    for name in result["mechanisms"]:
        points = [p for p in result["points"] if p["mechanism"] == name and p.get(mode)]
        lines.append(Line(name, [p["length"] for p in points], [p[mode]["seconds"] for p in points]))
    lengths = sorted({p["length"] for p in result["points"]})
    title = {"training": "Forward and backward pass of one layer", "forward": "Forward pass of one layer"}[mode]
    ticks = [(n, f"{n:,}") for n in lengths]
    return Chart(title, "tokens", "seconds", [line for line in lines if line.x], ticks, log_y=True)
