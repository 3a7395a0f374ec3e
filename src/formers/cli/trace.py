"""`formers trace`: what goes into every module of a model and what comes out of it, in one forward."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from formers.cli.console import emit, remark
from formers.cli.parse import Flag, parse
from formers.errors import ConfigError, TargetError
from formers.hub import targets

if TYPE_CHECKING:
    from torch import Tensor

    from formers.inspection.trace import Call, Seen


@dataclass(frozen=True)
class Options:
    """Names, shapes, types, smallest and largest number of all tensors that go into the modules of a model and come out of
    them, call by call, in one forward over a text, or over random tokens. No module is edited for it."""

    target: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="TARGET")]
    """A run, a model folder, gpt2.tiny, or file.py:function."""
    text: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="TEXT")] = ""
    """What the model reads; random tokens where there is none."""
    only: tuple[str, ...] = ()
    """Modules whose names match one of these patterns, such as 'trunk.blocks.0.*' or '*attention'; by default all."""
    length: int = 16
    """Tokens that are drawn where there is no text."""
    tensors: Path | None = None
    """A safetensors file to write, with all tensors that are listed: NAME.CALL.in.ARGUMENT and NAME.CALL.out.PLACE."""
    seed: int = 0
    """Of the random tokens and, for an architecture, of its weights."""
    code: str | None = None
    """file.py:function, for a run of a model of your own."""
    json: Flag = False
    """Print the result as JSON on stdout."""


def main(arguments: list[str]) -> None:
    options = parse(Options, arguments, "trace")
    if options.length < 1:
        raise ConfigError(f"--length {options.length}", "1 or more")
    targets.parse(options.target)
    from formers.inspection.trace import traced
    from formers.training.evaluate import evaluating

    found = targets.resolve(options.target, seed=options.seed, code=options.code)
    remark(found.note)
    ids = _ids(found, options)
    given = {"source": ids} if "source" in getattr(found.model, "inputs", ()) else {}
    with evaluating(found.model), traced(found.model, *options.only, keep=options.tensors is not None) as calls:
        found.model(ids, **given)
    if options.tensors is not None:
        _write(calls, options.tensors)
    if options.json:
        return emit([_plain(call) for call in calls])
    for call in calls:
        _print(call)
    return None


def _ids(found: targets.Resolved, options: Options) -> Tensor:
    """[1, tokens]"""
    import torch

    if options.text:
        if found.tokenizer is None:
            wanted = "a run, or a model folder with a tokenizer.json"
            raise TargetError(f"{found.name} has no tokenizer", wanted, "leave TEXT out")
        return torch.tensor([found.tokenizer.encode(options.text)])
    config = getattr(found.model, "config", None)
    length = min(options.length, getattr(config, "max_length", None) or options.length)
    draw = torch.Generator().manual_seed(options.seed)
    return torch.randint(0, getattr(config, "vocab_size", 2), (1, length), generator=draw)


def _plain(call: Call) -> dict[str, Any]:
    return {"name": call.name, "class": call.kind, "inputs": call.inputs, "outputs": call.outputs}


def _print(call: Call) -> None:
    print(f"{call.name}  {call.kind}")
    for side, tensors in (("in", call.inputs), ("out", call.outputs)):
        for name, seen in tensors.items():
            print(f"    {side:<3} {name or 'result':<20} {_words(seen)}")


def _words(seen: Seen) -> str:
    ends = "empty" if seen.low is None or seen.high is None else f"{seen.low:.4g} .. {seen.high:.4g}"
    return f"{list(seen.shape)!s:<22} {seen.dtype:<8} {ends}"


def _write(calls: Sequence[Call], out: Path) -> None:
    from safetensors.torch import save

    from formers.files import write_atomic

    counts: dict[str, int] = {}
    named: dict[str, Tensor] = {}
    for call in calls:
        number = counts[call.name] = counts.get(call.name, -1) + 1
        named |= {f"{call.name}.{number}.{place}": tensor.contiguous() for place, tensor in call.tensors.items()}
    write_atomic(out, save(named))
    print(f"written: {out} ({len(named)} tensors)", file=sys.stderr)
