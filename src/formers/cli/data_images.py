"""`formers data images`: images to token shards, a byte a token."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from formers.cli.console import emit, facts, stdout
from formers.cli.parse import Flag, parse

TEXTURES = "textures"


@dataclass(frozen=True)
class Options:
    """Images of one size become token shards: bytes line by line, pixel by pixel, channel by channel, an image a document."""

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FILE.npy")]
    """An array of bytes [images, lines, columns, channels]; `textures` for synthetic ones of 16 x 16 pixels."""
    out: Path = Path("shards")
    """The shard folder."""
    count: int = 4000
    """Of synthetic images."""
    validation: float = 0.1
    """The share of the images held out."""
    levels: int = 256
    """Values that a byte may have; fewer quantise."""
    seed: int = 0
    """Decides which images are held out, and what synthetic ones look like."""
    json: Flag = False
    """Print the result as JSON on stdout."""


def main(arguments: list[str]) -> int:
    options = parse(Options, arguments, "data images")
    from formers.data.images import build_images, textures

    images = textures(options.count, seed=options.seed) if options.source == TEXTURES else options.source
    summary = build_images(images, options.out, validation=options.validation, seed=options.seed, levels=options.levels)
    if options.json:
        emit(summary)
    else:
        stdout().print(facts(summary.lines()))
    return 0
