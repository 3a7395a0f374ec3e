"""Rows of whole texts: stretches of documents, framed by the special tokens that a model of whole texts is used with.

What an objective makes of them (masks, pairs, gaps) is drawn from the seed and the step, so that every batch is a pure
function of settings, seed and step, as in :mod:`formers.data.views`. A document's end_of_text is left out: frames say where a
text ends.
"""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from formers.data.batch import PADDING, Batch
from formers.data.packing import Packing, Pieces, cut_pieces, pack
from formers.data.shards import LENGTH, START, Shards
from formers.data.views import View
from formers.errors import ConfigError, DataError, suggest

if TYPE_CHECKING:
    from formers.text.base import Tokenizer
    from formers.text.template import Slot

ROWS = ("windows", "packed", "every")
"""How rows are cut. windows: one stretch a row, from a random place; packed: several whole documents a row; every: each token
in one row, in order, for evaluation."""

PLACES, PACKING = 11, 12
"""Keep the random numbers of these views apart under one seed; every objective has a number of its own."""

Place = tuple[int, int, int]
"""A stretch: which document (of those a view has), its first token, how many."""


@dataclass(frozen=True)
class TextBatch(Batch):
    """Rows of whole texts, padded at their end: a model is always told where they stand. `bytes` is 0.

    GIVEN  the arrays that a model or its loss takes beside those of every batch
    """

    GIVEN: ClassVar[tuple[str, ...]] = ()


@dataclass(frozen=True)
class PairBatch(TextBatch):
    """Rows that hold two segments. token_types: 0 first, 1 second [batch, seq]; pair: a label a row [batch], -100 none."""

    token_types: np.ndarray
    pair: np.ndarray

    GIVEN: ClassVar[tuple[str, ...]] = ("token_types", "pair")


@dataclass(frozen=True)
class SourceBatch(TextBatch):
    """Rows that are written from a source. source_ids, source_index: int64 [batch, source]; an index of -1 is padding.

    input_ids begin with the start token, and targets are what follows: teacher forcing.
    """

    source_ids: np.ndarray
    source_index: np.ndarray

    GIVEN: ClassVar[tuple[str, ...]] = ("source_ids", "source_index")


class Frame:
    """The special tokens around a text and around a pair, from the tokenizer's template, else from what its tokens are for."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.pad = tokenizer.role("pad") or 0
        self.single, self.pair = _slots(tokenizer)

    def added(self, *, pair: bool) -> int:
        """How many tokens the frame adds."""
        return sum(slot.text is None for slot in (self.pair if pair else self.single))

    def around(self, *texts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Ids of a row and their types, int64 [row], of one text or two."""
        slots = self.single if len(texts) == 1 else self.pair
        parts = [np.array([slot.token_id]) if slot.text is None else texts[slot.text] for slot in slots]
        types = [np.full(len(part), slot.type_id) for slot, part in zip(slots, parts, strict=True)]
        return np.concatenate(parts), np.concatenate(types)


def _slots(tokenizer: Tokenizer) -> tuple[Sequence[Slot], Sequence[Slot]]:
    from formers.text.template import BARE, Slot, read

    template, start, end = read(tokenizer.template), tokenizer.role("start"), tokenizer.role("separator")
    if template != BARE or start is None or end is None:
        return template.single, template.pair
    single = (Slot(None, start, 0), Slot(0, None, 0), Slot(None, end, 0))
    return single, (*single, Slot(1, None, 1), Slot(None, end, 1))


def end_of_text(shards: Shards) -> int | None:
    """The id that closes the documents of these shards, whatever the tokenizer was given since."""
    return shards.meta.get("end_of_text", shards.tokenizer.end_of_text)


class Contents:
    """The documents of a split without their end_of_text; those of fewer than `least` tokens are passed over.

    Attributes:
        document: int64 [n], rows of ``shards.documents``.
        length: int64 [n], tokens.
    """

    def __init__(self, shards: Shards, split: str, least: int) -> None:
        self._tokens = shards.tokens
        rows = shards.rows(split)
        start, length = shards.documents[rows, START], shards.documents[rows, LENGTH]
        closed = np.asarray(shards.tokens[start + length - 1]) == end_of_text(shards)
        length = length - closed
        kept = length >= least
        if not kept.any():
            raise DataError(
                f"no document of the {split} split of {shards.folder} has {least} tokens",
                f"at least {least} in one",
                "give more text",
            )
        self.document, self.start, self.length = rows[kept], start[kept], length[kept]
        self._ends = np.cumsum(self.length)

    def __len__(self) -> int:
        return len(self.document)

    @property
    def tokens(self) -> int:
        """Of all documents."""
        return int(self._ends[-1])

    def ids(self, place: Place) -> np.ndarray:
        """int64 [count]: the tokens of a stretch."""
        which, first, count = place
        begin = self.start[which] + first
        return self._tokens[begin : begin + count].astype(np.int64)

    def draw(self, generator: np.random.Generator, longest: int) -> Place:
        """A stretch of `longest` tokens, or a whole document of fewer: a document by its length, in it every place alike."""
        which = int(np.searchsorted(self._ends, generator.integers(self.tokens), side="right"))
        count = min(longest, int(self.length[which]))
        return which, int(generator.integers(int(self.length[which]) - count + 1)), count


class TextView(View):
    """Batches of whole texts of one split. Subclasses say how long a stretch is, and what a batch makes of the stretches.

    Args:
        shards, split, batch_size, seq_len, seed, rank, world: as for every view.
        rows: one of `ROWS`.
    """

    number: ClassVar[int]
    """Keeps the objectives' random numbers apart."""
    least: ClassVar[int] = 1
    """Tokens a document needs."""
    kinds: ClassVar[tuple[str, ...]] = ROWS

    def __init__(self, shards: Shards, *, split: str = "train", rows: str = "windows", **settings: int) -> None:
        super().__init__(shards, split=split, **settings)
        if rows not in self.kinds:
            raise ConfigError(f"{type(self).__name__} with rows {rows!r}", ", ".join(self.kinds), suggest(rows, ROWS))
        self.kind, self.frame = rows, Frame(shards.tokenizer)
        self.contents = Contents(shards, split, self.least)
        if self.longest < self.least:
            raise ConfigError(
                f"seq_len {self.seq_len} leaves {self.longest} tokens of text in a row",
                f"at least {self.least}",
                "set seq_len higher",
            )

    @property
    def longest(self) -> int:
        """Tokens of text that a row has room for."""
        return self.seq_len - self.frame.added(pair=False)

    def __len__(self) -> int:
        """How many batches hold every token once.

        Raises:
            TypeError: rows other than "every" have no end.
        """
        if self.kind != "every":
            raise TypeError(f"{type(self).__name__} with rows={self.kind!r} has no end")
        return -(-len(self._pieces) // self.batch_size)

    def _make(self, step: int) -> Batch:
        places = [self._places(step, row) for row in range(self.batch_size)]
        batch = self.lay(places, self._generator(self.number, step))
        return batch if self.world == 1 else _rows_of(batch, self.rows)

    @abstractmethod
    def lay(self, places: list[list[Place]], generator: np.random.Generator) -> Batch:
        """The batch of these stretches, a list a row; `generator` decides all that is drawn."""

    def _places(self, step: int, row: int) -> list[Place]:
        if self.kind == "windows":
            return [self.contents.draw(self._generator(PLACES, step, row), self.longest)]
        number = step * self.batch_size + row
        if self.kind == "every":
            which = np.arange(number, min(number + 1, len(self._pieces)))
            return _as_places(self._pieces, which)
        epoch, number = divmod(number, self._packed(0).rows)
        packing = self._packed(epoch)
        return _as_places(packing.pieces, np.arange(packing.bounds[number], packing.bounds[number + 1]))

    @cached_property
    def _pieces(self) -> Pieces:
        return cut_pieces(np.arange(len(self.contents)), self.contents.length, self.longest)

    def _packed(self, epoch: int) -> Packing:
        """The epoch's packing, with room for the frames. Two are kept: the first, which says how many rows there are, and
        the last that was asked for."""
        known, added = self._packings, self.frame.added(pair=False)
        if epoch not in known:
            if len(known) == 2:
                del known[max(known)]
            framed = dataclasses.replace(self._pieces, count=self._pieces.count + added)
            packing = pack(framed, self.seq_len, self._generator(PACKING, epoch))
            bare = dataclasses.replace(packing.pieces, count=packing.pieces.count - added)
            known[epoch] = dataclasses.replace(packing, pieces=bare)
        return known[epoch]

    @cached_property
    def _packings(self) -> dict[int, Packing]:
        return {}


def _as_places(pieces: Pieces, which: np.ndarray) -> list[Place]:
    found = zip(pieces.document[which], pieces.first[which], pieces.count[which], strict=True)
    return [(int(document), int(first), int(count)) for document, first, count in found]


def _rows_of(batch: Batch, rows: range) -> Batch:
    """The rows of one rank."""
    arrays = {name: value for name, value in vars(batch).items() if isinstance(value, np.ndarray)}
    return dataclasses.replace(batch, **{name: value[rows.start : rows.stop] for name, value in arrays.items()})


def rectangle(rows: Sequence[np.ndarray], length: int, fill: int) -> np.ndarray:
    """Rows of different lengths as int64 [rows, length], `fill` behind each."""
    out = np.full((len(rows), length), fill, dtype=np.int64)
    for place, row in enumerate(rows):
        out[place, : len(row)] = row
    return out


def counted(rows: Sequence[np.ndarray], length: int) -> np.ndarray:
    """0, 1, .. in every row as far as it goes, then -1: int64 [rows, length]."""
    ends = np.array([len(row) for row in rows])[:, None]
    column = np.arange(length)
    return np.where(column < ends, column, PADDING)
