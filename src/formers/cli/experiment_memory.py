"""`formers experiment memory`: what a memory is worth, beside more parameters, a longer window, and coming late."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from formers.cli.console import emit, speaker, stdout, table
from formers.cli.parse import Flag, parse
from formers.cli.results import by_place, change
from formers.files import write_json


@dataclass(frozen=True)
class Options:
    """Train a small model with a memory, without one, four times as large, with a longer window, and with a memory that
    comes late, all on the same text; read whole validation documents with each.

    Writes memory.json, memory.svg and a run folder for each. Hours on two cores. Ctrl-C is fine: the same command goes on
    where it stopped.
    """

    data: Path
    """A shard folder with long documents: formers experiment packages and formers data build make one."""
    steps: int = 4000
    """Of every contestant; 4,096 tokens a step."""
    size: int = 8192
    """Entries a head."""
    documents: int = 20
    """The shortest so many of the validation documents that are long enough."""
    longer_than: int = 16_384
    """Tokens that a document must have more of."""
    seed: int = 0
    """Of weights and rows."""
    out: Path = Path("runs/memory")
    """Where runs and results go; what stands there is gone on with."""
    json: Flag = False
    """Print the result as JSON on stdout."""


def main(arguments: list[str]) -> int:
    options = parse(Options, arguments, "experiment memory")
    from formers.comparison.plot import write_chart
    from formers.data import open_shards
    from formers.experiments import contest, worth
    from formers.experiments.memory_size import SweepSettings, choose
    from formers.hub import targets

    shards = open_shards(options.data)
    settings = worth.WorthSettings(steps=options.steps, size=options.size, seed=options.seed)
    documents = choose(shards, SweepSettings(documents=options.documents, longer_than=options.longer_than))
    all_of_them = worth.contestants(settings)
    if contest.train_all(all_of_them, shards, options.out, progress=False if options.json else None):
        return 130  # the training has said how to go on
    talk = speaker(options.json)
    with talk.status("reading ..."):
        rows = contest.read_all(
            all_of_them,
            shards,
            documents,
            options.out,
            readings=worth.readings(settings),
            say=lambda text: talk.print(text, markup=False),
        )
    folders = {each.name: options.out / each.name for each in all_of_them}
    costs = {
        name: {
            **contest.costs(targets.load(folder), settings.seq_len),
            "seconds_a_token": contest.seconds_a_token(folder),
        }
        for name, folder in folders.items()
    }
    result = worth.summarise(rows, costs, settings)
    write_json(options.out / "memory.json", result)
    lines = {name: row["by_position"] for name, row in result["contestants"].items()}
    write_chart(by_place(lines), options.out / "memory.svg")
    if options.json:
        emit({**result, "folder": options.out})
        return 0
    stdout().print(_table(result))
    for verdict in result["verdicts"]:
        interval = change(verdict.figures["interval"])
        stdout().print(f"{verdict.word}: {verdict.claim} {interval}".rstrip(), markup=False)
    stdout().print(f"written: {options.out}", markup=False)
    return 0


def _table(result: Mapping[str, Any]) -> Any:
    headings = (
        "",
        "Bits per byte",
        "Against plain (95 %)",
        "Short",
        "Right",
        "M parameters",
        "M operations",
        "MB",
        "us",
    )
    content = table(*headings, right=range(1, len(headings)))
    for name, row in result["contestants"].items():
        content.add_row(
            name,
            f"{row['bits_per_byte']:.4f}",
            change(row["against_plain"]),
            f"{row['short']:.4f}",
            f"{100 * row['accuracy']:.1f} %",
            f"{row['parameters'] / 1e6:.2f}",
            f"{row['operations'] / 1e6:.1f}",
            f"{row['state_bytes'] / 1e6:.1f}",
            f"{1e6 * row['seconds_a_token']:.0f}",
        )
    content.caption = (
        "Short: the same documents in short pieces. Operations and us (microseconds): of a training token. MB: of a text's "
        "cache and memory."
    )
    content.caption_justify = "left"
    return content
