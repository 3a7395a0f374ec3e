"""What mattered: a straight line through the results of many trainings, an effect with its interval for each setting."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from formers.comparison.intervals import t_quantile


@dataclass(frozen=True)
class Effect:
    """What a setting does to the score, the others held still (least squares, 95% by Student's t).

    per   what the change is for: "doubling", or one value in place of another
    """

    name: str
    per: str
    mean: float
    low: float
    high: float

    @property
    def told(self) -> bool:
        """Whether its sign is sure."""
        return self.low > 0 or self.high < 0


def effects(settings: Sequence[Mapping[str, Any]], scores: Sequence[float]) -> list[Effect]:
    """The effects of all settings that were varied, the surest first; none where there are too few results to tell.

    Numbers above 0 count by their logarithm, so their effect is of doubling them; words each against the first of them.
    """
    columns = _columns(settings)
    freedom = len(scores) - len(columns) - 1
    if not columns or freedom < 1:
        return []
    matrix = np.column_stack([np.ones(len(scores)), *(values for _, _, values in columns)])
    inverse = np.linalg.pinv(matrix.T @ matrix)
    found = inverse @ matrix.T @ np.asarray(scores, dtype=np.float64)
    rest = np.asarray(scores) - matrix @ found
    spread = float(rest @ rest) / freedom
    wide = t_quantile(0.975, freedom)
    out = []
    for at, (name, per, _) in enumerate(columns, start=1):
        reach = wide * math.sqrt(max(0.0, spread * inverse[at, at]))
        out.append(Effect(name, per, float(found[at]), float(found[at] - reach), float(found[at] + reach)))
    return sorted(out, key=lambda effect: -abs(effect.mean) / max(effect.high - effect.mean, 1e-12))


def _columns(settings: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, np.ndarray]]:
    """(setting, what a change of 1 is, values) of every setting that was not always the same."""
    columns: list[tuple[str, str, np.ndarray]] = []
    for name in sorted({name for one in settings for name in one}):
        values = [one.get(name) for one in settings]
        if len(set(values)) < 2:
            continue
        if all(isinstance(v, (int, float)) and not isinstance(v, bool) and v > 0 for v in values):
            columns.append((name, "doubling", np.log2(np.array(values, dtype=np.float64))))
            continue
        first, *others = sorted(set(map(str, values)))
        columns += [(name, f"{w} for {first}", np.array([float(str(v) == w) for v in values])) for w in others]
    return columns
