"""What a certification found: a verdict a law, and the report of all."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

Status = Literal["pass", "fail", "not applicable"]


@dataclass(frozen=True)
class Verdict:
    """What one law found.

    violation  the largest found; None where the law does not apply. In logits where a law compares numbers (relative to
               the largest logit where that is above 1), else a count
    tolerance  what would still have passed; 0 means bit for bit
    blame      the first module that broke the law (its name in the model), where that could be told
    detail     what was tried and found; for a law that does not apply, the reason
    """

    name: str
    status: Status
    violation: float | None
    tolerance: float | None
    blame: str | None
    detail: str
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """As `certificate.json` stores it; a violation that is not a number is null, and the detail says so."""
        finite = self.violation is not None and math.isfinite(self.violation)
        return {
            "name": self.name,
            "status": self.status,
            "violation": self.violation if finite else None,
            "tolerance": self.tolerance,
            "blame": self.blame,
            "detail": self.detail,
        }


@dataclass(frozen=True)
class Report:
    """All verdicts on one target. `notes` say under which conditions they were reached."""

    target: str
    laws: dict[str, Verdict]
    seed: int = 0
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """No law failed. A law that does not apply is not a pass, but no failure either."""
        return not self.failed

    @property
    def failed(self) -> list[Verdict]:
        return [verdict for verdict in self.laws.values() if verdict.status == "fail"]

    @property
    def seconds(self) -> float:
        return sum(verdict.seconds for verdict in self.laws.values())

    def to_dict(self) -> dict[str, Any]:
        """The certificate, as `certificate.json` stores it."""
        return {
            "target": self.target,
            "ok": self.ok,
            "laws": [verdict.to_dict() for verdict in self.laws.values()],
        }

    def summary(self) -> str:
        """``gpt2: 14 laws hold, 0 broken, 1 not applicable (1.3 s)``."""
        counts = dict.fromkeys(("pass", "fail", "not applicable"), 0)
        for verdict in self.laws.values():
            counts[verdict.status] += 1
        hold, broken, rest = counts.values()
        return f"{self.target}: {hold} laws hold, {broken} broken, {rest} not applicable ({self.seconds:.1f} s)"


MARKS: dict[Status, tuple[str, str]] = {
    "pass": ("holds", "green"),
    "fail": ("BROKEN", "bold red"),
    "not applicable": ("-", "dim"),
}


def table(report: Report) -> Table:
    """The report as a table for a terminal."""
    from rich.table import Table
    from rich.text import Text

    drawn = Table(title=f"certificate of {report.target}", title_justify="left", box=None, pad_edge=False)
    drawn.add_column("law", no_wrap=True)
    drawn.add_column("verdict", no_wrap=True)
    drawn.add_column("violation", justify="right", no_wrap=True)
    drawn.add_column("blame, and what was tried")
    for verdict in report.laws.values():
        mark, style = MARKS[verdict.status]
        violation = "" if verdict.violation is None else f"{_number(verdict.violation)} / {_number(verdict.tolerance)}"
        detail = Text(verdict.detail, "" if verdict.status == "fail" else "dim")
        blame = Text(f"{verdict.blame}: " if verdict.blame else "", "bold")
        drawn.add_row(verdict.name, Text(mark, style), violation, blame + detail)
    return drawn


def show(report: Report, console: Console | None = None) -> None:
    """Print the table, the notes and the summary."""
    from rich.console import Console
    from rich.text import Text

    console = console or Console()
    console.print(table(report))
    for line in (*report.notes, report.summary()):
        console.print(Text(line))


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.0f}" if abs(value) < 1e6 and value == int(value) else f"{value:.1e}"
