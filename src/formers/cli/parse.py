"""Arguments by tyro: a verb's options are a frozen dataclass, its help is its docstrings, a typo gets a suggestion."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from formers.errors import ConfigError

Options = TypeVar("Options")
Settings = TypeVar("Settings")

Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff]
"""A switch that is off by default: ``--resume`` and no ``--no-resume``."""

NONE = "none"

_REGISTRY = ConstructorRegistry()


@_REGISTRY.primitive_rule
def _optional(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """``int | None`` reads ``7`` or ``none``, and its help says INT|none."""
    inner = [kind for kind in typing.get_args(info.type) if kind is not type(None)]
    is_union = typing.get_origin(info.type) in (typing.Union, types.UnionType)
    if not is_union or len(inner) != 1 or inner[0] not in (int, float, str, Path):
        return None
    kind = inner[0]

    def read(arguments: list[str]) -> Any:
        return None if arguments[0].lower() == NONE else kind(arguments[0])

    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=f"{kind.__name__.upper()}|{NONE}",
        instance_from_str=read,
        is_instance=lambda value: (
            value is None or isinstance(value, kind) or (kind is float and isinstance(value, int))
        ),
        str_from_instance=lambda value: [NONE if value is None else str(value)],
    )


def settings_of(kind: type[Settings], options: Any) -> Settings:
    """The settings of an experiment, whose fields the options have under the same names."""
    fields = dataclasses.fields(kind)  # type: ignore[arg-type]
    return kind(**{field.name: getattr(options, field.name) for field in fields})


def parse(
    options: type[Options],
    arguments: Sequence[str],
    verb: str,
    *,
    default: Options | None = None,
    about: str | None = None,
) -> Options:
    """The options of a verb. Ends the process with exit code 0 after --help and 2 after a mistake, as tyro does."""
    given: dict[str, Any] = {} if default is None else {"default": default}
    return tyro.cli(
        options, prog=f"formers {verb}", description=about, args=list(arguments), registry=_REGISTRY, **given
    )


def changed_settings(pairs: Sequence[str]) -> dict[str, Any]:
    """``NAME=VALUE`` of --set, values as JSON has them (a word stands for itself). Raises ConfigError for anything else."""
    found = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not (name.strip() and equals):
            raise ConfigError(f"--set {pair}", "NAME=VALUE, such as memory_length=1600")
        try:
            found[name.strip().replace("-", "_")] = json.loads(value)
        except ValueError:
            found[name.strip().replace("-", "_")] = value
    return found


def positional(metavar: str) -> Any:
    """Marks an argument by place: ``Annotated[str, *positional("RUN")]``."""
    return tyro.conf.Positional, tyro.conf.arg(metavar=metavar)
