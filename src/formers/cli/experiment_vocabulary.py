"""`formers experiment vocabulary`: one corpus under tokenizers of several kinds and sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from formers.cli.console import emit, facts, speaker, stdout, table
from formers.cli.parse import Flag, parse, settings_of
from formers.files import write_json


@dataclass(frozen=True)
class Options:
    """Train tokenizers of several kinds and sizes on one corpus, and measure on documents held out how few tokens they take.

    Writes vocabulary.json, vocabulary.svg and a folder with each tokenizer. Ctrl-C is fine: the same command goes on where it
    stopped.
    """

    data: tuple[str, ...] = ("stdlib",)
    """stdlib, files, folders, globs, .jsonl, .parquet, hf:NAME. A file, or a line of .jsonl, is a document."""
    kinds: tuple[str, ...] = ("bpe", "wordpiece", "unigram", "word")
    """Kinds of tokenizers. Unigram takes minutes a size where there is much text: see --train-on."""
    sizes: tuple[int, ...] = (512, 1024, 2048, 4096)
    """Tokens of each, rising."""
    validation: float = 0.1
    """Share of the documents that is held out, and measured with."""
    train_on: float = 64.0
    """Train on about so many megabytes of the other documents, where there are more."""
    text_field: str = "text"
    """The field of JSON lines, the column of Parquet files and data sets."""
    seed: int = 0
    """Decides which documents are held out, and which are trained on where there are too many."""
    out: Path = Path("runs/vocabulary")
    """Where the tokenizers and the result go."""
    json: Flag = False
    """Print the result as JSON on stdout."""


def main(arguments: list[str]) -> int:
    options = parse(Options, arguments, "experiment vocabulary")
    from formers.comparison.plot import write_chart
    from formers.experiments import vocabulary

    settings = settings_of(vocabulary.VocabularySettings, options)
    corpus = vocabulary.corpus_of(options.data, settings, text_field=options.text_field)
    with speaker(options.json).status("reading ...") as status:
        result = vocabulary.run(corpus, options.out, settings, say=status.update)
    result = {"data": options.data, **result}
    write_json(options.out / "vocabulary.json", result)
    write_chart(chart(result), options.out / "vocabulary.svg")
    if options.json:
        emit({**result, "folder": options.out})
        return 0
    stdout().print(_table(result))
    stdout().print("\n", facts([*_notes(result), ("written", str(options.out))]), sep="")
    stdout().print(f"use one: formers data build .. --tokenizer {options.out}/KIND-SIZE", style="dim", markup=False)
    return 0


def _table(result: Mapping[str, Any]) -> Any:
    headings = ("Tokenizer", "Tokens", "Bytes a token", "Tokens per 1,000 bytes", "Whole words", "Unknown")
    content = table(*headings, right=range(1, len(headings)))
    for row in result["rows"]:
        if "refused" in row:
            content.add_row(row["kind"], f"{row['size']:,}", "not possible")
            continue
        shares = (f"{100 * row[name]:.1f} %" for name in ("whole_words", "unknown"))
        figures = f"{row['bytes_per_token']:.2f}", f"{row['tokens_per_1000_bytes']:.0f}"
        content.add_row(row["kind"], f"{row['size']:,}", *figures, *shares)
    return content


def _notes(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    sides = (("trained on", "train"), ("measured on", "held_out"))
    shown = [(label, result["corpus"][name]) for label, name in sides]
    return [
        *((label, f"{found['documents']:,} documents, {found['bytes']:,} bytes") for label, found in shown),
        ("whole words", "share of the words that are one token after a space"),
        ("unknown", "share of the tokens"),
        *((f"{row['kind']} {row['size']:,}", row["refused"]) for row in result["rows"] if "refused" in row),
    ]


def chart(result: Mapping[str, Any]) -> Any:
    """Bytes a token against the size of the vocabulary, a line for each kind."""
    from formers.comparison.plot import Chart, Line

    rows = [row for row in result["rows"] if "refused" not in row]
    lines = []
    for kind in dict.fromkeys(row["kind"] for row in rows):
        own = [row for row in rows if row["kind"] == kind]
        lines.append(Line(kind, [row["size"] for row in own], [row["bytes_per_token"] for row in own]))
    ticks = [(float(size), f"{size:,}") for size in sorted({row["size"] for row in rows})]
    return Chart("Bytes of held-out text a token", "tokens of the vocabulary", "bytes a token", lines, ticks)
