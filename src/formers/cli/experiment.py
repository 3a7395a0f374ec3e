"""`formers experiment NAME`: a claim of a paper, tried: data, a plot, and a verdict."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from formers.cli.console import emit, facts, plain, speaker, stdout, table
from formers.cli.parse import Flag, parse
from formers.errors import ConfigError, suggest

if TYPE_CHECKING:
    from formers.experiments.claims import Verdict

NAMES = {
    "recall": "key-value pairs asked for far beyond the window, with a memory and without (20 minutes)",
    "memory-size": "one model's loss on whole documents, against the size of its memory",
    "packages": "write long documents to train on: this machine's Python packages, a package a line",
}


def main(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        lines = "\n".join(f"  {name:<12} {what}" for name, what in NAMES.items())
        print(f"usage: formers experiment NAME [options]\n\n{lines}\n\nEach has --help, which says more, and --json.")
        return 0
    name, rest = arguments[0], arguments[1:]
    if name not in NAMES:
        raise ConfigError(f"experiment {name!r}", f"one of {', '.join(NAMES)}", suggest(name, NAMES))
    return {"recall": _recall, "memory-size": _memory_size, "packages": _packages}[name](rest)


# --- recall -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RecallOptions:
    """Train two small models on key-value pairs, one with a memory, and ask them far beyond what their window sees.

    Writes recall.json and recall.svg. Ctrl-C is fine: the same command goes on where it stopped.
    """

    out: Path = Path("runs/recall")
    """Where the runs and the results go; what stands there is gone on with."""
    documents: int = 40
    """Documents of 2,048 tokens that are asked in the end."""
    seed: int = 0
    """Of weights and documents."""
    json: Flag = False
    """Print the result as JSON on stdout."""


def _recall(arguments: list[str]) -> int:
    options = parse(RecallOptions, arguments, "experiment recall")
    from formers.experiments import recall

    settings = recall.RecallSettings(documents=options.documents, seed=options.seed)
    result = recall.run(options.out, settings, progress=False if options.json else None)
    if result is None:
        return 130  # the training has said how to go on
    says = recall.verdict(result)
    _write(options.out / "recall.json", {**result, "verdict": says})
    _chart(options.out / "recall.svg", _recall_chart(result))
    if options.json:
        emit({**result, "verdict": says, "folder": options.out})
        return 0
    content = table("Distance in tokens", "Windows", *result["accuracy"], "Questions", right=(1, 2, 3, 4))
    for rows in zip(*result["accuracy"].values(), strict=True):
        shares = [f"{100 * row['accuracy']:.1f} %" for row in rows]
        row, window = rows[0], result["window"]
        content.add_row(
            f"{row['from'] + 1:,} to {row['to']:,}", f"{row['to'] // window}", *shares, f"{row['questions']:,}"
        )
    stdout().print(content)
    _say(says, options.out)
    return 0


def _recall_chart(result: Mapping[str, Any]) -> Any:
    from formers.comparison.plot import Chart, Line

    rows = next(iter(result["accuracy"].values()))
    return Chart(
        "Key-value recall",
        f"windows of {result['window']} tokens between definition and question, at most",
        "right answers, %",
        [
            Line(name, [row["to"] for row in mine], [100 * row["accuracy"] for row in mine])
            for name, mine in result["accuracy"].items()
        ],
        [(row["to"], str(row["to"] // result["window"])) for row in rows],
    )


# --- memory size --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SizeOptions:
    """Read whole validation documents with one model and memories of several sizes; the weights stay the same.

    Writes memory-size.json, memory-size.svg and memory-position.svg. Ctrl-C is fine: the same command goes on where it
    stopped.
    """

    run: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """A run or model folder whose model has a memory."""
    data: Path | None = None
    """Another shard folder than the run's own; it needs the same tokenizer."""
    sizes: tuple[int, ...] = (0, 1024, 8192, 65_536, 262_144)
    """Entries a head, rising."""
    documents: int = 20
    """The shortest so many of the documents that are long enough."""
    longer_than: int = 65_536
    """Tokens that a document must have more of."""
    out: Path = Path("runs/memory-size")
    """Where the results go; what was measured there is not measured again."""
    json: Flag = False
    """Print the result as JSON on stdout."""


def _memory_size(arguments: list[str]) -> int:
    options = parse(SizeOptions, arguments, "experiment memory-size")
    from formers.experiments import memory_size
    from formers.experiments.evaluation import shards_for
    from formers.hub import targets

    settings = memory_size.SweepSettings(options.sizes, options.documents, options.longer_than)
    shards = shards_for(targets.resolve(options.run), options.data)
    talk = speaker(options.json)
    with talk.status("reading ..."):
        rows = memory_size.sweep(
            options.run, shards, options.out, settings, say=lambda text: talk.print(text, markup=False)
        )
    result = memory_size.summarise(rows, settings.sizes)
    says = memory_size.verdict(rows, settings.sizes)
    _write(options.out / "memory-size.json", {"target": options.run, **result, "verdict": says})
    for name, chart in _size_charts(result, settings.sizes).items():
        _chart(options.out / name, chart)
    if options.json:
        emit({"target": options.run, **result, "verdict": says, "folder": options.out})
        return 0
    content = table(
        "Memory", "Bits per byte", "Change from the size before (95 %)", "Documents longer", right=(0, 1, 2, 3)
    )
    steps = set(itertools.pairwise(settings.sizes))
    changes = {s["to"]: s["interval"] for s in result["steps"] if (s["from"], s["to"]) in steps}
    for size, mean in result["means"].items():
        content.add_row(f"{size:,}", f"{mean['bits_per_byte']:.4f}", *_change(changes.get(size)))
    stdout().print(content)
    _say(says, options.out)
    return 0


def _change(interval: Any) -> tuple[str, str]:
    if interval is None:
        return "", ""
    return f"{interval.mean:+.4f} ({interval.low:+.4f} to {interval.high:+.4f})", str(interval.count)


def _size_charts(result: Mapping[str, Any], sizes: tuple[int, ...]) -> dict[str, Any]:
    from formers.comparison.plot import Chart, Line

    ticks = [(float(size), f"{size // 1024}k" if size >= 1024 else str(size)) for size in sizes]
    means = [result["means"][size]["bits_per_byte"] for size in sizes]
    against_size = Chart(
        "Loss against the size of the memory",
        "entries a head",
        "bits per byte",
        [Line("all documents", sizes, means)],
        ticks,
    )
    places = sorted({row["start"] for rows in result["by_position"].values() for row in rows if row["start"] >= 256})
    lines = []
    for size in sizes:
        there = [row for row in result["by_position"][size] if row["start"] >= 256]
        lines.append(Line(f"memory of {size:,}", [row["start"] for row in there], [row["loss"] for row in there]))
    by_place = [(float(place), f"{place // 1024}k" if place >= 1024 else str(place)) for place in places]
    by_position = Chart("Loss by place in the document", "tokens from its start", "nats a token", lines, by_place)
    return {"memory-size.svg": against_size, "memory-position.svg": by_position}


# --- packages -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PackageOptions:
    """Write this machine's Python packages as JSON lines, a package a line: long documents for `formers data build`."""

    out: Path = Path("packages.jsonl")
    """The file to write."""
    least: int = 250_000
    """Bytes of a package that counts."""
    json: Flag = False
    """Print the result as JSON on stdout."""


def _packages(arguments: list[str]) -> int:
    options = parse(PackageOptions, arguments, "experiment packages")
    from formers.experiments.packages import write_packages

    count = write_packages(options.out, least=options.least)
    if options.json:
        emit({"file": options.out, "packages": count})
        return 0
    size = options.out.stat().st_size / 1e6
    stdout().print(facts([("written", f"{options.out}: {count:,} packages, {size:,.0f} MB")]))
    stdout().print(f"\nNext: formers data build {options.out} --validation 0.2 --out shards", markup=False)
    return 0


# --- what all share -----------------------------------------------------------------------------------------------------


def _write(path: Path, value: Any) -> None:
    import json

    from formers.files import write_atomic

    write_atomic(path, (json.dumps(plain(value), indent=1) + "\n").encode())


def _chart(path: Path, chart: Any) -> None:
    from formers.comparison.plot import write_chart

    write_chart(chart, path)


def _say(says: Verdict, out: Path) -> None:
    stdout().print(f"\n{says.word}: {says.claim}", markup=False)
    stdout().print(f"written: {out}", markup=False)
