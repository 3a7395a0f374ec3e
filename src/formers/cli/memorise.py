"""`formers memorise`: texts that are read once and looked up by every prompt."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from formers.cli.console import emit, facts, remark, speaker, stdout
from formers.cli.lookups import text_of
from formers.cli.parse import Flag, changed_settings, parse
from formers.errors import DataError
from formers.hub import targets


@dataclass(frozen=True)
class Options:
    """Read texts with a model that has a memory, and keep what it remembers as a folder: `formers generate RUN --memory DIR`
    then finds it. The folder is of these weights alone."""

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """A run or a model folder, with a tokenizer and memory layers."""
    files: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="FILE...")]
    """Text files in UTF-8, read one after another as one text."""
    out: Path
    """The folder to write."""
    replace: Flag = False
    """A memory that stands there goes."""
    set: tuple[str, ...] = ()
    """NAME=VALUE: settings of the model other than the stored ones, such as memory_size=65536. Its weights must still fit."""
    code: str | None = None
    """file.py:function, for a run of a model of your own."""
    json: Flag = False
    """Print the result as JSON on stdout."""


def main(arguments: list[str]) -> None:
    options = parse(Options, arguments, "memorise")
    targets.parse(options.run)
    texts = [text_of(file) for file in options.files]
    if not texts:
        raise DataError("no FILE was named", "one text or more")
    from formers.generation.memorised import memorise
    from formers.inspection.lookups import memory_layers

    found = targets.resolve(options.run, code=options.code, changes=changed_settings(options.set))
    remark(found.note)
    memory_layers(found.model)
    if found.tokenizer is None:
        raise DataError(f"{options.run} has no tokenizer", "a run, or a model folder with its tokenizer.json")
    ids = _joined(found.tokenizer, texts)
    with speaker(options.json).status("reading ..."):
        memories = memorise(found.model, ids, options.out, replace=options.replace)
    result = {
        "folder": options.out,
        "tokens": len(ids),
        "entries": {name: int(memory.held[0]) for name, memory in memories.items()},
        "written": {name: int(memory.written[0]) for name, memory in memories.items()},
        "bytes": sum(memory.nbytes for memory in memories.values()),
    }
    if options.json:
        return emit(result)
    stdout().print(facts(_lines(result)))
    stdout().print(f"\nwritten: {options.out}", markup=False, soft_wrap=True)
    stdout().print(f"  formers generate {options.run} PROMPT --memory {options.out}", markup=False, soft_wrap=True)
    return None


def _joined(tokenizer: Any, texts: list[str]) -> list[int]:
    """One text of all, with end_of_text between two."""
    between = [] if tokenizer.end_of_text is None else [tokenizer.end_of_text]
    ids: list[int] = []
    for text in texts:
        ids += (between if ids else []) + tokenizer.encode(text)
    return ids


def _lines(result: dict[str, Any]) -> list[tuple[str, str]]:
    kept = ", ".join(f"{many:,} entries a head in {name}" for name, many in result["entries"].items())
    return [
        ("read", f"{result['tokens']:,} tokens"),
        ("kept", f"{kept}; {result['bytes'] / 1e6:,.1f} MB"),
        *[("", f"the oldest {written - result['entries'][name]:,} gave way in {name}: --set memory_size={written} keeps all")
          for name, written in result["written"].items() if result["entries"][name] < written],
    ]  # fmt: skip
