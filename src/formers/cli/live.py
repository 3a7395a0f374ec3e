"""What a training says while it runs, for those who watch no terminal: a line an event, and now and then a step."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

EVERY_SECONDS = 10.0


class Live:
    """Listens to the rows of a training. On a terminal the training's own progress line shows them; elsewhere (a log file,
    a pipe) this prints lines. Either way it keeps the warnings."""

    def __init__(self, console: Console) -> None:
        import sys

        self.console, self.is_terminal = console, sys.stderr.isatty()
        self.warnings: list[str] = []
        self.shown = float("-inf")

    def show(self, row: dict[str, Any]) -> None:
        """One row of metrics.jsonl."""
        if row["kind"] == "event" and row["level"] == "warning":
            self.warnings.append(row["message"])
        if not self.is_terminal and (line := self._line(row)):
            self.console.print(line, markup=False, soft_wrap=True)

    def _line(self, row: dict[str, Any]) -> str | None:
        if row["kind"] == "event" and row["level"] == "error":
            return None  # raised as well, and printed when the command ends
        if row["kind"] == "event":
            return ("" if row["level"] == "info" else f"{row['level']}: ") + row["message"]
        if row["kind"] == "eval":
            return f"step {row['step']}: {row['split']} loss {row['loss']:.3f}, {measure(row)}"
        if row["kind"] == "train" and time.monotonic() - self.shown >= EVERY_SECONDS:
            self.shown = time.monotonic()
            return f"step {row['step']}: loss {row['loss']:.3f}, {row['tokens_per_second']:,.0f} tokens/s"
        return None


def measure(row: dict[str, Any]) -> str:
    """An evaluation's headline: bits per byte where bytes are known, else how much was guessed right."""
    if row.get("bits_per_byte") is not None:
        return f"{row['bits_per_byte']:.3f} bits per byte"
    if "objective" not in row:
        return f"perplexity {row['perplexity']:.1f}"
    further = {name: value for name, value in row.items() if name.endswith("_accuracy")}
    shares = {"accuracy": row["accuracy"], **{name.replace("_", " "): value for name, value in further.items()}}
    return ", ".join(f"{name} {100 * value:.1f} %" for name, value in shares.items())
