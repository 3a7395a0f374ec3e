"""Live progress on stderr: loss, learning rate, tokens a second, time remaining. Knows only the rows that are recorded."""

from __future__ import annotations

import sys
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn


class ProgressLine:
    """One line that follows a training. Off, it prints nothing; warnings and errors are printed above it."""

    def __init__(self, total: int | None, done: int, *, on: bool | None = None) -> None:
        """`on` None: where stderr is a terminal."""
        self.on = sys.stderr.isatty() if on is None else on
        self.progress = Progress(
            TextColumn("step {task.completed:.0f}" + ("" if total is None else f"/{total}")),
            BarColumn(),
            TextColumn("{task.fields[numbers]}"),
            TimeRemainingColumn(compact=True),
            console=Console(stderr=True),
            disable=not self.on,
        )
        self.task = self.progress.add_task("training", total=total, completed=done, numbers="")
        self.progress.start()

    def show(self, row: dict[str, Any]) -> None:
        """Follow one recorded row."""
        if row["kind"] == "train":
            numbers = f"loss {row['loss']:.3f}  lr {row['lr']:.2e}  {row['tokens_per_second']:,.0f} tokens/s"
            self.progress.update(self.task, completed=row["step"], numbers=numbers)
        elif row["kind"] == "eval":
            size = row["bits_per_byte"]
            other = (
                f"accuracy {100 * row['accuracy']:.1f} %"
                if "objective" in row
                else f"perplexity {row['perplexity']:.1f}"
            )
            measure = f"{size:.3f} bits per byte" if size is not None else other
            self._print(f"step {row['step']}: {row['split']} loss {row['loss']:.3f}, {measure}")
        elif row["kind"] == "event":
            self._print(row["message"])

    def _print(self, text: str) -> None:
        if self.on:
            self.progress.console.print(text, markup=False, highlight=False)

    def close(self) -> None:
        self.progress.stop()
