"""One model under a grid of settings that take no new weights: what each buys on whole documents, and what it costs.

A longer window beside a larger memory, or more neighbours: ``{"cache_length": (128, 512), "memory_size": (0, 8192)}``.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from formers.config import require
from formers.data import Shards
from formers.experiments.contest import TRAIN, costs
from formers.experiments.memory_size import SweepSettings, choose, origin_of, read_documents
from formers.experiments.reading import LENGTH, Scores, change, means
from formers.hub import targets
from formers.inspection.anatomy import cost

Cell = dict[str, Any]
"""A setting's name -> its value."""


@dataclass(frozen=True)
class GridSettings:
    """vary: values of each setting. documents, longer_than: as of SweepSettings. rows: documents that are read side by side."""

    vary: Mapping[str, tuple[Any, ...]]
    documents: int = 8
    longer_than: int = 16_384
    rows: int = 4

    def __post_init__(self) -> None:
        problems = [
            f"{name} has values {values}, wanted different ones"
            for name, values in self.vary.items()
            if any(a == b for a, b in itertools.combinations(values, 2))
        ]
        if not any(len(values) > 1 for values in self.vary.values()):
            problems.append(f"{dict(self.vary)} are settings that vary, wanted one or more with two values or more")
        require("GridSettings", problems)

    def cells(self) -> list[Cell]:
        """Every combination, the last setting changing fastest."""
        return [dict(zip(self.vary, values, strict=True)) for values in itertools.product(*self.vary.values())]


def measure(
    target: str,
    shards: Shards,
    out: Path,
    settings: GridSettings,
    *,
    say: Callable[[str], None] = lambda text: None,
) -> list[dict[str, Any]]:
    """A row for each cell and document: its tokens, bytes, sums of loss, and the seconds of reading it. Rows that stand in
    out/scores.jsonl are not measured again. Raises ConfigError for a cell that the model cannot be, before anything is read."""
    chosen = choose(shards, SweepSettings(documents=settings.documents, longer_than=settings.longer_than))
    scores, made = Scores(out), origin_of(target, shards)
    for cell in settings.cells():
        targets.load(target, **cell)
    for cell in settings.cells():
        todo = scores.missing(chosen, {"cell": cell}, made)
        model = targets.load(target, dtype=torch.float32, **cell) if todo else None
        for first in range(0, len(todo), settings.rows):
            group = todo[first : first + settings.rows]
            assert model is not None
            scores.add(_timed(model, shards, group), {"cell": cell} | made)
            say(f"{words(cell)}: {min(first + settings.rows, len(todo))} of {len(todo)} documents")
    kept, cells = set(chosen), settings.cells()
    return [row for row in scores.rows if row.get("cell") in cells and row["document"] in kept]


def _timed(model: Any, shards: Shards, documents: Sequence[int]) -> list[dict[str, Any]]:
    began = time.perf_counter()
    rows = read_documents(model, shards, documents)
    each = (time.perf_counter() - began) / sum(row["tokens"] for row in rows)
    return [row | {"seconds": each * row["tokens"]} for row in rows]


def words(cell: Cell) -> str:
    """memory_size 8,192, neighbours 32."""
    return ", ".join(
        f"{name} {value:,}" if isinstance(value, int) else f"{name} {value}" for name, value in cell.items()
    )


def summarise(target: str, rows: Sequence[dict[str, Any]], settings: GridSettings) -> list[dict[str, Any]]:
    """For each cell: bits per byte, what it changes from the first cell (95%, paired over documents), the share of tokens that
    were the likeliest, operations of reading a token, seconds of it, and bytes of cache and memory when full."""
    cells = settings.cells()
    of = {words(cell): [row for row in rows if row["cell"] == cell] for cell in cells}
    first = of[words(cells[0])]
    return [
        {
            "settings": cell,
            **means(mine),
            "change": None if mine is first else change(first, mine),
            "seconds": sum(row["seconds"] for row in mine) / sum(row["tokens"] for row in mine),
            **_costs(target, cell),
        }
        for cell in cells
        for mine in [of[words(cell)]]
    ]


def _costs(target: str, cell: Cell) -> dict[str, int]:
    """Counted in calls as the documents are read in."""
    model = targets.load(target, dtype=torch.float32, **cell)
    found, looked_up = costs(model, LENGTH), sum(held.look_up_per_token for held in cost(model).memories)
    operations = (found["operations"] - looked_up) // TRAIN + looked_up
    return {"operations": operations, "state_bytes": found["state_bytes"]}
