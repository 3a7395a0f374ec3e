"""A file is data too: shards of any sources, built once and kept under a key of their contents and settings."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from formers.data.builder import Settings, build_with
from formers.data.shards import TOKENIZER, VERSION, open_shards
from formers.data.sources import File, Source, as_sources, find
from formers.errors import DataError

if TYPE_CHECKING:
    from formers.data.vocabulary import TokenizerChoice


def cache_root() -> Path:
    """$FORMERS_CACHE, else $XDG_CACHE_HOME/formers, else ~/.cache/formers."""
    if own := os.environ.get("FORMERS_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "formers"


def cached_shards(
    files: Source | Iterable[Source],
    *,
    tokenizer: TokenizerChoice = "bpe",
    vocab_size: int | None = None,
    seed: int = 0,
    validation: float = 0.1,
    separator: str | None = None,
    text_field: str = "text",
    cut: bool | None = None,
    cache: Path | str | None = None,
    quiet: bool = False,
) -> Path:
    """The shard folder of these sources, built if it is not in the cache; arguments as :func:`formers.data.build`.

    The key is made of the contents of the files and of the settings, so a changed file is built anew and a moved one is
    not. A data set (hf:NAME) counts by its name. A damaged folder in the cache is built again.

    Raises:
        DataError: as `build`.
    """
    settings = Settings(tokenizer, vocab_size, seed, validation, separator, text_field, cut)
    sources = as_sources(files)
    contents = [_content(item.path) if isinstance(item, File) else dataclasses.astuple(item) for item in find(sources)]
    facts = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
    folder = _folder(cache, os.fspath(sources[0]), contents, facts)
    if not is_whole(folder):
        build_with(sources, folder, settings, quiet=quiet, replace=True)
    return folder


def is_whole(folder: Path) -> bool:
    """Whether shards stand there, undamaged."""
    try:
        open_shards(folder)
    except DataError:
        return False
    return True


def cache_folder(
    kind: str, files: Sequence[Path | str], settings: Mapping[str, Any], cache: Path | str | None = None
) -> Path:
    """Where the shards that `kind` of building makes of these files with these settings are cached."""
    return _folder(cache, os.fspath(files[0]), [_content(Path(file)) for file in files], {"kind": kind, **settings})


def _folder(cache: Path | str | None, name: str, contents: Sequence[Any], facts: Mapping[str, Any]) -> Path:
    root = Path(cache) if cache is not None else cache_root()
    facts = {**facts, "tokenizer": _tokenizer_key(facts["tokenizer"])}
    key = json.dumps({"version": VERSION, "contents": contents, **facts}, sort_keys=True)
    label = re.sub(r"[^A-Za-z0-9_-]+", "_", Path(name).stem)[:40]
    return root / "shards" / f"{label}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"


def _content(path: Path) -> str:
    """What a file holds, with its ending (which says how it is read); a file that cannot be read has no content."""
    try:
        with path.open("rb") as file:
            return path.suffix + hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return "unreadable"


def _tokenizer_key(choice: TokenizerChoice) -> str:
    if not isinstance(choice, str | os.PathLike):
        return choice.fingerprint
    path = Path(choice).expanduser()
    if path.is_dir():
        path = path / TOKENIZER
    return _content(path) if path.is_file() else os.fspath(choice)
