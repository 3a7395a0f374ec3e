"""`formers experiment packages`: long documents that every machine has."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from formers.cli.console import emit, facts, stdout
from formers.cli.parse import Flag, parse


@dataclass(frozen=True)
class Options:
    """Write this machine's Python packages as JSON lines, a package a line: long documents for `formers data build`."""

    out: Path = Path("packages.jsonl")
    """The file to write."""
    least: int = 250_000
    """Bytes of a package that counts."""
    json: Flag = False
    """Print the result as JSON on stdout."""


def main(arguments: list[str]) -> int:
    options = parse(Options, arguments, "experiment packages")
    from formers.experiments.packages import write_packages

    count = write_packages(options.out, least=options.least)
    if options.json:
        emit({"file": options.out, "packages": count})
        return 0
    size = options.out.stat().st_size / 1e6
    stdout().print(facts([("written", f"{options.out}: {count:,} packages, {size:,.0f} MB")]))
    stdout().print(f"\nNext: formers data build {options.out} --validation 0.2 --out shards", markup=False)
    return 0
