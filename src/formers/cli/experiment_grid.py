"""`formers experiment grid`: one model under a grid of settings, what each buys and costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from formers.cli.console import emit, speaker, stdout, table
from formers.cli.parse import Flag, changed_settings, parse
from formers.cli.results import change
from formers.errors import ConfigError
from formers.files import write_json


@dataclass(frozen=True)
class Options:
    """Read whole validation documents with one model under every combination of some settings that take no new weights, such
    as the window and the size of the memory: loss, operations, time, and bytes of cache and memory.

    Writes grid.json and grid.svg. Ctrl-C is fine: the same command goes on where it stopped.
    """

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """A run or model folder whose model keeps a state of any length."""
    vary: tuple[str, ...] = ()
    """NAME=VALUE,VALUE,..: a setting and its values. Say several: --vary cache_length=128,512 memory_size=0,8192"""
    data: Path | None = None
    """Another shard folder than the run's own; it needs the same tokenizer."""
    documents: int = 8
    """The shortest so many of the documents that are long enough."""
    longer_than: int = 16_384
    """Tokens that a document must have more of."""
    out: Path = Path("runs/grid")
    """Where the results go; what was measured there is not measured again."""
    json: Flag = False
    """Print the result as JSON on stdout."""


def main(arguments: list[str]) -> int:
    options = parse(Options, arguments, "experiment grid")
    vary = _varied(options.vary)
    from formers.comparison.plot import write_chart
    from formers.experiments import grid
    from formers.experiments.evaluation import shards_for
    from formers.hub import targets

    settings = grid.GridSettings(vary, options.documents, options.longer_than)
    shards = shards_for(targets.resolve(options.run), options.data)
    talk = speaker(options.json)
    with talk.status("reading ..."):
        rows = grid.measure(options.run, shards, options.out, settings, say=lambda text: talk.print(text, markup=False))
        cells = grid.summarise(options.run, rows, settings)
    result = {"target": options.run, "vary": vary, "cells": cells}
    write_json(options.out / "grid.json", result)
    write_chart(_chart(cells, vary), options.out / "grid.svg")
    if options.json:
        emit({**result, "folder": options.out})
        return 0
    stdout().print(_table(cells, tuple(vary)))
    stdout().print(f"\nwritten: {options.out}", markup=False)
    return 0


def _varied(pairs: Sequence[str]) -> dict[str, tuple[Any, ...]]:
    """Each value as --set reads one. Raises ConfigError for what is no list of values."""
    found: dict[str, tuple[Any, ...]] = {}
    for pair in pairs:
        name, equals, values = pair.partition("=")
        each = [changed_settings([f"{name}{equals}{value}"]) for value in values.split(",")]
        (key,) = each[0]
        if key in found:
            raise ConfigError(f"--vary {pair}: {key} was given before", "each setting once")
        found[key] = tuple(one[key] for one in each)
    if not found:
        raise ConfigError("no --vary", "settings and their values", "--vary memory_size=0,1024,8192")
    return found


def _table(cells: Sequence[Mapping[str, Any]], names: tuple[str, ...]) -> Any:
    headings = (*names, "Bits per byte", "Change from the first (95 %)", "Right", "M operations", "us", "MB")
    content = table(*headings, right=range(len(headings)))
    for cell in cells:
        content.add_row(
            *(f"{value:,}" if isinstance(value, int) else str(value) for value in cell["settings"].values()),
            f"{cell['bits_per_byte']:.4f}",
            change(cell["change"]),
            f"{100 * cell['accuracy']:.1f} %",
            f"{cell['operations'] / 1e6:.2f}",
            f"{1e6 * cell['seconds']:.0f}",
            f"{cell['state_bytes'] / 1e6:.2f}",
        )
    content.caption = "Operations and us (microseconds): of reading a token. MB: of a text's cache and memory, full."
    content.caption_justify = "left"
    return content


def _chart(cells: Sequence[Mapping[str, Any]], vary: Mapping[str, tuple[Any, ...]]) -> Any:
    """Bits per byte against operations, a line for each value of all settings but the last."""
    from formers.comparison.plot import Chart, Line
    from formers.experiments.grid import words

    last, lines = list(vary)[-1], {}
    for cell in cells:
        others = {name: value for name, value in cell["settings"].items() if name != last}
        lines.setdefault(words(others) or last, []).append((cell["operations"] / 1e6, cell["bits_per_byte"]))
    drawn = [Line(name, *zip(*sorted(points), strict=True)) for name, points in lines.items()]
    places = sorted({x for line in drawn for x in line.x})
    ticks = [(places[0], f"{places[0]:.2f}"), (places[-1], f"{places[-1]:.2f}")]
    return Chart(f"Loss against work, along {last}", "million operations a token", "bits per byte", drawn, ticks)
