"""`formers data build`: text to token shards."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from formers.cli.console import emit, facts, plain, stdout
from formers.cli.parse import Flag, parse


@dataclass(frozen=True)
class Options:
    """Read text, train a tokenizer on it, and write token shards that `formers train --data` takes."""

    sources: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE...")] = ("stdlib",)
    """stdlib (the source of Python's own library), files, folders, globs, .jsonl, .parquet, hf:NAME."""
    out: Path = Path("shards")
    """The shard folder to write."""
    tokenizer: str = "bpe"
    """bpe, wordpiece or unigram (trained on the text), byte, char, gpt2, or a folder with a tokenizer.json."""
    vocab_size: int | None = None
    """Tokens of a trained vocabulary, 4096 where it is none; the other tokenizers have their own."""
    validation: float = 0.1
    """Share of the documents that is held out for validation."""
    seed: int = 0
    """Decides which documents are held out."""
    separator: str | None = None
    """What divides a text file into documents; none: a file is a document."""
    text_field: str = "text"
    """The field of JSON lines, the column of Parquet files and data sets."""
    json: Flag = False
    """Print the result as JSON on stdout."""


def main(arguments: list[str]) -> None:
    options = parse(Options, arguments, "data build")
    from formers.data import build

    summary = build(
        options.sources,
        options.out,
        tokenizer=options.tokenizer,
        vocab_size=options.vocab_size,
        validation=options.validation,
        seed=options.seed,
        separator=options.separator,
        text_field=options.text_field,
        quiet=options.json,
    )
    if options.json:
        return emit({**plain(summary), "bytes_per_token": summary.bytes_per_token})
    stdout().print(facts(summary.lines()))
    stdout().print(f"\ntrain on it: formers train gpt2.tiny --data {options.out}", style="dim", markup=False)
    return None
