"""Loss against the size of the memory: one model, the same weights, whole documents, read once for each size.

Every document is read from its first token to its last. A step from one size to the next is judged on documents that are
longer than the larger size, by the paired differences of their bits per byte.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import nn

from formers.config import require
from formers.data import Shards
from formers.errors import DataError
from formers.experiments.claims import Interval, Verdict
from formers.experiments.reading import Scores, by_position, change, means, origin, read
from formers.hub import targets

SIZES = (0, 1024, 8192, 65_536, 262_144)


@dataclass(frozen=True)
class SweepSettings:
    """sizes: entries a head, rising. documents: the shortest so many of those that are longer than `longer_than` tokens.
    rows: documents that are read side by side."""

    sizes: tuple[int, ...] = SIZES
    documents: int = 20
    longer_than: int = 65_536
    rows: int = 4

    def __post_init__(self) -> None:
        problems = []
        if len(self.sizes) < 2 or any(b <= a for a, b in pairwise(self.sizes)) or self.sizes[0] < 0:
            problems.append(f"sizes are {self.sizes}, wanted two or more, rising from 0 or more")
        if self.documents < 2 or self.rows < 1:
            problems.append(f"{self.documents} documents in {self.rows} rows, wanted 2 or more in 1 or more")
        require("SweepSettings", problems)


def choose(shards: Shards, settings: SweepSettings) -> list[int]:
    """The documents of the validation split that are read, the shortest first. Raises DataError for fewer than two."""
    lengths = {int(row): int(shards.documents[row, 1]) for row in shards.rows("validation")}
    long = sorted((row for row, n in lengths.items() if n > settings.longer_than), key=lambda row: (lengths[row], row))
    if len(long) < 2:
        raise DataError(
            f"{len(long)} validation documents of {shards.folder} are longer than {settings.longer_than:,} tokens",
            "two or more",
            "give longer documents, or a smaller --longer-than",
        )
    return long[: settings.documents]


def sweep(
    target: str,
    shards: Shards,
    out: Path,
    settings: SweepSettings,
    *,
    say: Callable[[str], None] = lambda text: None,
) -> list[dict[str, Any]]:
    """A row for each size and document: its tokens, bytes and sums of loss by position. Rows that stand in
    out/scores.jsonl are not measured again.

    target  a run or folder of a model with a setting `memory_size`
    say     is told what has been measured
    """
    chosen, scores, made = choose(shards, settings), Scores(out), origin_of(target, shards)
    for size in settings.sizes:
        of = {"size": size}
        todo = scores.missing(chosen, of, made)
        if not todo:
            continue
        model = targets.load(target, dtype=torch.float32, memory_size=size)
        for first in range(0, len(todo), settings.rows):
            group = todo[first : first + settings.rows]
            scores.add(read_documents(model, shards, group), of | made)
            done = len([row for row in scores.rows if row.get("size") == size])
            say(f"memory of {size:,}: {done} of {len(chosen)} documents")
    kept = set(chosen)
    return [row for row in scores.rows if row.get("size") in settings.sizes and row["document"] in kept]


def read_documents(model: nn.Module, shards: Shards, documents: Sequence[int]) -> list[dict[str, Any]]:
    """A row for each document, read whole beside the others: its number, bytes, tokens and sums."""
    scored = read(model, [shards.document_tokens(document) for document in documents])
    facts = [{"document": int(d), "bytes": int(shards.documents[d, 2])} for d in documents]
    return [a | b for a, b in zip(facts, scored, strict=True)]


def origin_of(target: str, shards: Shards) -> dict[str, str]:
    """What scores of a target come of; of the hub's, whose files are fetched later, its name."""
    path = targets.parse(target).path
    return {"weights": target} if path is None else origin(path, shards)


# --- what they say ------------------------------------------------------------------------------------------------------


def step(rows: Sequence[dict[str, Any]], small: int, large: int) -> Interval | None:
    """What the larger memory changes, in bits per byte, on documents longer than it; None for fewer than two of them."""
    longer = [row for row in rows if row["tokens"] > large]
    return change([row for row in longer if row["size"] == small], [row for row in longer if row["size"] == large])


def summarise(rows: Sequence[dict[str, Any]], sizes: Sequence[int]) -> dict[str, Any]:
    """Mean bits per byte at each size, the steps between neighbours, and from none to each."""
    of_size = {size: [row for row in rows if row["size"] == size] for size in sizes}
    steps = [
        {"from": a, "to": b, "interval": step(rows, a, b)}
        for a, b in [*pairwise(sizes), *((sizes[0], size) for size in sizes[2:])]
    ]
    return {
        "means": {size: means(mine) for size, mine in of_size.items()},
        "steps": steps,
        "by_position": {size: by_position(mine) for size, mine in of_size.items()},
    }


def verdict(rows: Sequence[dict[str, Any]], sizes: Sequence[int], *, at: int = 65_536) -> Verdict:
    """Whether loss falls from no memory to one of `at` entries (the largest size where `at` is none of them), and no step
    on the way raises it."""
    at = at if at in sizes else sizes[-1]
    gain = step(rows, sizes[0], at)
    raised = [f"{a:,} to {b:,}" for a, b in pairwise(sizes) if (s := step(rows, a, b)) is not None and s.above]
    fell = gain is not None and gain.below
    word = "reproduced" if fell and not raised else "not reproduced"
    if fell and raised:
        word = "smaller effect"
    figures = {"from": sizes[0], "to": at, "interval": gain, "steps that raise it": raised}
    return Verdict("a larger memory lowers the loss on long documents (section 4.2, table 4)", word, figures)
