"""`formers experiment translation`: texts of one language in another."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from formers.cli.labelled import RewritingOptions, finish
from formers.cli.parse import parse, positional, settings_of


@dataclass(frozen=True, kw_only=True)
class Options(RewritingOptions):
    """Train an encoder-decoder to translate: chrF and BLEU, against copying the source.

    Writes translation.json and translation.svg. Ctrl-C is fine: the same command goes on where it stopped.
    """

    data: Annotated[Path, *positional("DATA")]
    """JSON lines (.gz too) of {"en": .., "de": .., "split": "train" or "test"}."""
    pair: str = "en-de"
    """The fields of source and target."""
    seq_len: int = 64
    """Tokens of a source; longer ones are cut."""
    target_len: int = 64
    """Tokens of a target; longer ones are cut."""
    out: Path = Path("runs/translation")
    """Where the run and the results go; what stands there is gone on with."""


def main(arguments: list[str]) -> int:
    options = parse(Options, arguments, "experiment translation")
    from formers.experiments import rewriting

    settings = settings_of(rewriting.RewritingSettings, options)
    progress = False if options.json else None
    result = rewriting.run(rewriting.translation(options.pair), options.data, options.out, settings, progress=progress)
    return finish(result, options.out, as_json=options.json)
