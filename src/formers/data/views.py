"""Views: batches of a shard folder, each a pure function of (settings, seed, step), so that resuming needs no cursor.

Every view takes the same settings, gives a :class:`Batch` for any step in any order, and reads only the rows of its
rank: with `world` ranks, rank r has rows r * batch_size / world onwards, and the ranks' batches stacked are the whole
batch. Nothing is ever predicted across documents. In all views but `Windows` a document of n tokens gives n - 1 inputs:
its last token (end_of_text) is only predicted, and its first only read.
"""

from __future__ import annotations

import dataclasses
import operator
from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import cached_property, lru_cache

import numpy as np

from formers.data.batch import Batch, Spans, assemble
from formers.data.packing import Packing, Pieces, cut_pieces, pack
from formers.data.schedule import Schedule
from formers.data.shards import LENGTH, Shards
from formers.errors import DataError

WINDOWS, PACKED, STREAMS = 1, 2, 3  # keep the views' random numbers apart under one seed


class View(ABC):
    """Batches of one split.

    Args:
        shards: an open shard folder.
        split: "train" or "validation".
        batch_size: rows of the batch of all ranks together.
        seq_len: inputs a row.
        seed: decides everything random.
        rank, world: which share of the rows, of how many.

    Raises:
        DataError: a setting out of range, a split without documents, too few tokens.
    """

    def __init__(
        self,
        shards: Shards,
        *,
        split: str = "train",
        batch_size: int,
        seq_len: int,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        _check_settings(batch_size, seq_len, seed, rank, world)
        self.shards, self.split, self.seed = shards, split, seed
        self.batch_size, self.seq_len = batch_size, seq_len
        self.rank, self.world = rank, world
        self.documents = shards.rows(split)
        self.lengths = shards.documents[self.documents, LENGTH]

    @property
    def rows(self) -> range:
        """The rows of the whole batch that this rank has."""
        mine = self.batch_size // self.world
        return range(self.rank * mine, (self.rank + 1) * mine)

    @property
    def inputs(self) -> np.ndarray:
        """int64 [documents]: tokens of each document that have a next one."""
        return self.lengths - 1

    def batch(self, step: int) -> Batch:
        """The batch of a step, counted from 0.

        Raises:
            DataError: a negative step.
        """
        step = operator.index(step)
        if step < 0:
            raise DataError(f"step {step}", "a step from 0 on")
        return self._make(step)

    @abstractmethod
    def _make(self, step: int) -> Batch:
        """The batch of a step that is a number from 0 on."""

    def _all_fresh(self) -> np.ndarray:
        return np.ones(len(self.rows), dtype=bool)

    def _generator(self, *numbers: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, *numbers])


class NextToken(View):
    """Views whose targets are the next tokens."""

    def _make(self, step: int) -> Batch:
        spans, fresh = self._spans(step)
        return assemble(self.shards, spans, fresh, self.seq_len)

    @abstractmethod
    def _spans(self, step: int) -> tuple[Spans, np.ndarray]:
        """What lies in the rows of this rank at `step` (rows counted from 0), and which rows are fresh."""


class Windows(NextToken):
    """Random windows of the split's documents laid end to end: seq_len inputs from a place drawn anew for each row and
    step, every place alike.

    A window may hold the end of one document, its end_of_text and the next document's beginning. The end_of_text
    predicts nothing: the first token of the next document is not a target. `index` restarts at 0 with each document and
    at the window's edge, since the row is all that a model sees; `document` lets a mask keep documents apart. Every row
    is fresh.
    """

    def __init__(self, shards: Shards, *, split: str = "train", **settings: int) -> None:
        super().__init__(shards, split=split, **settings)
        self._ends = np.cumsum(self.lengths)
        if self.tokens < self.seq_len:
            raise DataError(
                f"the {split} split of {shards.folder} has {self.tokens:,} tokens",
                f"at least seq_len = {self.seq_len:,} for one window",
                "give more text, or shorten seq_len",
            )

    @property
    def tokens(self) -> int:
        """How many tokens the split has."""
        return int(self._ends[-1])

    def _spans(self, step: int) -> tuple[Spans, np.ndarray]:
        starts = self._generator(WINDOWS, step).integers(0, self.tokens - self.seq_len + 1, size=self.batch_size)
        starts = starts[self.rows.start : self.rows.stop]
        stops = starts + self.seq_len
        opens = np.searchsorted(self._ends, starts, side="right")  # the document each window begins in, and ends in
        closes = np.searchsorted(self._ends, stops - 1, side="right")
        number = closes - opens + 1
        row = np.repeat(np.arange(len(starts)), number)
        which = np.arange(number.sum()) - np.repeat(np.cumsum(number) - number, number) + opens[row]
        begins = self._ends[which] - self.lengths[which]
        start, stop = np.maximum(begins, starts[row]), np.minimum(self._ends[which], stops[row])
        spans = Spans.of(
            row=row,
            column=start - starts[row],
            document=self.documents[which],
            first=start - begins,
            count=stop - start,
        )
        return spans, self._all_fresh()


class Finite(NextToken):
    """A view that goes through the split once, or some times over, if `epochs` says so."""

    epochs: int | None

    @abstractmethod
    def _steps(self) -> int: ...

    def __len__(self) -> int:
        """How many batches there are; behind them all is padding.

        Raises:
            TypeError: without `epochs` there is no end.
        """
        if self.epochs is None:
            raise TypeError(f"{type(self).__name__} without epochs= has no end")
        return self._steps()

    def __iter__(self) -> Iterator[Batch]:
        return (self.batch(step) for step in range(len(self)))


class Packed(Finite):
    """Several documents a row. Each is whole if it has at most seq_len inputs, else cut into pieces of seq_len and a
    rest.

    Rows are filled by best fit decreasing and shuffled, anew each epoch; each epoch every pair of token and next token
    comes exactly once. A piece counts as a document of its own: `index` restarts at 0 with it (and a row never holds
    two pieces of one document). A mask that keeps documents apart is the model's business. Every row is fresh.

    Args:
        epochs: after so many, padding (then ``len`` is known); None: endless.
    """

    def __init__(self, shards: Shards, *, split: str = "train", epochs: int | None = None, **settings: int) -> None:
        super().__init__(shards, split=split, **settings)
        self.epochs = _check_epochs(epochs)
        self._pieces = cut_pieces(self.documents, self.inputs, self.seq_len)
        _check_inputs(self)
        self._packing = lru_cache(maxsize=2)(self._pack)  # a batch touches two epochs at most, or all of a tiny split

    def _pack(self, epoch: int) -> Packing:
        return pack(self._pieces, self.seq_len, self._generator(PACKED, epoch))

    @cached_property
    def rows_per_epoch(self) -> int:
        """How many rows an epoch fills; the same in each."""
        return self._packing(0).rows

    def _steps(self) -> int:
        return -(-self.rows_per_epoch * (self.epochs or 0) // self.batch_size)

    def _spans(self, step: int) -> tuple[Spans, np.ndarray]:
        places = [self._row(step * self.batch_size + row) for row in self.rows]
        row = np.repeat(np.arange(len(places)), [len(pieces) for pieces, _ in places])
        document, first, count = (
            np.concatenate([getattr(pieces, name) for pieces, _ in places]) for name in ("document", "first", "count")
        )
        column = np.concatenate([column for _, column in places])
        return Spans.of(row=row, column=column, document=document, first=first, count=count), self._all_fresh()

    def _row(self, number: int) -> tuple[Pieces, np.ndarray]:
        """The pieces of a row, counted through all epochs, and their columns."""
        epoch, row = divmod(number, self.rows_per_epoch)
        if self.epochs is not None and epoch >= self.epochs:
            return self._pieces[:0], np.zeros(0, dtype=np.int64)
        packing = self._packing(epoch)
        which = slice(packing.bounds[row], packing.bounds[row + 1])
        return packing.pieces[which], packing.column[which]


class Streams(Finite):
    """Each row carries a document on in order, seq_len inputs a step, then the next: for models with a state.

    Documents are shuffled anew each epoch and go, in that order, to the row that is free first, so no row waits and an
    epoch has no edge. A document begins at column 0 with `fresh` True; its last segment is padded at its end. `index`
    is the true place in the document and may be far beyond any position table (see ``Batch.place``).

    Few rows that read long documents for hundreds of steps make batches that are all alike: the weights follow these few
    documents and forget the others. With `longest` a row goes on to another document after so many inputs; the rest is
    read on its own at another time, as if it began there.

    Args:
        epochs: after so many, padding (then ``len`` is known); None: endless.
        longest: inputs of a document that are read in one go; None: all.
    """

    def __init__(
        self,
        shards: Shards,
        *,
        split: str = "train",
        epochs: int | None = None,
        longest: int | None = None,
        **settings: int,
    ) -> None:
        super().__init__(shards, split=split, **settings)
        self.epochs = _check_epochs(epochs)
        _check_inputs(self)
        if longest is not None and longest < 1:
            raise DataError(f"longest {longest}", "1 or more inputs, or None for whole documents")
        self._pieces = cut_pieces(self.documents, self.inputs, longest or int(self.inputs.max()))
        self._schedule = Schedule(-(-self._pieces.count // self.seq_len), self.batch_size, self._order, self.epochs)

    def _order(self, epoch: int) -> np.ndarray:
        return self._generator(STREAMS, epoch).permutation(len(self._pieces))

    def _steps(self) -> int:
        return self._schedule.steps

    def _spans(self, step: int) -> tuple[Spans, np.ndarray]:
        which, segment = self._schedule.at(step, self.rows)
        row = np.flatnonzero(which >= 0)
        pieces, index = self._pieces[which[row]], segment[row] * self.seq_len
        count = np.minimum(self.seq_len, pieces.count - index)
        spans = Spans.of(row=row, document=pieces.document, first=pieces.first + index, count=count, index=index)
        return spans, segment == 0

    def _make(self, step: int) -> Batch:
        return dataclasses.replace(super()._make(step), aligned=self.seq_len)


class Sequential(Streams):
    """For evaluation: every token that has one before it in its document is scored exactly once, in ``len(view)``
    batches.

    Without `stride`, documents go in order (not shuffled) to the row that is free first and are carried on as in
    :class:`Streams`: for models with a state. With `stride`, every row stands for itself: windows of seq_len that begin
    every `stride` inputs and score only what the window before did not, so that each scored token but the document's
    first ones sees at least seq_len - stride tokens before it. `stride=seq_len` costs least; smaller ones cost seq_len
    / stride as much. `index` is the true place in the document in both; rows and tails without tokens are padded.
    """

    def __init__(
        self, shards: Shards, *, split: str = "validation", stride: int | None = None, **settings: int
    ) -> None:
        super().__init__(shards, split=split, epochs=1, **settings)
        self.stride = stride
        if stride is not None and not 1 <= stride <= self.seq_len:
            raise DataError(f"stride {stride}", f"1 to seq_len = {self.seq_len}, or none to carry documents on")
        self._windows = None if stride is None else cut_pieces(self.documents, self.inputs, self.seq_len, stride)

    def _order(self, epoch: int) -> np.ndarray:
        return np.arange(len(self._pieces))

    def _steps(self) -> int:
        return super()._steps() if self._windows is None else -(-len(self._windows) // self.batch_size)

    def _make(self, step: int) -> Batch:
        batch = super()._make(step)
        return batch if self.stride is None else dataclasses.replace(batch, aligned=None)

    def _spans(self, step: int) -> tuple[Spans, np.ndarray]:
        if self._windows is None or self.stride is None:
            return super()._spans(step)
        begin = step * self.batch_size
        here = self._windows[begin + self.rows.start : begin + self.rows.stop]
        seen = np.where(here.first > 0, self.seq_len - self.stride, 0)
        spans = Spans.of(
            row=np.arange(len(here)),
            document=here.document,
            first=here.first,
            count=here.count,
            index=here.first,
            scored_from=seen,
        )
        return spans, self._all_fresh()


def _check_settings(batch_size: int, seq_len: int, seed: int, rank: int, world: int) -> None:
    if batch_size < 1 or seq_len < 1 or seed < 0:
        raise DataError(
            f"batch_size {batch_size}, seq_len {seq_len}, seed {seed}", "batch_size and seq_len from 1, seed from 0"
        )
    if not 0 <= rank < world or batch_size % world:
        raise DataError(
            f"rank {rank} of {world} for a batch of {batch_size} rows",
            "a rank below world, and a batch_size that world divides",
            f"set batch_size to {-(-batch_size // max(world, 1)) * max(world, 1)}",
        )


def _check_epochs(epochs: int | None) -> int | None:
    if epochs is not None and epochs < 1:
        raise DataError(f"epochs {epochs}", "1 or more, or None for no end")
    return epochs


def _check_inputs(view: View) -> None:
    if not (view.inputs > 0).any():
        raise DataError(
            f"no document of the {view.split} split has two tokens", "at least one token and its next", "give more text"
        )
