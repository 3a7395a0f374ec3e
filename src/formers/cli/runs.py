"""`formers runs`: the run folders below a folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from formers.cli.console import emit, stdout
from formers.cli.parse import Flag, parse
from formers.files import plain


@dataclass(frozen=True)
class Options:
    """The runs in a folder, the newest first: recipe, steps, loss, bits per byte, status."""

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")] = Path("runs")
    """Where the runs are."""
    json: Flag = False
    """Print the result as JSON on stdout."""


def main(arguments: list[str]) -> None:
    options = parse(Options, arguments, "runs")
    from formers.comparison import find_runs, listing

    nothing_yet = options.folder == Options.folder and not options.folder.exists()
    found = [] if nothing_yet else find_runs(options.folder)
    if options.json:
        return emit([plain(run) for run in found])
    if not found:
        stdout().print(f"no runs in {options.folder}/ yet. Train one: formers train gpt2.tiny", markup=False)
        return None
    stdout().print(listing(found))
    return None
