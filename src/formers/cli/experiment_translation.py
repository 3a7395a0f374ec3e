"""`formers experiment translation`: texts of one language in another."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from formers.cli.labelled import finish
from formers.cli.parse import Flag, parse, positional


@dataclass(frozen=True)
class Options:
    """Train an encoder-decoder to translate: chrF and BLEU, against copying the source.

    Writes translation.json and translation.svg. Ctrl-C is fine: the same command goes on where it stopped.
    """

    data: Annotated[Path, *positional("DATA")]
    """JSON lines (.gz too) of {"en": .., "de": .., "split": "train" or "test"}."""
    pair: str = "en-de"
    """The fields of source and target."""
    init: str = "t5.tiny"
    """A run, model folder or hub name of an encoder-decoder, or a recipe (t5.tiny), which begins with fresh weights."""
    steps: int | None = None
    """Updates; none: --minutes."""
    minutes: float = 8.0
    """How long to train, where no --steps are given."""
    batch_size: int = 16
    """Pairs of an update."""
    seq_len: int = 64
    """Tokens of a source; longer ones are cut."""
    target_len: int = 64
    """Tokens of a target; longer ones are cut."""
    lr: float = 2e-3
    """Peak learning rate."""
    test: int = 300
    """Pairs of the test that are asked."""
    vocab_size: int = 4096
    """BPE tokens that are trained where weights are fresh."""
    out: Path = Path("runs/translation")
    """Where the run and the results go; what stands there is gone on with."""
    seed: int = 0
    """Of weights, order, the pairs asked and the bootstrap."""
    json: Flag = False
    """Print the result as JSON on stdout."""


def main(arguments: list[str]) -> int:
    options = parse(Options, arguments, "experiment translation")
    from formers.experiments import rewriting

    settings = rewriting.RewritingSettings(
        init=options.init,
        steps=options.steps,
        minutes=options.minutes,
        batch_size=options.batch_size,
        seq_len=options.seq_len,
        target_len=options.target_len,
        lr=options.lr,
        test=options.test,
        vocab_size=options.vocab_size,
        seed=options.seed,
    )
    progress = False if options.json else None
    result = rewriting.run(rewriting.translation(options.pair), options.data, options.out, settings, progress=progress)
    return finish(result, options.out, as_json=options.json)
