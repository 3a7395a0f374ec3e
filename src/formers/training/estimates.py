"""What a training will cost, said before it starts and, for its time, after the first few steps."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from formers.training.checkpoints import KEPT
from formers.training.settings import TrainSettings

PROBED = 3
"""Steps that are timed, after one that is not because it compiles and warms up."""


def operations(parameters: int, settings: TrainSettings) -> float:
    """Floating-point operations of a run, 6 a parameter and token (Kaplan et al. 2020, section 2.1), attention aside."""
    steps = settings.total_steps if settings.steps_limited else 10**9
    return 6.0 * parameters * steps * settings.batch_size * settings.seq_len


def disk_bytes(parameters: int, bytes_each: int = 4) -> int:
    """Room that a run needs: the checkpoints that are kept and the one being written (weights and two averages each), and
    the model."""
    return parameters * bytes_each * (3 * (KEPT + 1) + 1)


def announcement(parameters: int, settings: TrainSettings, view: Any) -> str:
    """One line: parameters, tokens, passes over the data, disk."""
    a_step = settings.batch_size * settings.seq_len
    parts = [f"{_short(parameters)} parameters"]
    if settings.steps_limited:
        total = settings.total_steps * a_step
        there = getattr(view, "tokens", None) or (int(view.lengths.sum()) if hasattr(view, "lengths") else 0)
        passes = f", {total / there:.1f} passes over {_short(there)}" if there else ""
        parts.append(f"{settings.total_steps:,} steps of {a_step:,} tokens ({_short(total)} tokens{passes})")
    if settings.minutes:
        parts.append(f"{settings.minutes:g} minutes of steps of {a_step:,} tokens")
    parts.append(f"about {disk_bytes(parameters) / 1e6:,.0f} MB on the disk")
    return "; ".join(parts) + ". Time follows after the first steps."


def short_of_disk(parameters: int, out: Path) -> str | None:
    """A warning where the disk has less room than the run needs."""
    free, needed = shutil.disk_usage(out).free, disk_bytes(parameters)
    if free >= needed:
        return None
    return f"The disk has {free / 1e6:,.0f} MB free where this run needs about {needed / 1e6:,.0f} MB."


class TimeEstimate:
    """Times the first steps, then says once how long the rest will take."""

    def __init__(self, total: int | None) -> None:
        """`total` steps; None where the clock ends the training and nothing needs to be said."""
        self.total, self.seen, self.seconds = total, 0, 0.0

    def look(self, step: int, took: float) -> str | None:
        """Call after each step; a sentence after the fourth of this process, if twice as many are still to come."""
        self.seen += 1
        if self.seen > 1:
            self.seconds += took
        if self.total is None or self.seen != PROBED + 1 or self.total - step < 2 * PROBED:
            return None
        each = self.seconds / PROBED
        return f"{each:.2g} s a step: about {duration(each * (self.total - step))} to go, evaluations aside."


def duration(seconds: float) -> str:
    """``40 s``, ``12 min``, ``3.5 h``."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _short(number: int) -> str:
    for size, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {name}"
    return str(number)
