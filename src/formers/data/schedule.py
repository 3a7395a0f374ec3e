"""Which document each row of a stream carries at a step: worked out ahead, so that any step can be asked for."""

from __future__ import annotations

import heapq
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator

import numpy as np

IDLE = -1


class Schedule:
    """Documents go one by one to the row that is free first (of several the lowest).

    It is worked out as far as anybody asked and remembered, 16 bytes a document: what it says of a step does not depend
    on the order of asking. A step far ahead costs about a microsecond for each document before it.

    Args:
        segments: int64 [n], how many steps each document takes; documents of 0 are passed over.
        rows: number of rows.
        order: epoch -> the order of the documents.
        epochs: after so many the rows stay idle; None: endless.
    """

    def __init__(
        self, segments: np.ndarray, rows: int, order: Callable[[int], np.ndarray], epochs: int | None = None
    ) -> None:
        self._segments = segments
        self._starts = [array("q") for _ in range(rows)]  # by row: the step at which each of its documents begins
        self._documents = [array("q") for _ in range(rows)]
        self._free = [(0, row) for row in range(rows)]  # a heap of (step, row)
        self._queue = self._in_order(order, epochs)
        self._exhausted = False

    def _in_order(self, order: Callable[[int], np.ndarray], epochs: int | None) -> Iterator[int]:
        epoch = 0
        while epochs is None or epoch < epochs:
            yield from (int(document) for document in order(epoch) if self._segments[document])
            epoch += 1

    def _work_out(self, step: int | None) -> None:
        """Give every row its documents up to and including `step` (None: to the end)."""
        while not self._exhausted and (step is None or self._free[0][0] <= step):
            document = next(self._queue, None)
            if document is None:
                self._exhausted = True
                return
            start, row = self._free[0]
            self._starts[row].append(start)
            self._documents[row].append(document)
            heapq.heapreplace(self._free, (start + int(self._segments[document]), row))

    def at(self, step: int, rows: range) -> tuple[np.ndarray, np.ndarray]:
        """For each of `rows`: the document (-1: idle) and which of its segments, both int64 [rows]."""
        self._work_out(step)
        found = [self._row_at(step, row) for row in rows]
        document, segment = np.array(found, dtype=np.int64).reshape(-1, 2).T
        return document, segment

    def _row_at(self, step: int, row: int) -> tuple[int, int]:
        place = bisect_right(self._starts[row], step) - 1
        if place < 0:
            return IDLE, 0
        document, segment = self._documents[row][place], step - self._starts[row][place]
        return (document, segment) if segment < self._segments[document] else (IDLE, 0)

    @property
    def steps(self) -> int:
        """How many steps until all rows are idle for good; only for a finite number of epochs."""
        self._work_out(None)
        return max(step for step, _ in self._free)
