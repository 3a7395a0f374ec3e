"""`formers data build`: text to token shards."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from formers.cli.console import emit, facts, stdout
from formers.cli.parse import Flag, parse
from formers.files import plain


@dataclass(frozen=True)
class Options:
    """Read text, train a tokenizer on it, and write token shards that `formers train --data` takes."""

    sources: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE...")] = ("stdlib",)
    """stdlib (the source of Python's own library), files, folders, globs, .jsonl, .parquet, hf:NAME."""
    out: Path = Path("shards")
    """The shard folder to write."""
    tokenizer: str = "bpe"
    """bpe, wordpiece, unigram or word (trained on the text), byte, char, gpt2, a folder with a tokenizer.json, or that of a run
    or of a model that comes with formers (gpt2-stdlib)."""
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
    pairs: Flag = False
    """The sources are JSON-lines files of {"source": .., "target": ..}, for a model that writes the one from the other."""
    json: Flag = False
    """Print the result as JSON on stdout."""


def main(arguments: list[str]) -> None:
    options = parse(Options, arguments, "data build")
    from formers.data import build, build_pairs

    settings = {name: getattr(options, name) for name in ("tokenizer", "vocab_size", "validation", "seed")}
    settings["tokenizer"] = _tokenizer(options.tokenizer)
    if options.pairs:
        summary = build_pairs(options.sources, options.out, **settings)
    else:
        of_texts = {"separator": options.separator, "text_field": options.text_field, "quiet": options.json}
        summary = build(options.sources, options.out, **settings, **of_texts)
    if options.json:
        return emit({**plain(summary), "bytes_per_token": summary.bytes_per_token})
    stdout().print(facts(summary.lines()))
    recipe = "t5.tiny --train.objective source_to_target" if options.pairs else "gpt2.tiny"
    stdout().print(f"\ntrain on it: formers train {recipe} --data {options.out}", style="dim", markup=False)
    return None


def _tokenizer(choice: str) -> str:
    """The name of a run or a packaged model as the folder of its tokenizer; any other choice as it is."""
    from formers.data.vocabulary import NAMES
    from formers.errors import FormersError
    from formers.hub import targets

    if choice in NAMES:
        return choice
    try:
        return str(targets.tokenizer_folder(choice) or choice)
    except FormersError:  # no model: a file, or nothing, of which the builder knows what to say
        return choice
