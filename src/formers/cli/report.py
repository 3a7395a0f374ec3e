"""`formers report`: one HTML page from one or more runs, and the same numbers in the terminal."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from formers.cli.console import emit, stdout
from formers.cli.parse import Flag, parse


@dataclass(frozen=True)
class Options:
    """Write one self-contained HTML page about one or more runs, and print its table."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN...")]
    """Run folders."""
    out: Path | None = None
    """The page to write; by default report.html in the run's folder, or for several runs in the present one."""
    json: Flag = False
    """Print the result as JSON on stdout."""


def main(arguments: list[str]) -> None:
    options = parse(Options, arguments, "report")
    from formers.comparison import table, write_report

    out = options.out or (options.runs[0] / "report.html" if len(options.runs) == 1 else Path("report.html"))
    content = table(options.runs)
    written = write_report(options.runs, out)
    if options.json:
        return emit({"report": str(written), "runs": json.loads(content.json())})
    stdout().print(content)
    stdout().print(
        f"\nwritten: {written} ({written.stat().st_size / 1e3:,.0f} kB; open it in any browser)", markup=False
    )
    return None
