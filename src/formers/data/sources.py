"""Where text comes from: the standard library, files, folders, globs, JSON lines, Parquet, Hugging Face data sets.

Text is UTF-8. A byte order mark at the start of a file is dropped; nothing else is changed: newlines stay as they are
(``\\r\\n`` too), so byte counts are those of the text that was given.
"""

from __future__ import annotations

import glob
import os
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from formers.errors import DataError, suggest

STDLIB = "stdlib"
TESTS = {"test", "tests", "idle_test"}
HUB = "hf:"
LEFT_OUT = ("__pycache__", "site-packages", "dist-packages")
WANTED = "`stdlib`, a file, a folder, a glob, a .jsonl or .parquet file, or hf:NAME[:config][@split]"

Source = str | os.PathLike[str]


@dataclass(frozen=True)
class File:
    """A file to read. `named`: the user named this very file, so failing to read it is an error and not a skip."""

    path: Path
    named: bool


@dataclass(frozen=True)
class HubDataset:
    """A data set that the optional package `datasets` loads."""

    name: str
    config: str | None = None
    split: str = "train"

    @classmethod
    def parse(cls, source: str) -> HubDataset:
        """``hf:NAME[:config][@split]``.

        Raises:
            DataError: no name.
        """
        address, _, split = source.removeprefix(HUB).partition("@")
        name, _, config = address.partition(":")
        if not name:
            raise DataError(
                f"no data set is named in {source!r}", "hf:NAME[:config][@split]", "hf:roneneldan/TinyStories"
            )
        return cls(name, config or None, split or "train")


Item = File | HubDataset


def as_sources(sources: Source | Iterable[Source]) -> list[Source]:
    """One source or several, as a list."""
    return [sources] if isinstance(sources, (str, os.PathLike)) else list(sources)


def find(sources: Sequence[Source]) -> list[Item]:
    """What the sources stand for, in the order given; inside folders and globs in the order of their names.

    Raises:
        DataError: no source, or one that is missing, unreadable, or matches nothing.
    """
    if not sources:
        raise DataError("no source is given", WANTED, "name one, for example `stdlib`")
    return [item for source in sources for item in _find_one(os.fspath(source))]


def _find_one(source: str) -> list[Item]:
    if source == STDLIB:
        return list(stdlib_files())
    if source.startswith(HUB):
        return [HubDataset.parse(source)]
    try:
        return _on_disk(source)
    except OSError as error:
        raise DataError(
            f"{_shown(source)} cannot be read: {error.strerror or error}", WANTED, "check the name and permissions"
        ) from error


def _on_disk(source: str) -> list[Item]:
    path = Path(source).expanduser()
    if path.is_dir():
        return _in_folder(path)
    if path.exists():
        return [File(path, named=True)]
    if glob.has_magic(source):
        return _matching(source)
    known = [STDLIB, *(os.listdir(path.parent) if path.parent.is_dir() else [])]
    hint = suggest(path.name, known)
    raise DataError(f"there is no file or folder {_shown(source)}", WANTED, hint or "check the path")


def _in_folder(folder: Path) -> list[Item]:
    found: list[Item] = [File(path, named=False) for path in walk(folder)]
    if not found:
        raise DataError(
            f"the folder {folder} holds no files", "text files", "check the path (hidden files are left out)"
        )
    return found


def _matching(pattern: str) -> list[Item]:
    found: list[Item] = []
    for match in sorted(glob.glob(os.path.expanduser(pattern), recursive=True)):
        path = Path(match)
        found += [File(p, named=False) for p in (walk(path) if path.is_dir() else [path])]
    if not found:
        raise DataError(
            f"the glob {_shown(pattern)} matches nothing", "at least one file", "check the pattern; quote it"
        )
    return list(dict.fromkeys(found))


def stdlib_files() -> Iterator[File]:
    """The running Python's own standard library: its .py files, without its tests (which many distributions leave out,
    and which would be more than half of the text) and without installed packages."""
    root = Path(sysconfig.get_paths()["stdlib"])
    files = (path for path in walk(root) if path.suffix == ".py")
    return (File(path, named=False) for path in files if not TESTS & set(path.relative_to(root).parts))


def walk(folder: Path) -> Iterator[Path]:
    """Files below `folder` by name, without hidden ones, __pycache__ and installed packages. Links to folders are not
    followed. A folder below that cannot be listed is given as if it were a file, so that reading counts it as
    skipped."""
    unreadable: list[Path] = []

    def remember(error: OSError) -> None:
        if Path(error.filename) == folder:
            raise error
        unreadable.append(Path(error.filename))

    for here, folders, files in os.walk(folder, onerror=remember):
        folders[:] = sorted(f for f in folders if not f.startswith(".") and f not in LEFT_OUT)
        yield from (Path(here, name) for name in sorted(files) if not name.startswith("."))
    yield from unreadable


def _shown(source: str, limit: int = 120) -> str:
    """A source as an error prints it; whoever passes a whole text by mistake gets its beginning back."""
    return repr(source if len(source) <= limit else source[:limit] + "...")
