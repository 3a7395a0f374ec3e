"""`formers experiment entities`: named entities from words with tags."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from formers.cli.labelled import finish
from formers.cli.parse import Flag, parse, positional


@dataclass(frozen=True)
class Options:
    """Train an encoder on words with tags and test it on articles held out: F1 of entities, against each word's usual tag.

    Writes entities.json and entities.svg. Ctrl-C is fine: the same command goes on where it stopped.
    """

    data: Annotated[Path, *positional("DATA")]
    """A CoNLL file: a word and its tag a line, an empty line behind each sentence, -DOCSTART- before each article."""
    init: str = "bert.tiny"
    """A run, model folder or hub name of an encoder, or an architecture's preset, which begins with fresh weights."""
    steps: int | None = None
    """Updates; none: --minutes."""
    minutes: float = 8.0
    """How long to train, where no --steps are given."""
    batch_size: int = 8
    """Rows of an update."""
    seq_len: int = 128
    """Tokens of a row, which holds several texts."""
    lr: float | None = None
    """Peak learning rate; none: 0.001 of fresh weights, 0.0002 of others."""
    test: float = 0.2
    """Share of the articles (of the sentences, where the file has no articles) that is held out."""
    vocab_size: int = 4096
    """WordPieces that are trained where weights are fresh."""
    out: Path = Path("runs/entities")
    """Where the run and the results go; what stands there is gone on with."""
    seed: int = 0
    """Of what is held out, weights, order and the bootstrap."""
    json: Flag = False
    """Print the result as JSON on stdout."""


def main(arguments: list[str]) -> int:
    options = parse(Options, arguments, "experiment entities")
    from formers.experiments import entities
    from formers.experiments.labelled import LabelledSettings

    settings = LabelledSettings(
        init=options.init,
        steps=options.steps,
        minutes=options.minutes,
        batch_size=options.batch_size,
        seq_len=options.seq_len,
        lr=options.lr,
        test=options.test,
        vocab_size=options.vocab_size,
        seed=options.seed,
    )
    result = entities.run(options.data, options.out, settings, progress=False if options.json else None)
    return finish(result, options.out, as_json=options.json)
