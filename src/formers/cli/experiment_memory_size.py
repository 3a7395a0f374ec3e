"""`formers experiment memory-size`: loss on whole documents against the size of the memory."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from formers.cli.console import speaker, table
from formers.cli.parse import Flag, parse
from formers.cli.results import by_place, change, finish, in_thousands


@dataclass(frozen=True)
class Options:
    """Read whole validation documents with one model and memories of several sizes; the weights stay the same.

    Writes memory-size.json, memory-size.svg and memory-position.svg. Ctrl-C is fine: the same command goes on where it
    stopped.
    """

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """A run or model folder whose model has a memory."""
    data: Path | None = None
    """Another shard folder than the run's own; it needs the same tokenizer."""
    sizes: tuple[int, ...] = (0, 1024, 8192, 65_536, 262_144)
    """Entries a head, rising."""
    documents: int = 20
    """The shortest so many of the documents that are long enough."""
    longer_than: int = 65_536
    """Tokens that a document must have more of."""
    out: Path = Path("runs/memory-size")
    """Where the results go; what was measured there is not measured again."""
    json: Flag = False
    """Print the result as JSON on stdout."""


def main(arguments: list[str]) -> int:
    options = parse(Options, arguments, "experiment memory-size")
    from formers.comparison.plot import write_chart
    from formers.experiments import memory_size
    from formers.experiments.evaluation import shards_for
    from formers.hub import targets

    settings = memory_size.SweepSettings(options.sizes, options.documents, options.longer_than)
    shards = shards_for(targets.resolve(options.run), options.data)
    talk = speaker(options.json)
    with talk.status("reading ..."):
        rows = memory_size.sweep(
            options.run, shards, options.out, settings, say=lambda text: talk.print(text, markup=False)
        )
    summary = memory_size.summarise(rows, settings.sizes)
    lines = {f"memory of {size:,}": summary["by_position"][size] for size in settings.sizes}
    write_chart(by_place(lines), options.out / "memory-position.svg")
    return finish(
        "memory-size",
        {"target": options.run, **summary},
        options.out,
        verdict=lambda _: memory_size.verdict(rows, settings.sizes),
        table=lambda result: _table(result, settings.sizes),
        chart=lambda result: _by_size(result, settings.sizes),
        as_json=options.json,
    )


def _table(result: Mapping[str, Any], sizes: tuple[int, ...]) -> Any:
    headings = ("Memory", "Bits per byte", "Change from the size before (95 %)", "Documents longer")
    content, steps = table(*headings, right=(0, 1, 2, 3)), set(itertools.pairwise(sizes))
    changes = {s["to"]: s["interval"] for s in result["steps"] if (s["from"], s["to"]) in steps}
    for size, mean in result["means"].items():
        interval = changes.get(size)
        many = "" if interval is None else str(interval.count)
        content.add_row(f"{size:,}", f"{mean['bits_per_byte']:.4f}", change(interval), many)
    return content


def _by_size(result: Mapping[str, Any], sizes: tuple[int, ...]) -> Any:
    from formers.comparison.plot import Chart, Line

    means = [result["means"][size]["bits_per_byte"] for size in sizes]
    return Chart(
        "Loss against the size of the memory",
        "entries a head",
        "bits per byte",
        [Line("all documents", sizes, means)],
        [(float(size), in_thousands(size)) for size in sizes],
    )
