"""`formers lookups`: where the tokens of a document looked, as a page to read and as data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from formers.cli.console import emit, facts, remark, speaker, stdout
from formers.cli.parse import Flag, changed_settings, parse
from formers.errors import ConfigError, DataError
from formers.hub import targets


@dataclass(frozen=True)
class Options:
    """Read a document with a model that has a memory, and write an HTML page: point at a word, see what it remembered.

    For every token, memory layer and head: the shares of attention that went near by and to the memory, the gate, and the
    passages that were found, with their text, place, score and weight.
    """

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """A run or a model folder, with a tokenizer and memory layers."""
    file: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """The document: a text file in UTF-8."""
    out: Path | None = None
    """The page to write; by default lookups.html in the present folder, and none with --json."""
    first: int = 0
    """The first token that the page shows; those before it are read all the same."""
    most: int = 4000
    """At most so many tokens are shown; those behind them are not read."""
    top: int = 4
    """Passages kept for each token and head: the best."""
    set: tuple[str, ...] = ()
    """NAME=VALUE: settings of the model other than the stored ones, such as memory_size=65536. Its weights must still fit."""
    code: str | None = None
    """file.py:function, for a run of a model of your own."""
    json: Flag = False
    """Print the result as JSON on stdout."""


def main(arguments: list[str]) -> None:
    options = parse(Options, arguments, "lookups")
    _check(options)
    targets.parse(options.run)
    text = text_of(options.file)
    from formers.comparison.lookups import write_lookups
    from formers.inspection.lookups import lookups, memory_layers

    found = targets.resolve(options.run, code=options.code, changes=changed_settings(options.set))
    remark(found.note)
    memory_layers(found.model)
    ids = _ids(found, text, options)
    with speaker(options.json).status("reading ..."):
        read = lookups(found.model, ids[: options.first + options.most], tokenizer=found.tokenizer, top=options.top)
    out = options.out or (None if options.json else Path("lookups.html"))
    if out is not None:
        title = options.file.name
        write_lookups(read, out, title=title, first=options.first, most=options.most, length=len(ids))
    if options.json:
        return emit({"page": out, **read.to_dict()})
    assert out is not None
    stdout().print(facts(_lines(read, len(ids))))
    stdout().print(f"\nwritten: {out} ({out.stat().st_size / 1e3:,.0f} kB; open it in any browser)", markup=False)
    return None


def _check(options: Options) -> None:
    for name, least in (("first", 0), ("most", 1), ("top", 1)):
        if getattr(options, name) < least:
            raise ConfigError(f"--{name} {getattr(options, name)}", f"{least} or more")


def text_of(file: Path) -> str:
    """A text file. Raises DataError where it cannot be read, is not UTF-8, or is empty."""
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}", "a text file") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not UTF-8: byte {error.start}", "a text file in UTF-8") from error
    if not text:
        raise DataError(f"{file} is empty", "a document of at least one token")
    return text


def _ids(found: Any, text: str, options: Options) -> list[int]:
    if found.tokenizer is None:
        raise DataError(f"{options.run} has no tokenizer", "a run, or a model folder with its tokenizer.json")
    ids = found.tokenizer.encode(text)
    if options.first >= len(ids):
        raise ConfigError(f"--first {options.first} of a document of {len(ids):,} tokens", f"0 to {len(ids) - 1}")
    return ids


def _lines(read: Any, length: int) -> list[tuple[str, str]]:
    """What the terminal is told: averages over the tokens that were read."""
    lines = [("read", f"{len(read):,} of {length:,} tokens, in segments of {read.segment_length:,}")]
    for layer in read.layers:
        share = layer.shares[..., 2].mean()
        lines.append((f"layer {layer.layer}", f"{100 * share:.1f} % of the attention went to the memory"))
    if len(read) > 1:
        loss, without = read.loss[1:].mean(), read.loss_without[1:].mean()
        lines += [("loss", f"{loss:.4f} nats a token"), ("  without memory", f"{without:.4f}")]
    return lines
