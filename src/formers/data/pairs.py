"""Pairs of segments with masked tokens: does the second follow (next), or were the two swapped (order)?

    next    next-sentence prediction (BERT, 1810.04805, A.2): half of the rows hold a segment of another document in the place
            of the second. Label 0: it follows, 1: it does not
    order   sentence-order prediction (ALBERT, 1909.11942, 3.1): half of the rows hold the two the other way round. Label 0: as
            written, 1: swapped

A segment is one or more whole sentences. A sentence ends with a token that ends in ``. ! ?`` or a line break; a stretch without
such a token is taken by words, and one of a single word by tokens. Where segments are cut must not give the answer away: the
two ends of both are chosen by the same rule whatever the label, and a segment from elsewhere is as long as the one whose place
it takes, as nearly as its sentences allow.

Departures
- One row in ten is shorter, as in the papers; not in evaluation, where every token stands in one row.
- BERT's code fills the row behind a random segment; here its length does not tell it apart.
"""

from __future__ import annotations

import numpy as np

from formers.data.batch import NO_TARGET, PADDING
from formers.data.masking import SHARE, Letters, masking_of
from formers.data.shards import Shards
from formers.data.texts import PairBatch, Place, TextView, counted, rectangle
from formers.errors import ConfigError, DataError, suggest

PAIRS = ("next", "order")
FOLLOWS = 0
SHORTER = 0.1
"""Share of rows that are shorter than they could be (both papers)."""


class SentencePairs(TextView):
    """Rows of two framed segments with masked tokens: batches are `PairBatch`.

    Args:
        shards: their tokenizer has a mask, a start and a separator (see ``formers.data.equip``).
        rows: "windows" or "every".
        pairs: one of `PAIRS`.
        masking, share: as for `MaskedTokens`.

    Raises:
        DataError: as `MaskedTokens`; a split of one document, for pairs "next".
    """

    number, least, kinds = 14, 2, ("windows", "every")

    def __init__(
        self, shards: Shards, *, pairs: str = "next", masking: str = "tokens", share: float = SHARE, **settings
    ) -> None:
        super().__init__(shards, **settings)
        if pairs not in PAIRS:
            raise ConfigError(f"pairs {pairs!r}", ", ".join(PAIRS), suggest(str(pairs), PAIRS))
        if pairs == "next" and len(self.contents) < 2:
            raise DataError(
                f"the {self.split} split of {shards.folder} is one document",
                "another, for a segment that does not follow",
                "give more documents, or train with --train.objective sentence_order",
            )
        self.pairs, self.masking = pairs, masking_of(shards, masking, share)

    @property
    def longest(self) -> int:
        return self.seq_len - self.frame.added(pair=True)

    def lay(self, places: list[list[Place]], generator: np.random.Generator) -> PairBatch:
        rows, types, labels = [], [], np.full(len(places), NO_TARGET)
        for at, row in enumerate(places):
            framed = np.zeros((2, 0), dtype=np.int64)
            if row and row[0][2] >= 2:
                labels[at] = generator.integers(2)
                framed = self.frame.around(*self._segments(row[0], int(labels[at]), generator))
            rows.append(framed[0])
            types.append(framed[1])
        index = counted(rows, self.seq_len)
        read, targets = self.masking(rectangle(rows, self.seq_len, self.frame.pad), generator)
        document = np.array([self.contents.document[row[0][0]] if row else PADDING for row in places])
        return PairBatch(
            input_ids=read,
            targets=np.where(index < 0, NO_TARGET, targets),
            index=index,
            document=np.where(index < 0, PADDING, document[:, None]),
            fresh=np.ones(len(rows), dtype=bool),
            bytes=0,
            token_types=rectangle(types, self.seq_len, 0),
            pair=labels,
        )

    def _segments(self, place: Place, label: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        if self.kind == "windows" and generator.random() < SHORTER:
            place = place[0], place[1], int(generator.integers(2, place[2] + 1))
        ids = self.contents.ids(place)
        cuts = self._cuts(place, ids)
        middle = int(generator.choice(cuts[1:-1]))
        first, second = ids[cuts[0] : middle], ids[middle : cuts[-1]]
        if label == FOLLOWS:
            return first, second
        if self.pairs == "order":
            return second, first
        return first, self._elsewhere(place[0], len(second), self.longest - len(first), generator)

    def _elsewhere(self, document: int, length: int, most: int, generator: np.random.Generator) -> np.ndarray:
        """A segment of another document, of about `length` tokens and at most `most`."""
        place = self.contents.draw(generator, self.longest)
        while place[0] == document:
            place = self.contents.draw(generator, self.longest)
        ids = self.contents.ids(place)
        cuts = self._cuts(place, ids)
        begins = cuts[:-1][cuts[:-1] + length <= cuts[-1]]
        begin = int(generator.choice(begins)) if len(begins) else int(cuts[0])
        ends = cuts[(cuts > begin) & (cuts <= begin + most)]
        end = ends[np.abs(ends - begin - length).argmin()] if len(ends) else begin + min(length, most)
        return ids[begin : int(end)]

    def _cuts(self, place: Place, ids: np.ndarray) -> np.ndarray:
        """Where segments of a stretch may begin or end, at least three places of 0 .. len(ids)."""
        which, first, count = place
        return cuts(self.masking.letters, ids, first == 0, first + count == int(self.contents.length[which]))


def cuts(letters: Letters, ids: np.ndarray, opens: bool, closes: bool) -> np.ndarray:
    """The ends of sentences in a stretch of two tokens or more: rising places of 0 .. len(ids), at least three.

    opens, closes  whether a document begins, ends with the stretch, and with it a sentence
    """
    inner = letters.stops[ids[:-1]], letters.begins(ids)[1:]
    first, last = int(ids[0]), int(ids[-1])
    before, behind = (opens, opens or letters.opens[first]), (letters.stops[last], letters.closes[last])
    for begin, inside, end in zip(before, inner, behind, strict=True):
        found = np.append(np.insert(inside, 0, begin), closes or end)
        if found.sum() >= 3:
            return np.flatnonzero(found)
    return np.arange(len(ids) + 1)
