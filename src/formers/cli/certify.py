"""`formers certify`: the laws that every model must obey."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from formers import pretrained
from formers.cli.console import emit, remark, speaker, stdout
from formers.cli.parse import Flag, parse
from formers.hub import targets


@dataclass(frozen=True)
class Options:
    """Try the laws that every model must obey: causal, rows independent, step by step as whole, and more.

    Each law is reported with the largest violation and, where it fails, the first module to blame. A run keeps the result
    as certificate.json. Exit code 1 where a law fails.
    """

    target: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="TARGET")]
    """A run, a checkpoint folder, gpt2.tiny, file.py:function, transformers:FOLDER."""
    laws: tuple[str, ...] = ()
    """Only these laws; by default all."""
    seed: int = 0
    """Of the random inputs and, for an architecture, of its weights."""
    code: str | None = None
    """file.py:function, for a run of a model of your own."""
    json: Flag = False
    """Print the result as JSON on stdout."""


def main(arguments: list[str]) -> int:
    options = parse(Options, arguments, "certify")
    parsed = targets.parse(options.target)
    from formers.files import write_json
    from formers.laws import certify
    from formers.laws.report import show

    found = targets.resolve(options.target, seed=options.seed, code=options.code)
    remark(found.note)
    with speaker(options.json).status("trying the laws ..."):
        report = certify(
            found.model,
            seed=options.seed,
            laws=options.laws or None,
            tokenizer=found.tokenizer,
            fresh=found.fresh,
            target=options.target,
        )
    certificate = report.to_dict()
    if parsed.kind == "run" and parsed.path is not None and not options.laws and not pretrained.ships(parsed.path):
        write_json(parsed.path / "certificate.json", certificate)
    if options.json:
        emit(certificate)
    else:
        show(report, stdout())
    return 0 if report.ok else 1
