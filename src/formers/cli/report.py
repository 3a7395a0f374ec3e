"""`formers report`: one HTML page from one or more runs, and the same numbers in the terminal."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from formers import pretrained
from formers.cli.console import emit, stdout
from formers.cli.parse import Flag, parse


@dataclass(frozen=True)
class Options:
    """Write one self-contained HTML page about one or more runs, and print its table. The folder of a comparison stands for
    all its runs, and for its verdict."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN...")]
    """Run folders, folders of comparisons, or models that come with formers, by their names."""
    out: Path | None = None
    """The page to write; by default report.html in the run's folder, or for several runs, and for models that come with
    formers, in the present one."""
    csv: Path | None = None
    """Write the table of runs as CSV too."""
    json: Flag = False
    """Print the result as JSON on stdout."""


def main(arguments: list[str]) -> None:
    options = parse(Options, arguments, "report")
    from formers.comparison import table, write_report
    from formers.comparison.contests import contest_table
    from formers.comparison.report import with_contests
    from formers.files import write_atomic

    given = [_folder(run) for run in options.runs]
    own = len(given) == 1 and not pretrained.ships(given[0])
    out = options.out or (given[0] / "report.html" if own else Path("report.html"))
    runs, contests = with_contests(given)
    content = table(runs)
    written = write_report(given, out)
    if options.csv is not None:
        write_atomic(options.csv, content.csv().encode())
    if options.json:
        compared = {"comparisons": [result for result, _ in contests]} if contests else {}
        return emit({"report": str(written), "runs": json.loads(content.json()), **compared})
    for result, _ in contests:
        stdout().print(contest_table(result))
        stdout().print(f"\n{result['verdict']}\n", markup=False)
    stdout().print(content)
    stdout().print(
        f"\nwritten: {written} ({written.stat().st_size / 1e3:,.0f} kB; open it in any browser)", markup=False
    )
    return None


def _folder(run: Path) -> Path:
    """A folder, or where a model stands that comes with formers."""
    return run if run.is_dir() else pretrained.find(str(run)) or run
