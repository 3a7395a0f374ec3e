"""`formers experiment duplication`: the Reformer's task, say again what was said, by rounds of hashing."""

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
    """Train one layer of attention, full and hashed, to say a word again; ask each with full attention and 1 to 8 rounds.

    Writes duplication.json and duplication.svg. Ctrl-C is fine: the same command goes on where it stopped.
    """

    out: Path = Path("runs/duplication")
    """Where the runs and the results go; what stands there is gone on with."""
    trained: tuple[str, ...] = ("full", "4", "2", "1")
    """Ways to attend that models are trained with: full, or numbers of rounds."""
    word: int = 31
    """Tokens that are said twice; texts are 2 (word + 1) long."""
    symbols: int = 15
    """That words are made of."""
    steps: int = 400
    """Of each training."""
    texts: int = 512
    """That are asked in the end."""
    seed: int = 0
    """Of weights and texts."""
    json: Flag = False
    """Print the result as JSON on stdout."""


def main(arguments: list[str]) -> int:
    options = parse(Options, arguments, "experiment duplication")
    from formers.experiments import duplication

    settings = duplication.DuplicationSettings(
        word=options.word,
        symbols=options.symbols,
        trained=options.trained,
        steps=options.steps,
        texts=options.texts,
        seed=options.seed,
    )
    result = duplication.run(options.out, settings, progress=False if options.json else None)
    return finish(
        "duplication",
        result,
        options.out,
        verdict=duplication.verdict,
        table=_table,
        chart=_chart,
        as_json=options.json,
    )


def _named(way: str) -> str:
    return "full" if way == "full" else f"{way} round{'s' * (way != '1')}"


def _table(result: Mapping[str, Any]) -> Any:
    asked = next(iter(result["accuracy"].values()))
    content = table("Trained with", *(f"asked with {_named(way)}" for way in asked), right=range(1, len(asked) + 1))
    for way, shares in result["accuracy"].items():
        content.add_row(_named(way), *(f"{100 * share:.1f} %" for share in shares.values()))
    return content


def _chart(result: Mapping[str, Any]) -> Any:
    from formers.comparison.plot import Chart, Line

    rounds = [1, 2, 4, 8]
    return Chart(
        "The duplication task",
        "rounds of hashing when asked",
        "right tokens, %",
        [
            Line(f"trained with {_named(way)}", rounds, [100 * shares[str(r)] for r in rounds])
            for way, shares in result["accuracy"].items()
        ],
        [(r, str(r)) for r in rounds],
    )
