"""`formers experiment sentiment`: negative, neutral or positive, from texts that people rated."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from formers.cli.labelled import EncoderOptions, finish
from formers.cli.parse import parse, positional, settings_of


@dataclass(frozen=True, kw_only=True)
class Options(EncoderOptions):
    """Train an encoder on rated texts and test it on texts held out: accuracy, against logistic regression on words.

    Writes sentiment.json and sentiment.svg. Ctrl-C is fine: the same command goes on where it stopped.
    """

    data: Annotated[Path, *positional("DATA")]
    """VADER's archive or folder, or a file of id<TAB>rating<TAB>text lines."""
    test: float = 0.2
    """Share of the texts (sentences of one review or article go together) that is held out."""
    out: Path = Path("runs/sentiment")
    """Where the run and the results go; what stands there is gone on with."""


def main(arguments: list[str]) -> int:
    options = parse(Options, arguments, "experiment sentiment")
    from formers.experiments import sentiment
    from formers.experiments.labelled import LabelledSettings

    settings = settings_of(LabelledSettings, options)
    result = sentiment.run(options.data, options.out, settings, progress=False if options.json else None)
    return finish(result, options.out, as_json=options.json)
