"""Whole documents, read from the first token to the last, with what every token cost."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from formers.data import Shards
from formers.data.batch import NO_TARGET
from formers.errors import DataError, RunError
from formers.experiments.claims import Interval, paired
from formers.experiments.ranks import Ranked, Sums
from formers.files import write_atomic
from formers.training.evaluate import evaluating
from formers.training.precision import freed_memory_kept

LENGTH = 128
"""Tokens a call: a long call over a short cache scores many pairs that no query sees (512 is a third slower)."""


def read(model: nn.Module, texts: Sequence[np.ndarray], *, device: str = "cpu") -> list[dict[str, Any]]:
    """Score texts side by side, each with a memory or cache of its own: of each its tokens that have one before them, the
    sum of their losses in nats, how many were the likeliest or among the five likeliest, and loss and number by place in the
    text.

    texts  tokens, int64 [length] each
    """
    longest = max(map(len, texts)) - 1
    objective, sums = Ranked(model), Sums(len(texts))
    with evaluating(objective), freed_memory_kept(device):
        state = model.init_state(len(texts), longest, device=device)  # type: ignore[operator]
        for ids, wanted, index in _calls(texts, longest):
            given = (torch.from_numpy(each).to(device) for each in (ids, wanted, index))
            losses, ranks, staged = objective(*given, None, state, scores=True, aligned=LENGTH)
            state = staged.commit()
            sums.add(range(len(texts)), losses, ranks, wanted, index)
    return sums.rows(texts)


def _calls(texts: Sequence[np.ndarray], longest: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """ids, targets and index [rows, LENGTH] call by call; -1 and -100 beyond a text's end."""
    for start in range(0, longest, LENGTH):
        ids = np.zeros((len(texts), LENGTH), dtype=np.int64)
        wanted, index = np.full_like(ids, NO_TARGET), np.full_like(ids, -1)
        for row, text in enumerate(texts):
            n = max(0, min(LENGTH, len(text) - 1 - start))
            ids[row, :n], wanted[row, :n] = text[start : start + n], text[start + 1 : start + 1 + n]
            index[row, :n] = np.arange(start, start + n)
        yield ids, wanted, index


# --- rows of documents, kept as they are measured -------------------------------------------------------------------------


class Scores:
    """Rows in out/scores.jsonl, each what one reader, told by some names (`of`), made of one document.

    `made` says by what: the weights and the text (`origin`). Rows of the same names that were made by others are forgotten
    and measured anew; rows of before, which do not say, are taken as they are.
    """

    def __init__(self, out: Path) -> None:
        self.file = out / "scores.jsonl"
        try:
            lines = self.file.read_text().splitlines() if self.file.is_file() else []
            self.rows: list[dict[str, Any]] = [json.loads(line) for line in lines]
        except ValueError as error:
            raise damaged(self.file, error) from None

    def missing(self, documents: Sequence[int], of: Mapping[str, Any], made: Mapping[str, Any]) -> list[int]:
        """The documents that this reader has no row of."""
        mine = [row for row in self.rows if all(row.get(name) == value for name, value in of.items())]
        stale = [id(row) for row in mine if any(row.get(name, value) != value for name, value in made.items())]
        self.rows = [row for row in self.rows if id(row) not in stale]
        done = {row["document"] for row in mine if id(row) not in stale}
        return [document for document in documents if document not in done]

    def add(self, rows: Sequence[Mapping[str, Any]], of: Mapping[str, Any]) -> None:
        """The rows of a reader; they are on the disk when this returns."""
        self.rows += [{**of, **row} for row in rows]
        write_atomic(self.file, "".join(json.dumps(row) + "\n" for row in self.rows).encode())


def damaged(file: Path, error: ValueError) -> RunError:
    """Of a file of what was measured before."""
    return RunError(f"{file} is damaged ({error})", "what was measured before", f"remove {file}: it is measured again")


def origin(model: Path, shards: Shards | None = None) -> dict[str, str]:
    """What scores come of: the weights of a run or model folder, and the text, whose documents are known by number."""
    of_the_model = [*model.glob("*.safetensors"), *model.glob("model/*.safetensors")]
    files = sorted(of_the_model or model.rglob("*.safetensors"))  # of a run that has not ended: its checkpoints
    digest = hashlib.sha256(b"".join(hashlib.sha256(file.read_bytes()).digest() for file in files)).hexdigest()
    return {"weights": digest[:16]} | ({} if shards is None else {"text": shards.fingerprint[:16]})


# --- what rows say ------------------------------------------------------------------------------------------------------


def bits_per_byte(row: Mapping[str, Any]) -> float:
    """Of a row that `read` gave, with the bytes of its text beside it."""
    return row["loss"] / math.log(2) / row["bytes"]


def change(before: Sequence[Mapping[str, Any]], after: Sequence[Mapping[str, Any]]) -> Interval | None:
    """What `after` changes in bits per byte, document by document; None for fewer than two documents that both read."""
    first, second = ({row["document"]: bits_per_byte(row) for row in rows} for rows in (before, after))
    both = sorted(first.keys() & second.keys())
    return paired([second[d] for d in both], [first[d] for d in both]) if len(both) > 1 else None


def by_position(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Loss in nats a token by place in the document, over all documents."""
    total: dict[int, list[float]] = {}
    for row in rows:
        for start, loss, count in row["by_position"]:
            entry = total.setdefault(start, [0.0, 0.0])
            entry[0] += loss
            entry[1] += count
    return [{"start": s, "loss": loss / n, "count": int(n)} for s, (loss, n) in sorted(total.items())]


def means(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Over documents: bits per byte (each document counts alike), and the share of tokens that were the likeliest."""
    if not rows:
        raise DataError("no document was read", "one or more")
    each = [bits_per_byte(row) for row in rows]
    hits, tokens = sum(row["right"] for row in rows), sum(row["tokens"] for row in rows)
    return {"bits_per_byte": sum(each) / len(each), "accuracy": hits / tokens, "documents": len(rows)}
