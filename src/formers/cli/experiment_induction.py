"""`formers experiment induction`: one block of a mosaic does what takes GPT-2 two."""

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
    """Train a mosaic of one block, a GPT-2 of one and a GPT-2 of two, of equal parameters, on random sequences that come
    again, and ask them what follows in one of 32 tokens the second time.

    Writes induction.json. Ctrl-C is fine: the same command goes on where it stopped.
    """

    out: Path = Path("runs/induction")
    """Where the runs and the result go; what stands there is gone on with."""
    seeds: int = 3
    """Trainings of each, with weights and rows of their own."""
    steps: int = 3000
    """Steps of a training."""
    json: Flag = False
    """Print the result as JSON on stdout."""


def main(arguments: list[str]) -> int:
    options = parse(Options, arguments, "experiment induction")
    from formers.experiments import induction

    settings = induction.InductionSettings(seeds=options.seeds, steps=options.steps)
    result = induction.run(options.out, settings, progress=False if options.json else None)
    return finish("induction", result, options.out, verdict=induction.verdict, table=_table, as_json=options.json)


def _table(result: Mapping[str, Any]) -> Any:
    seeds = range(result["settings"]["seeds"])
    content = table("Model", "Parameters", *(f"Seed {seed}" for seed in seeds), "Loss", right=range(1, len(seeds) + 3))
    for name, scores in result["scores"].items():
        shares = [f"{100 * score['accuracy']:.1f} %" for score in scores]
        loss = sum(score["loss"] for score in scores) / len(scores)
        content.add_row(name, f"{result['parameters'][name]:,}", *shares, f"{loss:.2f}")
    return content
