"""Span corruption: stretches of a text become sentinels, and the target says what stood there (T5, 1910.10683, 3.1.4).

    source  Thank you <extra_id_0> me to your party <extra_id_1> week </s>
    target  <extra_id_0> for inviting <extra_id_1> last <extra_id_2> </s>

15% of the tokens in spans of 3 on average; every division of the number into that many spans is as likely as any other, and so
is every way to place them with a token between two of them. The stretch of text is as long as it takes for source and target
to fill their rows exactly; `sizes` is that arithmetic.

Departures
- The target ends with a sentinel of its own before </s>, as in the paper's figure 2; the authors' code leaves it out.
- A text may begin with a span and need not end with one; in the authors' code it always ends with one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from formers.data.batch import NO_TARGET, PADDING
from formers.data.masking import SHARE
from formers.data.shards import Shards
from formers.data.texts import Place, SourceBatch, TextView, counted, rectangle
from formers.errors import ConfigError, DataError

MEAN_SPAN = 3.0


@dataclass(frozen=True)
class Corruption:
    """Which tokens a text loses. share: of its tokens; mean_span: tokens of a span, on average."""

    share: float = SHARE
    mean_span: float = MEAN_SPAN

    def __post_init__(self) -> None:
        if not (0 < self.share < 1 and self.mean_span >= 1):
            raise ConfigError(
                f"a share of {self.share} in spans of {self.mean_span}",
                "a share between 0 and 1 and spans of at least 1",
            )

    def numbers(self, length: int) -> tuple[int, int]:
        """Of a text of `length` tokens: how many are lost (at least one), and in how many spans."""
        lost = min(max(1, round(self.share * length)), length)
        spans = max(1, round(lost / self.mean_span))
        return lost, min(spans, lost, length - lost + 1)

    def sizes(self, length: int) -> tuple[int, int]:
        """Tokens of source and target, their sentinels and end tokens included."""
        lost, spans = self.numbers(length)
        return length - lost + spans + 1, lost + spans + 2

    def longest(self, source: int) -> int:
        """The longest text whose source has at most `source` tokens; 0 where there is none."""
        fitting = [length for length in range(1, 4 * source + 8) if self.sizes(length)[0] <= source]
        return max(fitting, default=0)

    def spans(self, length: int, generator: np.random.Generator) -> np.ndarray:
        """int64 [spans, 2]: where each span begins and ends; between two of them stands at least one token."""
        lost, number = self.numbers(length)
        lengths = divided(lost, number, generator)
        gaps = divided(length - lost + 2, number + 1, generator)
        gaps[[0, -1]] -= 1  # before the first and behind the last there may be nothing
        begins = np.cumsum(gaps[:-1]) + np.cumsum(lengths) - lengths
        return np.stack([begins, begins + lengths], axis=1)


def divided(total: int, parts: int, generator: np.random.Generator) -> np.ndarray:
    """int64 [parts], each at least 1, that add up to `total`: every such division alike."""
    edges = np.sort(generator.choice(total - 1, size=parts - 1, replace=False)) + 1
    return np.diff(edges, prepend=0, append=total)


def corrupt(
    ids: np.ndarray, spans: np.ndarray, sentinels: np.ndarray, end: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Source and target of a text, int64 each. sentinels: the ids of <extra_id_0>, .., at least one more than spans."""
    source, target, at = [], [], 0
    for sentinel, (begin, stop) in zip(sentinels, spans, strict=False):
        source += [ids[at:begin], [sentinel]]
        target += [[sentinel], ids[begin:stop]]
        at = stop
    closing = [] if end is None else [end]
    parts = ([*source, ids[at:], closing], [*target, [sentinels[len(spans)]], closing])
    whole = [np.concatenate([np.asarray(part, dtype=np.int64) for part in some]) for some in parts]
    return whole[0], whole[1]


def restore(source: np.ndarray, target: np.ndarray, sentinels: np.ndarray, end: int | None) -> np.ndarray:
    """The text that a source and a target were made of: every sentinel of the source becomes what the target says of it.

    A sentinel that the target does not speak of stays.
    """
    known = {int(sentinel) for sentinel in sentinels}
    said: dict[int, list[int]] = {}
    spoken: list[int] = []
    for token in (int(token) for token in target if token != end):
        if token in known:
            spoken = said.setdefault(token, [])
        else:
            spoken.append(token)
    out: list[int] = []
    for token in (int(token) for token in source if token != end):
        out += said.get(token, [token]) if token in known else [token]
    return np.array(out, dtype=np.int64)


class SpanCorruption(TextView):
    """Rows of sources of `seq_len` tokens and targets of `target_len`: batches are `SourceBatch`.

    Args:
        shards: their tokenizer has sentinels and padding (see ``formers.data.equip``).
        rows: "windows" or "every".
        share, mean_span: as for `Corruption`.

    Raises:
        DataError: too few sentinels, a split without text.
    """

    number, kinds = 15, ("windows", "every")

    def __init__(self, shards: Shards, *, share: float = SHARE, mean_span: float = MEAN_SPAN, **settings) -> None:
        from formers.text.extend import sentinels

        self.corruption = Corruption(share, mean_span)
        super().__init__(shards, **settings)
        tokenizer = shards.tokenizer
        self.sentinels = np.array(sentinels(tokenizer), dtype=np.int64)
        self.start, self.end = tokenizer.role("pad"), tokenizer.end_of_text
        needed = self.corruption.numbers(self.longest)[1] + 1
        if self.start is None or len(self.sentinels) < needed:
            raise DataError(
                f"the tokenizer of {shards.folder} has {len(self.sentinels)} sentinels and "
                f"{'no' if self.start is None else 'a'} padding",
                f"padding, and {needed} sentinels (<extra_id_0>, ..) for texts of {self.longest} tokens",
                "open the shards with formers.data.equip(shards, 'span_corruption'), or set seq_len lower",
            )

    @cached_property
    def longest(self) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self.corruption.longest(self.seq_len)

    @cached_property
    def target_len(self) -> int:
        """Tokens of a row's target: of the longest text."""
        return self.corruption.sizes(self.longest)[1]

    def lay(self, places: list[list[Place]], generator: np.random.Generator) -> SourceBatch:
        rows = [self._row(self.contents.ids(row[0]), generator) if row else (_NOTHING, _NOTHING) for row in places]
        document = [self.contents.document[row[0][0]] if row else PADDING for row in places]
        assert self.start is not None
        return forced(rows, document, self.seq_len, self.target_len, self.start)

    def _row(self, ids: np.ndarray, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        return corrupt(ids, self.corruption.spans(len(ids), generator), self.sentinels, self.end)


_NOTHING = np.zeros(0, dtype=np.int64)


def forced(
    rows: list[tuple[np.ndarray, np.ndarray]], document: list[int], source_len: int, target_len: int, start: int
) -> SourceBatch:
    """The batch of (source, target) rows: the decoder reads the target one token later, `start` first (teacher forcing)."""
    sources, targets = [row[0] for row in rows], [row[1] for row in rows]
    index = counted(targets, target_len)
    said = rectangle(targets, target_len, NO_TARGET)
    read = np.where(index < 0, start, np.roll(said, 1, axis=1))
    read[:, 0] = start
    return SourceBatch(
        input_ids=read,
        targets=said,
        index=index,
        document=np.where(index < 0, PADDING, np.array(document)[:, None]),
        fresh=np.ones(len(rows), dtype=bool),
        bytes=0,
        source_ids=rectangle(sources, source_len, start),
        source_index=counted(sources, source_len),
    )
