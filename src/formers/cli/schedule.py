"""`formers schedule`: the learning rate of a recipe, drawn before anything is trained."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from formers.cli import train_options
from formers.cli.console import emit, facts, stdout
from formers.cli.parse import Flag, parse
from formers.errors import ConfigError
from formers.recipes import TrainSettings

if TYPE_CHECKING:
    from formers.training.schedules import Schedule

POINTS = 600
"""Of a drawing, at most. JSON has every step."""


@dataclass(frozen=True)
class Options:
    """Draw the learning rate that a recipe applies, or a run applied, step by step: in the terminal, and as SVG or JSON. Takes
    the options of `formers train` that begin with --train."""

    out: Path | None = None
    """An SVG file to write."""
    json: Flag = False
    """Print every step's learning rate as JSON on stdout."""
    train: TrainSettings = field(default_factory=TrainSettings)
    """Settings of the loop."""


def main(arguments: list[str]) -> None:
    name, rest = train_options.split(arguments)
    if name is None and not any(word in ("-h", "--help") for word in rest):
        raise ConfigError(
            "no recipe is named", "formers schedule RECIPE [--train.lr 0.001 ...]", "formers models lists them"
        )
    default = Options() if name is None else Options(train=_settings(name))
    options = parse(Options, rest, f"schedule {name or 'RECIPE'}", default=default)
    schedule, timed = _schedule(options.train)
    course = schedule.course()
    if options.out is not None:
        _write(course, name or "", timed, options.out)
    if options.json:
        return emit(_json(name, options.train, schedule, course, timed))
    _print(options, schedule, course, timed)
    return None


def _settings(name: str) -> TrainSettings:
    """Of a recipe, or of a run: the settings that it was trained with."""
    from formers import recipes
    from formers.config import from_dict
    from formers.hub.targets import read_recipe

    if (Path(name) / "recipe.json").is_file():
        return from_dict(TrainSettings, read_recipe(Path(name)).get("train", {}))
    return recipes.get(name).train


def _schedule(train: TrainSettings) -> tuple[Schedule, bool]:
    """The schedule, and whether the clock decides its steps: it is then drawn by the hundredth of the time."""
    if train.steps_limited:
        return train.learning_rate, False
    return dataclasses.replace(train.learning_rate, total=100, warmup=0), True


def _json(
    name: str | None, train: TrainSettings, schedule: Schedule, course: list[float], timed: bool
) -> dict[str, Any]:
    return {
        "recipe": name,
        "schedule": schedule.name,
        "peak": schedule.peak,
        "floor": schedule.floor,
        "warmup": train.warmup,
        "by": "percent of the time" if timed else "step",
        "lr": course,
    }


def _print(options: Options, schedule: Schedule, course: list[float], timed: bool) -> None:
    from formers.comparison.drawing import draw

    ends = ("begin", "end of the time") if timed else ("step 1", f"step {len(course):,}")
    stdout().print("\n".join(draw(course, ends=ends)), markup=False)
    train = options.train
    after = course[schedule.warmup :]
    never = "" if after else f": the warm-up never ends, {schedule.peak:.4g} is not reached"
    pairs = [
        ("schedule", train.schedule),
        ("peak", f"{max(course):.4g}{never}"),
        *([("lowest after the warm-up", f"{min(after):.4g}")] if after else []),
        ("warm-up", f"{train.warmup:,} steps" + (", not drawn: the clock ends this training" if timed else "")),
    ]
    if options.out is not None:
        pairs.append(("written", str(options.out)))
    stdout().print(facts(pairs))


def _write(course: list[float], name: str, timed: bool, out: Path) -> None:
    from formers.comparison.plot import Chart, Line, write_chart

    every = max(1, len(course) // POINTS)
    shown = sorted({*range(0, len(course), every), len(course) - 1})
    last = len(course)
    ticks = [(float(at), f"{at:,}") for at in dict.fromkeys((1, *(round(last * q / 4) for q in (1, 2, 3)), last)) if at]
    line = Line("learning rate", [at + 1 for at in shown], [course[at] for at in shown])
    label = "percent of the time" if timed else "step"
    write_chart(Chart(f"{name}: learning rate", label, "learning rate", [line], ticks, log_x=False, dots=False), out)
