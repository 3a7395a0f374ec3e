"""`formers experiment induction`: one block of a mosaic does what takes GPT-2 two."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from formers.cli.console import emit, stdout, table
from formers.cli.parse import Flag, parse
from formers.cli.results import say
from formers.files import write_json


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
    steps: int = 1000
    """Steps of a training."""
    json: Flag = False
    """Print the result as JSON on stdout."""


def main(arguments: list[str]) -> int:
    options = parse(Options, arguments, "experiment induction")
    from formers.experiments import induction

    settings = induction.InductionSettings(seeds=options.seeds, steps=options.steps)
    result = induction.run(options.out, settings, progress=False if options.json else None)
    if result is None:
        return 130  # the training has said how to go on
    says = induction.verdict(result)
    write_json(options.out / "induction.json", {**result, "verdict": says})
    if options.json:
        emit({**result, "verdict": says, "folder": options.out})
        return 0
    stdout().print(_table(result))
    say(says, options.out)
    return 0


def _table(result: Mapping[str, Any]) -> Any:
    seeds = range(result["settings"]["seeds"])
    content = table("Model", "Parameters", *(f"Seed {seed}" for seed in seeds), "Loss", right=range(1, len(seeds) + 3))
    for name, scores in result["scores"].items():
        shares = [f"{100 * score['accuracy']:.1f} %" for score in scores]
        loss = sum(score["loss"] for score in scores) / len(scores)
        content.add_row(name, f"{result['parameters'][name]:,}", *shares, f"{loss:.2f}")
    return content
