"""What a comparison of two models found: plain data, its JSON, and a printer."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text


@dataclass(frozen=True)
class Difference:
    """One tensor that differs.

    a, b      its name in either model
    max_abs   the largest difference
    relative  max_abs over the largest value of the two tensors; None where their shapes differ
    where     what is known of the places that differ, or ""
    """

    a: str
    b: str
    max_abs: float | None
    relative: float | None
    where: str = ""

    @property
    def name(self) -> str:
        return self.a if self.a == self.b else f"{self.a} | {self.b}"


@dataclass(frozen=True)
class Compared:
    """Tensors of one kind: how many pairs, how many differ, the first that does (in the order they are computed; gradients
    backwards), and what only one of the models has."""

    pairs: int
    differ: int = 0
    first: Difference | None = None
    only_a: tuple[str, ...] = ()
    only_b: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cause:
    """Why they differ, as far as it was found. `complete`: the models agree once this is undone.

    kind  gelu, epsilon, scale, mask, position, transposed, bias, swapped, weights, equivalent or unknown
    """

    kind: str
    text: str
    complete: bool = False


@dataclass(frozen=True)
class DiffReport:
    """Two models, A and B, on the same input in float64.

    weights   how they compare; `shared` says that B was given A's before running, since its own were freshly drawn
    settings  config fields that differ: name -> (A's, B's)
    agreed    the last activation before the first that differs
    """

    a: str
    b: str
    tolerance: float
    input_shape: tuple[int, int]
    shared: bool
    weights: Compared
    activations: Compared
    logits: Compared
    gradients: Compared
    agreed: str | None = None
    settings: dict[str, tuple[Any, Any]] = dataclasses.field(default_factory=dict)
    causes: tuple[Cause, ...] = ()

    @property
    def same(self) -> bool:
        """Weights, activations, logits and gradients all agree, and neither model has what the other lacks."""
        kinds = (self.weights, self.activations, self.logits, self.gradients)
        return not any(kind.differ or kind.only_a or kind.only_b for kind in kinds)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"same": self.same, **dataclasses.asdict(self)}

    def __rich__(self) -> RenderableType:
        return Group(*_lines(self))


def _lines(report: DiffReport) -> Iterator[RenderableType]:
    given = " (B was given A's weights, drawn at random)" if report.shared else ""
    yield Text(f"A  {report.a}\nB  {report.b}{given}")
    batch, seq = report.input_shape
    yield Text(f"on {batch} x {seq} tokens in float64; a difference is a relative one over {report.tolerance:g}", "dim")
    yield _table(report)
    if report.agreed is not None and report.activations.first is not None:
        yield Text(f"{report.agreed} still agrees")
    for name, (a, b) in report.settings.items():
        yield Text(f"setting {name}: {a!r} in A, {b!r} in B")
    for kind, compared in (("weight", report.weights), ("activation", report.activations)):
        for side, names in (("A", compared.only_a), ("B", compared.only_b)):
            if names:
                yield Text(f"only {side} has {kind} {', '.join(names[:4])}" + (" .." if len(names) > 4 else ""))
    for cause in report.causes:
        yield Text(f"likely cause: {cause.text}", "bold")
    if report.same:
        yield Text("no difference", "bold")


def _table(report: DiffReport) -> Table:
    table = Table(box=None, pad_edge=False)
    for title in ("", "compared", "differ", "first that differs", "max abs", "relative", ""):
        table.add_column(title, justify="right" if title in ("compared", "differ", "max abs", "relative") else "left")
    for kind in ("weights", "activations", "logits", "gradients"):
        compared: Compared = getattr(report, kind)
        first = compared.first
        numbers = ("", "") if first is None else (_number(first.max_abs), _number(first.relative))
        name, where = ("", "") if first is None else (first.name, first.where)
        table.add_row(kind, str(compared.pairs), str(compared.differ), Text(name), *numbers, Text(where))
    return table


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2e}"
