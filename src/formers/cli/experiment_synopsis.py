"""`formers experiment synopsis`: a line that says what a description is about."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from formers.cli.labelled import RewritingOptions, finish
from formers.cli.parse import parse, positional, settings_of


@dataclass(frozen=True, kw_only=True)
class Options(RewritingOptions):
    """Train an encoder-decoder to write a synopsis from a description: ROUGE-L, against the description's first sentence.

    Writes synopsis.json and synopsis.svg. Ctrl-C is fine: the same command goes on where it stopped.
    """

    data: Annotated[Path, *positional("DATA")]
    """JSON lines (.gz too) of {"doc": .., "summary": .., "split": "train" or "test"}."""
    seq_len: int = 128
    """Tokens of a source; longer ones are cut."""
    target_len: int = 24
    """Tokens of a target; longer ones are cut."""
    out: Path = Path("runs/synopsis")
    """Where the run and the results go; what stands there is gone on with."""


def main(arguments: list[str]) -> int:
    options = parse(Options, arguments, "experiment synopsis")
    from formers.experiments import rewriting

    settings = settings_of(rewriting.RewritingSettings, options)
    progress = False if options.json else None
    result = rewriting.run(rewriting.synopsis(), options.data, options.out, settings, progress=progress)
    return finish(result, options.out, as_json=options.json)
