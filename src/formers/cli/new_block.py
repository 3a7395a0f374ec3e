"""`formers new block`: a file of the user's own, to change and try at once."""

from __future__ import annotations

import keyword
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import tyro

from formers.cli.console import emit, stdout
from formers.cli.parse import Flag, parse
from formers.errors import ConfigError, TargetError


@dataclass(frozen=True)
class Options:
    """Write NAME.py: a sublayer of your own, a config, a recipe. It certifies and trains as it is; change it from there."""

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]
    """What the block is called: a Python name, such as squared_relu."""
    json: Flag = False
    """Print the result as JSON on stdout."""


def main(arguments: list[str]) -> None:
    options = parse(Options, arguments, "new block")
    path = write(options.name)
    commands = next_commands(path)
    if options.json:
        return emit({"file": str(path), "next": commands})
    stdout().print(f"written: {path}\n\nnow:", markup=False)
    for command in commands:
        stdout().print(f"  {command}", markup=False, soft_wrap=True)
    return None


def write(name: str, folder: Path = Path()) -> Path:
    """Write the file. Raises ConfigError for a name that Python cannot use, TargetError where a file stands already."""
    name = name.removesuffix(".py")
    if not name.isidentifier() or keyword.iskeyword(name):
        raise ConfigError(
            f"{name!r} cannot name a Python file",
            "letters, digits and _",
            "for example: formers new block squared_relu",
        )
    path = folder / f"{name}.py"
    text = (files("formers.cli") / "block.txt").read_text(encoding="utf-8")
    title = "".join(part[:1].upper() + part[1:] for part in name.split("_"))
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text.replace("Sublayer", title).replace("FILE", name))
    except FileExistsError:
        raise TargetError(f"{path} exists already", "a new name", "nothing was changed") from None
    return path


def next_commands(path: Path) -> list[str]:
    """What to try with the file."""
    return [
        f"formers certify {path}:recipe",
        f"formers train {path}:recipe --train.steps 100 --out runs/{path.stem}",
        "formers train gpt2.nano --train.steps 100 --out runs/gpt2",
        f"formers report runs/{path.stem} runs/gpt2 --out comparison.html",
    ]
