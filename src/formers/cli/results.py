"""What the experiments print and keep: a verdict in words."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from formers.cli.console import stdout

if TYPE_CHECKING:
    from formers.experiments.claims import Interval, Verdict


def say(verdict: Verdict, out: Path) -> None:
    """The word, the claim, and where the results are."""
    stdout().print(f"\n{verdict.word}: {verdict.claim}", markup=False)
    stdout().print(f"written: {out}", markup=False)


def change(interval: Interval | None) -> str:
    """A mean difference and its interval; nothing where there were too few pairs."""
    return "" if interval is None else f"{interval.mean:+.4f} ({interval.low:+.4f} to {interval.high:+.4f})"


def in_thousands(tokens: int) -> str:
    """A tick of an axis: 512, 8k."""
    return f"{tokens // 1024}k" if tokens >= 1024 else str(tokens)
