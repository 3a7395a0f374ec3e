"""Training loss where several runs have spent as much: as many tokens, seconds or operations.

Runs that read the same batches in the same order are compared on them: the loss is the mean over the last recorded steps up
to the place, the same share of each run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from .runs import Row, RunRecord

SHARE, LEAST = 0.05, 5
"""Of the steps up to the place, and at least so many, that the mean is over."""

AXES = ("tokens", "seconds", "operations")


def operations_per_token(run: RunRecord) -> float | None:
    """As the run's recipe has it; else 6 a parameter (Kaplan et al., 2001.08361, section 2.1), attention aside."""
    counted = run.recipe.get("operations_per_token")
    if isinstance(counted, (int, float)) and counted > 0:
        return float(counted)
    return 6.0 * run.parameters if run.parameters else None


def spent(run: RunRecord, row: Row, axis: str) -> float | None:
    """What a run had spent when it recorded a row."""
    if axis != "operations":
        return row.get(axis)
    each, tokens = operations_per_token(run), row.get("tokens")
    return None if each is None or tokens is None else each * tokens


def loss_at(run: RunRecord, axis: str, place: float) -> float | None:
    """Mean training loss up to the place; None where the run has not come so far, or recorded no loss."""
    rows = [row for row in run.train if (at := spent(run, row, axis)) is not None and at <= place * (1 + 1e-9)]
    if not rows or (end := spent(run, run.train[-1], axis)) is None or end < place * (1 - 1e-9):
        return None
    losses = [row["loss"] for row in rows[-max(LEAST, round(SHARE * len(rows))) :] if row.get("loss") is not None]
    return math.fsum(losses) / len(losses) if losses else None


def equal(groups: Mapping[str, Sequence[RunRecord]]) -> dict[str, dict[str, float | None]]:
    """For each group of runs its mean loss where all runs had spent as much, by axis; and under ``at`` how much that was."""
    runs = [run for group in groups.values() for run in group]
    out: dict[str, dict[str, float | None]] = {name: {} for name in groups}
    at: dict[str, float | None] = {}
    for axis in AXES:
        ends = [spent(run, run.train[-1], axis) if run.train else None for run in runs]
        at[axis] = min((end for end in ends if end is not None), default=None) if None not in ends else None
        for name, group in groups.items():
            place = at[axis]
            losses = [] if place is None else [loss_at(run, axis, place) for run in group]
            known = [loss for loss in losses if loss is not None]
            out[name][axis] = math.fsum(known) / len(known) if known and len(known) == len(losses) else None
    return out | {"at": at}
