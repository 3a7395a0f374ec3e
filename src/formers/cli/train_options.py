"""The options of `formers train`, made from the dataclasses of the recipe it is called with.

Options are read twice. The first reading knows everything but the model's own settings and imports no torch, so that a
misspelled option or a missing file is said at once. The second knows the recipe.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro

from formers.cli.parse import Flag, parse
from formers.config import to_dict
from formers.errors import ConfigError
from formers.recipes import DataSettings, Recipe, TrainSettings, with_seed


@dataclass(frozen=True)
class Options:
    """Train a recipe; the run folder keeps everything that came of it."""

    files: Annotated[
        tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[FILE...]", help_behavior_hint="")
    ] = ()
    """Text to train on in place of the recipe's: files, folders, globs. Shards are built and cached."""
    data: Path | None = None
    """A shard folder (formers data build) in place of text."""
    out: Path | None = None
    """The run folder; by default runs/NAME-N, the next that is free."""
    resume: Flag = False
    """Go on with the run in --out from its newest checkpoint."""
    init: str | None = None
    """Begin with a run's model, a model folder or a hub name: its settings (but for those that
    --model.NAME names), weights and tokenizer, a new optimizer."""
    seed: int | None = None
    """One number for the weights, the order of rows and dropout; the recipe has its own where none."""
    json: Flag = False
    """Print the result as JSON on stdout."""
    text: DataSettings = field(default_factory=DataSettings)
    """Settings of the text (the recipe's `data`)."""
    train: TrainSettings = field(default_factory=TrainSettings)
    """Settings of the loop."""


Reading = TypeVar("Reading")


def split(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """RECIPE, which comes first, and the rest. None where the first word is an option. Raises ConfigError for a recipe that
    stands behind options."""
    if not arguments or arguments[0].startswith("-"):
        from formers.recipes.find import functions

        behind = [word for word in arguments if word in functions()]
        if behind and not {"-h", "--help"} & set(arguments):
            raise ConfigError(
                f"{behind[0]} stands behind {arguments[0]}", f"RECIPE first: {behind[0]} {arguments[0]} ..."
            )
        return None, list(arguments)
    return arguments[0], list(arguments[1:])


def first_reading(arguments: Sequence[str], verb: str) -> Options:
    """Everything but ``--model.*``, checked without knowing the model."""
    return parse(Options, _without_model(arguments), verb)


def _without_model(arguments: Sequence[str]) -> list[str]:
    """The words without ``--model.NAME`` and the values behind it. (A file behind such a value is left out too, which is
    why this reading decides nothing.)"""
    kept: list[str] = []
    inside = False
    for word in arguments:
        if word.startswith("--"):
            inside = word.startswith("--model.")
        if not inside:
            kept.append(word)
    return kept


def second_reading(arguments: Sequence[str], verb: str, recipe: Recipe[Any]) -> tuple[Options, Recipe[Any]]:
    """The options with the recipe's own settings as defaults, and the recipe that they ask for."""
    options, asked = of_recipe(Options, arguments, verb, recipe)
    return options, asked if options.seed is None else with_seed(asked, options.seed)


def named_settings(arguments: Sequence[str], model: Any) -> dict[str, Any]:
    """The settings of `model` that ``--model.NAME`` named, whatever their defaults were."""
    words = [word.removeprefix("--model.") for word in arguments if word.startswith("--model.")]
    names = {word.partition("=")[0].partition(".")[0].replace("-", "_") for word in words}
    names |= {name.removeprefix("no_") for name in names}
    return {name: value for name, value in to_dict(model).items() if name in names}


def of_recipe(
    base: type[Reading], arguments: Sequence[str], verb: str, recipe: Recipe[Any]
) -> tuple[Reading, Recipe[Any]]:
    """The same for options of another verb, which have `text` and `train` too."""
    model = field(default_factory=lambda: recipe.model)
    kind: Any = dataclasses.make_dataclass(
        "Options", [("model", tyro.conf.AvoidSubcommands[type(recipe.model)], model)], bases=(base,), frozen=True
    )
    defaults = kind(text=recipe.data, train=recipe.train, model=recipe.model)
    about = f"{base.__doc__}\n\nThe recipe is {recipe.name}; its settings are the defaults below."
    options = parse(kind, arguments, verb, default=defaults, about=about)
    text = _without_stale_size(options.text, recipe.data)
    return options, dataclasses.replace(recipe, model=options.model, data=text, train=options.train)


def _without_stale_size(asked: DataSettings, default: DataSettings) -> DataSettings:
    """Whoever names another tokenizer has not asked it for the size of the recipe's."""
    if asked.tokenizer != default.tokenizer and asked.vocab_size == default.vocab_size:
        return dataclasses.replace(asked, vocab_size=None)
    return asked
