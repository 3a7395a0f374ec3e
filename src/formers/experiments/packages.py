"""Long documents that every machine has: Python packages, the modules of a folder one after another.

A module uses what its neighbours define, so what was read ten thousand tokens ago matters, as in the paper's GitHub text
(Memorizing Transformers, 2203.08913, section 4.1: "all of the files of a repository" in one document).
"""

from __future__ import annotations

import json
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path

from formers.data.sources import LEFT_OUT, TESTS
from formers.errors import DataError
from formers.files import write_atomic

LEAST_BYTES = 250_000
"""Packages shorter than this are left out: about 65,536 tokens of a vocabulary of 4,096."""


def roots() -> tuple[Path, ...]:
    """The standard library, and what is installed beside it."""
    paths = sysconfig.get_paths()
    return Path(paths["stdlib"]), Path(paths["purelib"])


def write_packages(
    out: Path, where: Iterable[Path] | None = None, *, least: int = LEAST_BYTES, most: int | None = None
) -> int:
    """Write the packages below `where` (default: `roots`) to `out` as JSON lines, a package a line; returns how many.

    least  bytes of a package that counts
    most   packages, the longest left out first; None: all

    Raises DataError where there are none.
    """
    found = [
        (name, text)
        for root in (roots() if where is None else where)
        for name, text in _packages(root)
        if len(text.encode()) >= least
    ]
    if not found:
        raise DataError(f"no package of {least:,} bytes", "folders of Python modules", "name text with --files")
    found = sorted(found, key=lambda each: (len(each[1]), each[0]))[:most]
    lines = (json.dumps({"name": name, "text": text}) + "\n" for name, text in found)
    write_atomic(out, "".join(lines).encode())
    return len(found)


def _packages(root: Path) -> Iterator[tuple[str, str]]:
    """Name and text of each folder's own modules, in order of their names."""
    folders: dict[Path, list[Path]] = {}
    for path in sorted(root.rglob("*.py")):
        inside = path.relative_to(root)
        if not {*LEFT_OUT, *TESTS} & set(inside.parts[:-1]):
            folders.setdefault(inside.parent, []).append(path)
    for folder, modules in folders.items():
        pieces = [f"# {module.relative_to(root).as_posix()}\n{_text(module)}" for module in modules]
        yield folder.as_posix(), "\n".join(pieces)


def _text(path: Path) -> str:
    """A module's source; one that is not UTF-8 counts as empty."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return ""
