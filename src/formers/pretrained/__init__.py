"""Small trained models that come with the package, by name: runs that ended, and the text that none of them has read.

    gpt2-stdlib/  memory_mosaics-stdlib/    run folders, weights in bf16; README.md says of what and how they were made
    stdlib/                                 the held-out documents as shards, under the licence of their text

`make pretrained` makes all of it (formers.experiments.pretrained). Nothing else writes here. Imports no torch.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from formers.errors import RunError

HOME = Path(__file__).parent

LIMIT = 5_000_000
"""Bytes that a model's folder has at most."""


@dataclass(frozen=True)
class Facts:
    """What is known of a model without opening it. bytes: of its folder. scored, gzip: bits per byte of the held-out text."""

    name: str
    architecture: str
    parameters: int
    bytes: int
    tokens: int
    scored: float
    gzip: float


def names() -> tuple[str, ...]:
    """The models that are there."""
    return tuple(sorted(path.parent.name for path in HOME.glob("[!.]*/recipe.json")))  # not those that are half written


def find(name: str) -> Path | None:
    """The run folder of a model, or None where no model has this name."""
    return HOME / name if name in names() else None


def ships(path: Path) -> bool:
    """Whether a path lies where these models are, and is not to be written to."""
    return path.resolve().is_relative_to(HOME.resolve())


def refuse_to_write(path: Path) -> None:
    """Raise RunError for a place among these models."""
    if ships(path):
        raise RunError(
            f"{path} belongs to a model that comes with formers", "a folder of your own", "name another --out"
        )


def facts(name: str, home: Path | None = None) -> Facts:
    """What recipe.json and the last evaluation of the log say of a model, there or in another folder.

    Raises RunError where a file is damaged.
    """
    folder = (home or HOME) / name
    try:
        recipe = json.loads((folder / "recipe.json").read_text("utf-8"))
        lines = (folder / "metrics.jsonl").read_text("utf-8").splitlines()
        last = _last(lines, "eval")
        return Facts(
            name,
            recipe["architecture"],
            recipe["parameters"],
            size(folder),
            last["tokens"],
            last["bits_per_byte"],
            last["baselines"]["gzip_bits_per_byte"],
        )
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise RunError(
            f"{folder} cannot be read ({type(error).__name__}: {error})",
            "a model as it was shipped",
            "install formers anew",
        ) from error


def _last(lines: list[str], kind: str) -> dict[str, Any]:
    marked = re.compile(rf'"kind":\s*"{kind}"')
    return json.loads(next((line for line in reversed(lines) if marked.search(line)), ""))


def size(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
