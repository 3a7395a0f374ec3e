"""`formers graft`: a memory for a decoder that was trained without one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from formers.cli.console import emit, remark, stdout
from formers.cli.parse import Flag, parse
from formers.hub import targets


@dataclass(frozen=True)
class Options:
    """Give a decoder a memory, and write it as a model folder. What it says stays as it was until its gates are trained.

    It reads in segments: within one as before, and in the layers with a memory a query also finds what was read before.
    """

    target: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """A run, a checkpoint folder or a hub name: gpt2 or llama, or another decoder of formers."""
    out: Path
    """The folder to write."""
    layers: tuple[int, ...] = ()
    """The layers that get one, counted from 0, or from the end where negative; by default the one at two thirds."""
    size: int = 8192
    """Entries a head and row; the oldest give way."""
    segment: int | None = None
    """Tokens of a segment; by default 512, or as many as the decoder has positions for."""
    neighbours: int = 32
    """Entries that a query is given."""
    cache: int = 0
    """Tokens before its segment that every layer sees; with rotary positions alone."""
    merge: str = "tanh"
    """How what is near by and what is remembered are mixed: tanh changes nothing at first; gate, sum, straight, joint do."""
    code: str | None = None
    """file.py:function, for a run of a model of your own."""
    json: Flag = False
    """Print the result as JSON on stdout."""


def main(arguments: list[str]) -> None:
    options = parse(Options, arguments, "graft")
    targets.parse(options.target)
    from formers.hub import save
    from formers.models.grafted import default_layers, graft_memory

    found = targets.resolve(options.target, code=options.code)
    remark(found.note)
    layers = options.layers or default_layers(found.model)
    grafted = graft_memory(
        found.model,
        layers,
        options.size,
        neighbours=options.neighbours,
        segment_length=options.segment,
        cache_length=options.cache,
        merge=options.merge,
    )
    written = save(grafted, options.out, tokenizer=found.tokenizer)
    facts = _facts(grafted)
    if options.json:
        return emit({"folder": written, **facts})
    where = ", ".join(map(str, facts["layers"]))
    stdout().print(
        f"written: {written} ({facts['base']} with {facts['size']:,} entries a head in layer {where}, read in segments of "
        f"{facts['segment']:,}; {facts['memory_bytes'] / 1e6:,.1f} MB a row)",
        markup=False,
    )
    for recipe in ("gates", "memory", "whole"):
        stdout().print(f"  formers train grafted.{recipe} --init {options.out}", markup=False, soft_wrap=True)
    return None


def _facts(grafted: Any) -> dict[str, Any]:
    from formers.inspection.anatomy import cost

    config = grafted.config
    return {
        "base": config.base,
        "layers": config.layers,
        "size": config.memory_size,
        "segment": config.segment_length,
        "neighbours": config.neighbours,
        "memory_bytes": cost(grafted).memory_bytes,
    }
