"""`formers diff`: where two models part."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import tyro

from formers.cli.console import emit, speaker, stdout
from formers.cli.parse import Flag, parse
from formers.hub import targets


@dataclass(frozen=True)
class Options:
    """Run two models on the same input and say where they part: the first activation, then the first gradient.

    With the size of the difference and a likely cause. Exit code 1 where they differ.
    """

    a: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="A")]
    """A run, a checkpoint folder, gpt2.tiny, file.py:function, or transformers:FOLDER."""
    b: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="B")]
    """Another."""
    code: str | None = None
    """file.py:function that a run of your own was trained from."""
    json: Flag = False
    """Print the result as JSON on stdout."""


def main(arguments: list[str]) -> int:
    options = parse(Options, arguments, "diff")
    for target in (options.a, options.b):
        targets.parse(target)
    from formers.hub import diff

    with speaker(options.json).status("running both ..."):
        report = diff(options.a, options.b, code=options.code)
    if options.json:
        emit(report.to_dict())
    else:
        stdout().print(report)
    return 0 if report.same else 1
