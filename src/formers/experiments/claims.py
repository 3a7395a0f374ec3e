"""What an experiment says of a claim: one of three words, and the figures behind it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from formers.comparison.intervals import Interval, paired, t_below, t_quantile

__all__ = ["Interval", "Verdict", "Word", "paired", "t_below", "t_quantile"]

Word = Literal["reproduced", "smaller effect", "not reproduced"]


@dataclass(frozen=True)
class Verdict:
    """A claim, what became of it, and the figures that say so."""

    claim: str
    word: Word
    figures: dict[str, Any]
