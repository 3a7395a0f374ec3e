"""What the verbs that train from labelled data have in common: files, table, verdict."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from formers.cli.console import emit, facts, stdout, table


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
