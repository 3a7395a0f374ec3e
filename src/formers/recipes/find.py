"""Names to recipes: built-in ones, a user's own function, and what a run recorded."""

from __future__ import annotations

import dataclasses
import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from formers.errors import TargetError, suggest
from formers.hub.targets import read_recipe
from formers.recipes.recipe import Recipe

_HOMES = (
    *("gpt2", "llama", "bert", "albert", "distilbert", "deberta", "deberta_v2", "t5"),
    *("sparse_transformer", "reformer", "wavenet", "longformer", "longformer_lm"),
    *("transformer_xl", "memorizing", "melodi", "block_recurrent", "memory_mosaics", "grafted"),
)
"""Modules of this package, each with a tuple RECIPES of functions."""


def functions() -> dict[str, Callable[[], Recipe]]:
    """Every built-in recipe's function by name: gpt2.tiny, ... Imports no torch."""
    modules = {home: importlib.import_module(f"formers.recipes.{home}") for home in _HOMES}
    return {f"{home}.{make.__name__}": make for home, module in modules.items() for make in module.RECIPES}


def names() -> tuple[str, ...]:
    """The names of the built-in recipes."""
    return tuple(functions())


def get(name: str) -> Recipe:
    """The recipe of a name, of ``file.py:function`` of the user's own, or of a JSON file, as `formers tune` writes one.

    Raises TargetError with a suggestion, or one that says what the user's function returned instead of a Recipe.
    """
    if is_own(name):
        return _own(name)
    if name.endswith(".json"):
        return _stored(Path(name))
    known = functions()
    if name not in known:
        raise TargetError(
            f"unknown recipe {name!r}",
            "one of " + ", ".join(known) + ", or file.py:function of your own",
            suggest(name, known),
        )
    return known[name]()


def _stored(file: Path) -> Recipe:
    """A recipe that was written with `Recipe.to_json`. Raises TargetError where it cannot be read."""
    try:
        data = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise TargetError(f"{file} cannot be read ({error})", "the recipe that formers tune wrote") from None
    if not isinstance(data, dict) or "architecture" not in data:
        raise TargetError(f"{file} holds no recipe", "the recipe that formers tune wrote")
    if data.get("code"):
        raise TargetError(
            f"{file} is of a model of your own, and code is only run when you name it",
            str(data["code"]),
            "name that, with the settings that differ as options",
        )
    return Recipe.from_json(data, _config_class(data, None))


def is_own(name: str) -> bool:
    """Whether the name means a function in a file of the user's."""
    return ".py:" in name or name.endswith(".py")


def _own(name: str) -> Recipe:
    from formers.hub import user_code

    made = user_code.call(name, seed=0)
    if not isinstance(made, Recipe):
        raise TargetError(
            f"{name} gave something of type {type(made).__name__}",
            "a formers.recipes.Recipe",
            "return Recipe(name=..., model=your config, ...); `formers new block NAME` writes an example",
        )
    return dataclasses.replace(made, name=made.name or name, code=name)


def read(run: Path | str, *, code: str | None = None) -> Recipe:
    """The recipe of a run folder. `code` is ``file.py:function`` where the model is the user's own: nothing that a folder
    says is ever run unless the user names it.

    Raises RunError where the folder is no run, ConfigError where a setting is unknown to this version, TargetError where
    `code` is missing.
    """
    data = read_recipe(Path(run))
    if data.get("code") and code is None:
        raise TargetError(
            f"{run} trains a model of your own, and code is only run when you name it", str(data["code"]), "name it too"
        )
    return Recipe.from_json(data, _config_class(data, code))


def _config_class(data: dict[str, Any], code: str | None) -> type:
    if code is not None:
        return type(_own(code).model)
    from formers.models.registry import spec

    return spec(str(data.get("architecture"))).load().CONFIG
