"""`formers tune`: learning rate and sizes of a recipe, searched under a budget."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from formers.cli import train_options
from formers.cli.console import emit, speaker, stdout, table
from formers.cli.parse import Flag, changed_settings, parse
from formers.errors import ConfigError


@dataclass(frozen=True)
class Options:
    """Search settings of a recipe by Optuna (the extra `tune`): learning rate, depth and width, or those of --search. Every
    trial is a training of the same budget; the best recipe and an account of what mattered are written.

    Ctrl-C is fine: the same command goes on where it stopped.
    """

    budget: tuple[str, ...] = ("steps=300",)
    """Of each trial: steps=300, tokens=1M, flops=1e13 (large models then read less), minutes=2."""
    trials: int = 20
    """In all."""
    minutes: float | None = None
    """No trial is begun after so many."""
    search: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=LOW:HIGH")] = field(default=())
    """Where to search: train.lr=1e-4:1e-2, model.num_layers=1:4, model.d_ff=64:512:64 (in steps), or
    train.schedule=cosine,linear."""
    set: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=VALUE")] = field(default=())
    """Settings of every trial in place of the recipe's, such as batch_size=8."""
    data: Path | None = None
    """A shard folder in place of the recipe's text."""
    seed: int = 0
    """Of the search; weights and rows have the recipe's."""
    out: Path | None = None
    """Where trials and results go; runs/tune-RECIPE by default."""
    json: Flag = False
    """Print the result as JSON on stdout."""


def main(arguments: list[str]) -> int:
    name, rest = train_options.split(arguments)
    options = parse(Options, rest, f"tune {name or 'RECIPE'}")
    if name is None:
        raise ConfigError("no recipe is named", "formers tune RECIPE [options]", "formers models lists them")
    from formers import recipes
    from formers.experiments import budget, tune
    from formers.experiments.text import prepare

    tune.load_optuna()  # before any text is built
    asked = budget.parse(options.budget)
    settings = tune.TuneSettings(asked, options.trials, options.minutes, options.seed, changed_settings(options.set))
    recipe = recipes.get(name)
    ranges = tune.parse_ranges(options.search, recipe) or tune.usual(recipe)
    out = options.out or Path("runs") / f"tune-{Path(name).name.replace(':', '.')}"
    recipe, shards = prepare(recipe, folder=options.data, quiet=options.json)
    talk = speaker(options.json)
    progress = False if options.json else None
    if tune.tune(
        recipe, shards, ranges, settings, out, progress=progress, say=lambda text: talk.print(text, markup=False)
    ):
        return 130
    result = tune.account(recipe, ranges, settings, out)
    if options.json:
        emit({**result, "folder": out})
        return 0
    _print(result, out)
    return 0


def _print(result: dict[str, Any], out: Path) -> None:
    content = table("Setting", "Best", "Share", "Effect on bits per byte (95 %)", "", right=(1, 2))
    best, effects = result["best"], {row["name"]: row for row in reversed(result["mattered"])}
    for name, value in best["settings"].items():
        share, effect = result["importance"].get(name), effects.get(name)
        content.add_row(
            name,
            f"{value:.4g}" if isinstance(value, float) else str(value),
            "" if share is None else f"{share:.0%}",
            ""
            if effect is None
            else f"{effect['mean']:+.4f} ({effect['low']:+.4f} to {effect['high']:+.4f}) by {effect['per']}",
            "" if effect is None else "" if effect["told"] else "cannot tell",
        )
    stdout().print(content)
    if not effects:
        stdout().print(
            "Too few trials, or all alike: no effect can be told from chance yet. Give more --trials.", markup=False
        )
    first = result["first"]
    than = f", the recipe as it was {first['bits_per_byte']:.4f}" if first else ""
    stdout().print(f"\nbest: trial {best['trial']}, {best['bits_per_byte']:.4f} bits per byte{than}", markup=False)
    stdout().print(f"  formers train {shlex.quote(str(best['recipe']))}", markup=False)
    stdout().print(f"written: {out}", markup=False)
