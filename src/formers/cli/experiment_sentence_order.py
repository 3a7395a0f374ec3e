"""`formers experiment sentence-order`: encoders trained for the order of sentences or the next one, each asked both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from formers.cli.console import table
from formers.cli.parse import Flag, parse, settings_of
from formers.cli.results import finish


@dataclass(frozen=True)
class Options:
    """Train two small encoders, one to tell swapped segments and one to tell foreign ones, and ask both for both.

    Writes sentence-order.json and two run folders. Ctrl-C is fine: the same command goes on where it stopped.
    """

    recipe: str = "albert.tiny"
    """Of an encoder with a pretraining head: an ALBERT or BERT."""
    data: Path | None = None
    """A shard folder in place of the recipe's text, the standard library."""
    steps: int = 3000
    """Updates of each."""
    batch_size: int = 16
    """Rows of an update."""
    seq_len: int = 128
    """Tokens of a row: two segments."""
    lr: float = 1e-3
    """Peak learning rate."""
    batches: int = 0
    """Of 32 validation pairs that are asked; 0: all there are."""
    seed: int = 0
    """Of weights, rows and labels."""
    out: Path = Path("runs/sentence-order")
    """Where the runs and the result go; what stands there is gone on with."""
    json: Flag = False
    """Print the result as JSON on stdout."""


def main(arguments: list[str]) -> int:
    options = parse(Options, arguments, "experiment sentence-order")
    from formers.experiments import sentence_order

    settings = settings_of(sentence_order.OrderSettings, options)
    result = sentence_order.run(options.out, settings, data=options.data, progress=False if options.json else None)
    return finish(
        "sentence-order", result, options.out, verdict=sentence_order.verdict, table=_table, as_json=options.json
    )


def _table(result: Mapping[str, Any]) -> Any:
    content = table("Trained for", "next sentence", "sentence order", "Pairs", right=(1, 2, 3))
    for trained, asked in result["accuracy"].items():
        intervals = [row["interval"] for row in asked.values()]
        shares = [f"{100 * i.mean:.1f} % ({100 * i.low:.1f} to {100 * i.high:.1f})" for i in intervals]
        content.add_row(trained.replace("_", " "), *shares, f"{intervals[0].count:,}")
    return content
