"""Tables in the docs are what the files in docs/results and benchmarks/results say."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"

LENGTHS = (1024, 4096, 16_384, 32_768)


def markdown(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A table whose first column is text and whose others are figures."""
    lines = [columns, ("---", *("---:" for _ in columns[1:])), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def crossover(result: Mapping[str, Any]) -> str:
    """Forward and backward of one layer: milliseconds by length, memory, slope, and where it begins to pay."""
    columns = ("", *(f"{n:,}" for n in LENGTHS), "MB at 32,768", "slope of time", "faster than full from")
    rows = []
    for name, judged in result["mechanisms"].items():
        points = {point["length"]: point["training"] for point in result["points"] if point["mechanism"] == name}
        found = judged["training"]
        start = found["seconds_beats_full_from"]
        begins = "" if name == "full" else "not within" if start is None else f"{start:,} tokens"
        times = (f"{1000 * points[n]['seconds']:,.0f} ms" for n in LENGTHS)
        peak = f"{points[LENGTHS[-1]]['peak_bytes'] / 1e6:,.0f}"
        rows.append((name, *times, peak, f"{found['seconds_slope']:.2f}", begins))
    return markdown(columns, rows)


def duplication(result: Mapping[str, Any]) -> str:
    """Share of right tokens: a row for what was trained with, a column for what was asked with."""
    ways = list(next(iter(result["accuracy"].values())))
    named = {way: way if way == "full" else f"{way} round" + "s" * (way != "1") for way in ways}
    rows = [
        (named[trained], *(f"{100 * row[way]:.1f}%" for way in ways)) for trained, row in result["accuracy"].items()
    ]
    return markdown(("trained with", *(f"asked with {named[way]}" for way in ways)), rows)


def tournament(result: Mapping[str, Any]) -> str:
    """Who predicts best, by how much, and what it took."""
    columns = ("", "bits per byte", "behind the first", "likeliest right", "parameters", "tokens/s", "read in")
    rows = []
    for name in result["ranking"]:
        found, behind = result["entrants"][name], result["entrants"][name]["behind_best"]
        after = "" if behind is None else f"{behind['mean']:+.3f} ({behind['low']:+.3f} to {behind['high']:+.3f})"
        told = "" if behind is None or found["told_from_best"] else ", cannot tell"
        figures = f"{100 * found['top1']:.1f}%", f"{found['parameters']:,}", f"{found['tokens_per_second']:,.0f}"
        rows.append((name, f"{found['bits_per_byte']:.3f}", after + told, *figures, found["reading"]))
    rows.append(("gzip -9", f"{result['documents']['gzip_bits_per_byte']:.3f}", *[""] * 5))
    return markdown(columns, rows)


def induction(result: Mapping[str, Any]) -> str:
    """Share of what followed the first time that is said the second time, for each model and seed."""
    scores = result["scores"]
    seeds = range(len(next(iter(scores.values()))))
    rows = [
        (name, f"{result['parameters'][name]:,}", *(f"{100 * score['accuracy']:.1f}%" for score in found))
        for name, found in scores.items()
    ]
    return markdown(("", "parameters", *(f"seed {seed}" for seed in seeds)), rows)


def memory(result: Mapping[str, Any]) -> str:
    """What a memory does beside more parameters, a longer window and coming late."""
    columns = (
        "",
        "bits per byte",
        "against plain",
        "in pieces of 512",
        "parameters",
        "operations a token",
        "MB a text",
    )
    rows = []
    for name, found in result["contestants"].items():
        change = found["against_plain"]
        told = "" if change is None else f"{change['mean']:+.4f} ({change['low']:+.4f} to {change['high']:+.4f})"
        costs = f"{found['parameters']:,}", f"{found['operations'] / 1e6:.1f} M", f"{found['state_bytes'] / 1e6:.1f}"
        rows.append((name, f"{found['bits_per_byte']:.3f}", told, f"{found['short']:.3f}", *costs))
    return markdown(columns, rows)


def memory_size(result: Mapping[str, Any]) -> str:
    """Bits per byte of whole documents by the size of the memory they are read with, and what each step in size changed."""
    rows = []
    for size, found in result["means"].items():
        change = next((step["interval"] for step in result["steps"] if str(step["to"]) == size), None)
        told = "" if change is None else f"{change['mean']:+.4f} ({change['low']:+.4f} to {change['high']:+.4f})"
        rows.append((f"{int(size):,}", f"{found['bits_per_byte']:.3f}", told, f"{100 * found['accuracy']:.1f}%"))
    return markdown(("entries a head", "bits per byte", "change from the size before", "likeliest right"), rows)


def sentence_order(result: Mapping[str, Any]) -> str:
    """Share of pairs that are labelled rightly: a row for what was trained for, a column for what is asked."""
    names = list(result["accuracy"])
    rows = []
    for trained, asked in result["accuracy"].items():
        found = (asked[name]["interval"] for name in names)
        shares = (f"{100 * f['mean']:.1f}% ({100 * f['low']:.1f} to {100 * f['high']:.1f})" for f in found)
        rows.append((trained.replace("_", " "), *shares))
    return markdown(("trained for", *(f"asked for {name.replace('_', ' ')}" for name in names)), rows)


def masked(result: Mapping[str, Any]) -> str:
    """What stands in gaps: the three likeliest tokens."""
    rows = []
    for fill in result["fills"]:
        choices = (f"`{choice['token']}` {choice['score']:.2f}" for choice in fill["choices"][:3])
        rows.append((f"`{fill['text']}`", ", ".join(choices)))
    return markdown(("text", "likeliest"), rows)


def search(result: Mapping[str, Any]) -> str:
    """Look-ups through lists beside exact ones, by the number of entries."""
    columns = ("entries a head", "recall", "exact", "approximate", "lists looked into", "index built in")
    rows = [
        (
            f"{row['entries']:,}",
            f"{row['recall']:.3f}",
            f"{row['exact_ms']:,.0f} ms",
            f"{row['approximate_ms']:,.0f} ms",
            f"{row['probes']} of {row['lists']:,}",
            f"{row['built_seconds']:.0f} s",
        )
        for row in result["rows"]
    ]
    return markdown(columns, rows)


def vocabulary(result: Mapping[str, Any]) -> str:
    """What each kind and size of tokenizer makes of held-out text."""
    columns = ("", "tokens", "bytes a token", "tokens per 1,000 bytes", "words that are one token", "unknown tokens")
    rows = []
    for row in result["rows"]:
        figures = f"{row['bytes_per_token']:.2f}", f"{row['tokens_per_1000_bytes']:.0f}"
        shares = f"{100 * row['whole_words']:.1f}%", f"{100 * row['unknown']:.1f}%"
        rows.append((row["kind"], f"{row['size']:,}", *figures, *shares))
    return markdown(columns, rows)


TABLES: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "docs/results/crossover.json": crossover,
    "docs/results/duplication.json": duplication,
    "docs/results/induction.json": induction,
    "docs/results/masked.json": masked,
    "docs/results/memory.json": memory,
    "docs/results/memory-size-grafted.json": memory_size,
    "docs/results/memory-size-gpt2-stdlib.json": memory_size,
    "docs/results/memory-size.json": memory_size,
    "docs/results/search.json": search,
    "docs/results/sentence-order.json": sentence_order,
    "docs/results/tournament.json": tournament,
    "docs/results/siblings.json": tournament,
    "docs/results/vocabulary.json": vocabulary,
}
"""What the table of a file shows. In a page it stands behind a comment that names the file."""

MARKED = re.compile(r"(<!-- table of (\S+) -->\n\n)((?:\|.*\n)*)")


def with_tables(page: str) -> str:
    """The page with every table made anew from its file."""

    def made(found: re.Match[str]) -> str:
        table = TABLES[found[2]](json.loads((ROOT / found[2]).read_text()))
        return f"{found[1]}{table}\n" + ("" if found[3] else "\n")

    return MARKED.sub(made, page)


PAGES = [page for page in sorted(DOCS.rglob("*.md")) if MARKED.search(page.read_text())]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tables_are_what_their_files_say(page: Path) -> None:
    assert page.read_text() == with_tables(page.read_text()), "run: python -m tests.docs.test_results"


def test_every_table_stands_somewhere() -> None:
    shown = {found[2] for page in PAGES for found in MARKED.finditer(page.read_text())}
    assert shown == set(TABLES)


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(with_tables(page.read_text()))
