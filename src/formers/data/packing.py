"""Packing pieces of documents into rows of one length, with as little padding as best fit leaves."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Pieces:
    """Stretches of documents: int64 arrays, one entry a piece."""

    document: np.ndarray
    first: np.ndarray
    count: np.ndarray

    def __getitem__(self, which: np.ndarray | slice) -> Pieces:
        return Pieces(self.document[which], self.first[which], self.count[which])

    def __len__(self) -> int:
        return len(self.document)


def cut_pieces(documents: np.ndarray, inputs: np.ndarray, size: int, stride: int | None = None) -> Pieces:
    """Pieces of at most `size` inputs of each document, beginning every `stride` (default: `size`) inputs.

    Args:
        documents, inputs: int64 [n], names and how many inputs each document has.
    """
    stride = size if stride is None else stride
    number = np.where(inputs > 0, 1 + np.maximum(0, -(-(inputs - size) // stride)), 0)
    which = np.arange(number.sum()) - np.repeat(np.cumsum(number) - number, number)
    first = which * stride
    return Pieces(np.repeat(documents, number), first, np.minimum(size, np.repeat(inputs, number) - first))


def best_fit(counts: Iterable[int], size: int) -> list[int]:
    """The row each piece goes to: the one with the least room that still holds it, else a new one. With counts falling
    this is best fit decreasing, whose number of rows depends on the counts alone.

    Args:
        counts: of pieces, each at most `size`.
    """
    rooms: list[int] = []  # the different sizes of room that some row has left, rising
    rows_with: dict[int, list[int]] = {}
    chosen: list[int] = []
    rows = 0
    for count in counts:
        place = bisect_left(rooms, count)
        if place < len(rooms):
            room = rooms[place]
            row = rows_with[room].pop()
            if not rows_with[room]:
                del rooms[place]
        else:
            room, row, rows = size, rows, rows + 1
        if left := room - count:
            same = rows_with.setdefault(left, [])
            if not same:
                insort(rooms, left)
            same.append(row)
        chosen.append(row)
    return chosen


@dataclass(frozen=True)
class Packing:
    """Pieces sorted by row; row r holds pieces bounds[r]..bounds[r+1]-1, each beginning at its column."""

    pieces: Pieces
    column: np.ndarray
    bounds: np.ndarray

    @property
    def rows(self) -> int:
        return len(self.bounds) - 1


def pack(pieces: Pieces, size: int, generator: np.random.Generator) -> Packing:
    """Pieces packed into rows of `size`: best fit decreasing with equal counts shuffled, then the rows shuffled."""
    pieces = pieces[generator.permutation(len(pieces))]
    pieces = pieces[np.argsort(-pieces.count, kind="stable")]
    row = np.array(best_fit(pieces.count.tolist(), size), dtype=np.int64)
    row = generator.permutation(row.max() + 1)[row]
    by_row = np.argsort(row, kind="stable")
    pieces, row = pieces[by_row], row[by_row]
    bounds = np.searchsorted(row, np.arange(row[-1] + 2))
    before = np.cumsum(pieces.count) - pieces.count
    return Packing(pieces, before - before[bounds[:-1]][row], bounds)
