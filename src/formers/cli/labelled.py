"""What the verbs that train from labelled data have in common: files, table, verdict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from formers.cli.console import emit, facts, stdout, table
from formers.cli.parse import Flag, positional


@dataclass(frozen=True, kw_only=True)
class EncoderOptions:
    """Of the verbs that train an encoder. A verb says of its own what `data`, `test` and `out` are."""

    data: Annotated[Path, *positional("DATA")]
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
    vocab_size: int = 4096
    """WordPieces that are trained where weights are fresh."""
    out: Path
    seed: int = 0
    """Of what is held out, weights, order and the bootstrap."""
    json: Flag = False
    """Print the result as JSON on stdout."""


@dataclass(frozen=True, kw_only=True)
class RewritingOptions:
    """Of the verbs that train an encoder-decoder. A verb says of its own what `data` and `out` are, and how long texts."""

    data: Annotated[Path, *positional("DATA")]
    init: str = "t5.tiny"
    """A run, model folder or hub name of an encoder-decoder, or a recipe (t5.tiny), which begins with fresh weights."""
    steps: int | None = None
    """Updates; none: --minutes."""
    minutes: float = 8.0
    """How long to train, where no --steps are given."""
    batch_size: int = 16
    """Pairs of an update."""
    seq_len: int
    """Tokens of a source; longer ones are cut."""
    target_len: int
    """Tokens of a target; longer ones are cut."""
    lr: float | None = None
    """Peak learning rate of Adafactor; none: 0.03 of fresh weights, 0.001 of others."""
    test: int = 300
    """Pairs of the test that are asked."""
    vocab_size: int = 4096
    """BPE tokens that are trained where weights are fresh."""
    out: Path
    seed: int = 0
    """Of weights, order, the pairs asked and the bootstrap."""
    json: Flag = False
    """Print the result as JSON on stdout."""


def finish(result: Mapping[str, Any] | None, out: Path, *, as_json: bool) -> int:
    """Write NAME.json and NAME.svg into `out`, and print them; the exit code. None: the training was stopped."""
    if result is None:
        return 130  # the training has said how to go on
    from formers.files import write_json

    write_json(out / f"{result['task']}.json", result)
    _draw(result, out / f"{result['task']}.svg")
    if as_json:
        emit({**result, "folder": out})
        return 0
    training, console = result["training"], stdout()
    done = f"{training['steps']:,} steps, {training['tokens']:,} tokens, {training['minutes']:.1f} minutes"
    console.print(facts([("training", done), ("model", str(out / "run" / "model"))]))
    content = table("", result["measure"], right=(1,))
    content.add_row("model", f"{result['score']:.3f}")
    for name, score in result["baselines"].items():
        content.add_row(name, f"{score:.3f}")
    console.print(content)
    console.print(f"\n{result['verdict']}", markup=False)
    console.print(f"written: {out}", markup=False)
    return 0


def _draw(result: Mapping[str, Any], out: Path) -> None:
    """The learning curve."""
    from formers.comparison.plot import Chart, Line, write_chart

    steps, losses = ([point[name] for point in result["curve"]] for name in ("step", "loss"))
    ticks = [(step, f"{step:,}") for step in (steps[0], steps[len(steps) // 2], steps[-1])]
    title = f"{result['task']}: {result['measure']} {result['score']:.3f} after {steps[-1]:,} steps"
    write_chart(Chart(title, "step", "training loss", [Line("loss", steps, losses)], ticks, log_x=False), out)
