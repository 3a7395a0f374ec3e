"""Of a model's own keys: what share of the truly nearest its approximate look-ups find, and what both ways of looking take.

The longest validation documents are read, and what a memory layer stores stands in one memory, as many of the newest entries
as a size says. The last queries are asked for all of it. Paper: about 90% of the true neighbours are found (2203.08913, 3.2).
"""

from __future__ import annotations

import collections
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from formers.config import require
from formers.data import Shards
from formers.errors import DataError
from formers.experiments.claims import Verdict
from formers.generation.readers import evaluating
from formers.inspection.lookups import memory_layers
from formers.parts.approximate import Approximate
from formers.parts.masks import EarlierSegment
from formers.parts.memory import Memory
from formers.parts.positions import Positions
from formers.parts.search import Asked, search_exactly
from formers.parts.taps import attach

PIECE = 128
"""Tokens of a document that are read at once."""

SAID = 1 << 17
"""Tokens from one line about the reading to the next."""


@dataclass(frozen=True)
class SearchSettings:
    """sizes: entries, rising. neighbours: of a query. queries: the newest so many of each head. probes: lists that a query
    looks into; 0: as many as find 95%. rounds: of each timing, whose median counts."""

    sizes: tuple[int, ...] = (8192, 65_536, 262_144)
    neighbours: int = 32
    queries: int = 128
    probes: int = 0
    rounds: int = 3

    def __post_init__(self) -> None:
        problems = [f"sizes are {self.sizes}, wanted different ones, rising from 64"] * (
            list(self.sizes) != sorted({size for size in self.sizes if size >= 64}) or not self.sizes
        )
        least = {"neighbours": 1, "queries": 1, "probes": 0, "rounds": 1}
        problems += [
            f"{name} is {getattr(self, name)}, wanted {n} or more"
            for name, n in least.items()
            if getattr(self, name) < n
        ]
        require("SearchSettings", problems)


def search(
    model: Any, shards: Shards, settings: SearchSettings, *, say: Callable[[str], None] = lambda text: None
) -> list[dict[str, Any]]:
    """A row for each size: recall, and milliseconds of a look-up of all queries, exact and approximate. Raises TargetError for
    a model without a memory, DataError where the documents are too short for the smallest size."""
    keys, queries = stored(model, shards, settings.sizes[-1], settings.queries, say=say)
    enough = [size for size in settings.sizes if size <= keys.shape[2]]
    if not enough:
        raise DataError(
            f"the validation documents of {shards.folder} make {keys.shape[2]:,} entries", f"{settings.sizes[0]:,} or more",
            "give more text, or smaller --sizes",
        )  # fmt: skip
    return [_row(keys[:, :, -size:], queries, settings) for size in enough]


@torch.no_grad()
def stored(
    model: Any, shards: Shards, entries: int, queries: int, *, say: Callable[[str], None] = lambda text: None
) -> tuple[Tensor, Tensor]:
    """Keys [1, kv_heads, entries, d] and the queries [1, heads, queries, d] that come last, of the first memory layer."""
    name = next(iter(memory_layers(model)))
    rows = sorted(shards.rows("validation"), key=lambda row: -int(shards.documents[row, 1]))
    keys: list[Tensor] = []
    asked: collections.deque[Tensor] = collections.deque(maxlen=-(-queries // PIECE) + 1)
    listeners: dict[str, Callable[[Tensor], Tensor | None]] = {
        f"{name}.keys": keys.append,
        f"{name}.queries": asked.append,
    }
    read, wanted = 0, entries + queries
    with evaluating(list(model.modules())), attach(model, listeners):
        for row in rows:
            if read == wanted:
                break
            ids = torch.from_numpy(shards.document_tokens(row)).long()[None]
            state = model.init_state(1, ids.shape[1])
            for piece in ids[:, : wanted - read].split(PIECE, 1):
                state = model.body(piece, None, state)[1].commit()
                read += piece.shape[1]
                if read % SAID < piece.shape[1]:
                    say(f"{read:,} tokens of {wanted:,} read")
    last = torch.cat([*asked], 2)[:, :, -queries:]
    return torch.cat(keys, 2)[:, :, : -last.shape[2]][:, :, -entries:], last


def _row(keys: Tensor, queries: Tensor, settings: SearchSettings) -> dict[str, Any]:
    size = keys.shape[2]
    way = Approximate(
        probes=settings.probes or 8, wanted=0.0 if settings.probes else 0.95, least=1, measured_on=queries.shape[2]
    )
    memory = Memory.empty(1, keys.shape[1], size, keys.shape[3], 1, search=way, dtype=keys.dtype)
    memory = memory.add(keys, keys[..., :1], Positions.whole(size))
    asked = Asked(queries, Positions.offset(size, queries.shape[2]), EarlierSegment(size), settings.neighbours)
    began = time.perf_counter()
    way.search(asked, memory.store)
    built, way.measure_every = time.perf_counter() - began, 0
    exact = _milliseconds(lambda: search_exactly(asked, memory.keys, memory.positions), settings.rounds)
    approximate = _milliseconds(lambda: way.search(asked, memory.store), settings.rounds)
    lists = len(memory.built[0].centres[0])
    return {
        "entries": size, "recall": way.recall, "exact_ms": exact, "approximate_ms": approximate, "built_seconds": built,
        "probes": min(way.probes, lists), "lists": lists,
    }  # fmt: skip


def _milliseconds(run: Callable[[], Any], rounds: int) -> float:
    took = []
    for _ in range(rounds):
        began = time.perf_counter()
        run()
        took.append(1000 * (time.perf_counter() - began))
    return statistics.median(took)


def verdict(rows: Sequence[dict[str, Any]], *, wanted: float = 0.9) -> Verdict:
    """Whether so large a share is found at every size, and the largest memory is looked into faster than exactly."""
    least, last = min(row["recall"] for row in rows), rows[-1]
    word = "not reproduced"
    if least >= wanted:
        word = "reproduced" if last["approximate_ms"] < last["exact_ms"] else "smaller effect"
    figures = {
        "least recall": least,
        "times as fast as exact at the largest": last["exact_ms"] / last["approximate_ms"],
        "times as long at the largest as at the smallest": last["approximate_ms"] / rows[0]["approximate_ms"],
    }
    claim = f"approximate look-ups find {wanted:.0%} of the true neighbours, faster than exact ones (section 3.2)"
    return Verdict(claim, word, figures)
