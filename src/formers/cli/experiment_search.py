"""`formers experiment search`: how much of the truly nearest approximate look-ups find, on a model's own keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from formers.cli.console import speaker, table
from formers.cli.parse import Flag, changed_settings, parse, settings_of
from formers.cli.results import finish, in_thousands


@dataclass(frozen=True)
class Options:
    """Read validation documents with a model that has a memory, and look into its keys exactly and approximately: the share of
    the truly nearest that is found, and the time of both, by the number of entries. Needs faiss (pip install formers[search]).

    Writes search.json and search.svg.
    """

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """A run or model folder whose model has a memory."""
    data: Path | None = None
    """Another shard folder than the run's own; it needs the same tokenizer."""
    sizes: tuple[int, ...] = (8192, 65_536, 262_144)
    """Entries a head, rising; as many as the documents make."""
    neighbours: int = 32
    """Entries that a query is given."""
    queries: int = 128
    """Queries of each head: those of the last tokens."""
    probes: int = 0
    """Lists that a query looks into; 0: as many as find 95 %."""
    rounds: int = 3
    """Of each timing, whose median counts."""
    set: tuple[str, ...] = ()
    """NAME=VALUE: settings of the model other than the stored ones. Its weights must still fit."""
    out: Path = Path("runs/search")
    """Where the results go."""
    json: Flag = False
    """Print the result as JSON on stdout."""


def main(arguments: list[str]) -> int:
    options = parse(Options, arguments, "experiment search")
    from formers.experiments import searching
    from formers.experiments.evaluation import shards_for
    from formers.hub import targets
    from formers.inspection.lookups import memory_layers

    settings = settings_of(searching.SearchSettings, options)
    memory_layers(targets.resolve(options.run).model)  # or the refusal would be of a setting that nobody gave
    found = targets.resolve(options.run, changes={"memory_size": 1} | changed_settings(options.set))
    shards, talk = shards_for(found, options.data), speaker(options.json)
    with talk.status("reading ..."):
        rows = searching.search(found.model, shards, settings, say=lambda text: talk.print(text, markup=False))
    return finish(
        "search",
        {"target": options.run, "neighbours": options.neighbours, "rows": rows},
        options.out,
        verdict=lambda result: searching.verdict(result["rows"]),
        table=_table,
        chart=_chart,
        as_json=options.json,
    )


def _table(result: Mapping[str, Any]) -> Any:
    headings = (
        "Entries",
        f"Recall at {result['neighbours']}",
        "Exact, ms",
        "Approximate, ms",
        "Lists",
        "Looked into",
        "Built, s",
    )
    content = table(*headings, right=range(len(headings)))
    for row in result["rows"]:
        content.add_row(
            f"{row['entries']:,}",
            f"{row['recall']:.3f}",
            f"{row['exact_ms']:.1f}",
            f"{row['approximate_ms']:.1f}",
            f"{row['lists']:,}",
            f"{row['probes']:,}",
            f"{row['built_seconds']:.1f}",
        )
    content.caption = "Milliseconds: of one look-up of all queries of all heads."
    content.caption_justify = "left"
    return content


def _chart(result: Mapping[str, Any]) -> Any:
    from formers.comparison.plot import Chart, Line

    sizes = [row["entries"] for row in result["rows"]]
    lines = [Line(way, sizes, [row[f"{way}_ms"] for row in result["rows"]]) for way in ("exact", "approximate")]
    ticks = [(float(size), in_thousands(size)) for size in sizes]
    return Chart("Look-ups in a memory", "entries a head", "milliseconds", lines, ticks)
