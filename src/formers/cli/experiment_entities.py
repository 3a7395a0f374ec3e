"""`formers experiment entities`: named entities from words with tags."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from formers.cli.labelled import EncoderOptions, finish
from formers.cli.parse import parse, positional, settings_of


@dataclass(frozen=True, kw_only=True)
class Options(EncoderOptions):
    """Train an encoder on words with tags and test it on articles held out: F1 of entities, against each word's usual tag.

    Writes entities.json and entities.svg. Ctrl-C is fine: the same command goes on where it stopped.
    """

    data: Annotated[Path, *positional("DATA")]
    """A CoNLL file: a word and its tag a line, an empty line behind each sentence, -DOCSTART- before each article."""
    test: float = 0.2
    """Share of the articles (of the sentences, where the file has no articles) that is held out."""
    out: Path = Path("runs/entities")
    """Where the run and the results go; what stands there is gone on with."""


def main(arguments: list[str]) -> int:
    options = parse(Options, arguments, "experiment entities")
    from formers.experiments import entities
    from formers.experiments.labelled import LabelledSettings

    settings = settings_of(LabelledSettings, options)
    result = entities.run(options.data, options.out, settings, progress=False if options.json else None)
    return finish(result, options.out, as_json=options.json)
