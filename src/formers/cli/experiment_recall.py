"""`formers experiment recall`: key-value pairs asked for far beyond the window."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from formers.cli.console import table
from formers.cli.parse import Flag, parse
from formers.cli.results import finish


@dataclass(frozen=True)
class Options:
    """Train two small models on key-value pairs, one with a memory, and ask them far beyond what their window sees.

    Writes recall.json and recall.svg. Ctrl-C is fine: the same command goes on where it stopped.
    """

    out: Path = Path("runs/recall")
    """Where the runs and the results go; what stands there is gone on with."""
    documents: int = 40
    """Documents of 2,048 tokens that are asked in the end."""
    seed: int = 0
    """Of weights and documents."""
    json: Flag = False
    """Print the result as JSON on stdout."""


def main(arguments: list[str]) -> int:
    options = parse(Options, arguments, "experiment recall")
    from formers.experiments import recall

    settings = recall.RecallSettings(documents=options.documents, seed=options.seed)
    result = recall.run(options.out, settings, progress=False if options.json else None)
    return finish(
        "recall", result, options.out, verdict=recall.verdict, table=_table, chart=_chart, as_json=options.json
    )


def _table(result: Mapping[str, Any]) -> Any:
    content = table("Distance in tokens", "Windows", *result["accuracy"], "Questions", right=(1, 2, 3, 4))
    for rows in zip(*result["accuracy"].values(), strict=True):
        shares = [f"{100 * row['accuracy']:.1f} %" for row in rows]
        row = rows[0]
        distance, windows = f"{row['from'] + 1:,} to {row['to']:,}", row["to"] // result["window"]
        content.add_row(distance, str(windows), *shares, f"{row['questions']:,}")
    return content


def _chart(result: Mapping[str, Any]) -> Any:
    from formers.comparison.plot import Chart, Line

    rows = next(iter(result["accuracy"].values()))
    return Chart(
        "Key-value recall",
        f"windows of {result['window']} tokens between definition and question, at most",
        "right answers, %",
        [
            Line(name, [row["to"] for row in mine], [100 * row["accuracy"] for row in mine])
            for name, mine in result["accuracy"].items()
        ],
        [(row["to"], str(row["to"] // result["window"])) for row in rows],
    )
