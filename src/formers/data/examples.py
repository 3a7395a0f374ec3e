"""Labelled texts as rows: an example is a framed text with labels at some of its tokens, and rows hold several of them.

A text's own label stands at its first token. Examples in a row do not see each other, so packing changes no answer and
wastes little on padding. Batches are pure functions of examples, seed and step, as in :mod:`formers.data.views`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from formers.data.batch import NO_TARGET, PADDING
from formers.data.packing import Packing, Pieces, pack
from formers.data.texts import Frame, TextBatch
from formers.errors import DataError
from formers.text.base import Tokenizer

ORDER = 17  # keeps these random numbers apart


@dataclass(frozen=True)
class Example:
    """Tokens and labels of a text, int64 [tokens]; a label of -100 is none."""

    ids: np.ndarray
    labels: np.ndarray


def of_text(tokenizer: Tokenizer, text: str, label: int, most: int) -> Example:
    """A text with one label, its end cut off where the frame and it are more than `most` tokens."""
    frame = Frame(tokenizer)
    ids, _ = frame.around(np.array(tokenizer.encode(text)[: most - frame.added(pair=False)], dtype=np.int64))
    labels = np.full(len(ids), NO_TARGET)
    labels[0] = label
    return Example(ids, labels)


def of_words(
    tokenizer: Tokenizer, words: Sequence[str], labels: Sequence[int], most: int
) -> list[tuple[Example, list[int]]]:
    """Words with a label each, which stands at the first token of the word: examples, and the places of the words that each
    labels. Several where one would have more than `most` tokens; a word that the tokenizer drops is in none.
    """
    frame, room = Frame(tokenizer), most - Frame(tokenizer).added(pair=False)
    found: list[tuple[Example, list[int]]] = []
    ids: list[int] = []
    marks: list[int] = []
    places: list[int] = []

    def close() -> None:
        if places:
            found.append((_framed(frame, ids, marks), list(places)))
        for some in (ids, marks, places):
            some.clear()

    for place, pieces in word_pieces(tokenizer, words):
        if len(ids) + len(pieces) > room:
            close()
        ids += pieces[:room]
        marks += [labels[place], *[NO_TARGET] * (len(pieces[:room]) - 1)]
        places.append(place)
    close()
    return found


def _framed(frame: Frame, ids: list[int], marks: list[int]) -> Example:
    framed, _ = frame.around(np.array(ids, dtype=np.int64))
    bare, _ = frame.around(np.arange(len(ids)) - len(ids))  # special tokens are 0 and more
    labels = np.full(len(framed), NO_TARGET)
    labels[bare < 0] = marks
    return Example(framed, labels)


def word_pieces(tokenizer: Tokenizer, words: Sequence[str]) -> Iterator[tuple[int, list[int]]]:
    """Place and tokens of each word, as the tokenizer cuts the words with spaces between them."""
    text, ends = " ".join(words), np.cumsum([len(word) + 1 for word in words])
    ids, spans = tokenizer.encode_offsets(text)
    pieces: dict[int, list[int]] = {}
    for token, (start, end) in zip(ids, spans, strict=True):
        if text[start:end].strip():
            pieces.setdefault(int(np.searchsorted(ends, end - 1, side="right")), []).append(token)
    yield from sorted(pieces.items())


class LabelledRows:
    """Batches of examples, packed into rows of `seq_len`: every example once an epoch, in rows drawn for it.

    Args:
        examples: each of at most `seq_len` tokens.
        every: each example in one row, once, for evaluation; a batch behind the end is padding.

    Raises:
        DataError: no examples, or one that is too long.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        tokenizer: Tokenizer,
        *,
        batch_size: int,
        seq_len: int,
        seed: int = 0,
        every: bool = False,
    ) -> None:
        self.examples, self.batch_size, self.seq_len, self.seed = examples, batch_size, seq_len, seed
        self.every, self.pad = every, tokenizer.role("pad") or 0
        self.lengths = np.array([len(example.ids) for example in examples], dtype=np.int64)
        if not len(examples) or int(self.lengths.max()) > seq_len:
            found = f"examples of up to {self.lengths.max()} tokens" if len(examples) else "no examples"
            raise DataError(found, f"one or more, each of at most {seq_len} tokens")
        pieces = Pieces(np.arange(len(examples)), np.zeros(len(examples), dtype=np.int64), self.lengths)

        def packed(epoch: int) -> Packing:
            return pack(pieces, seq_len, np.random.default_rng([seed, ORDER, epoch]))

        self._packed = lru_cache(maxsize=2)(packed)
        self.rows = packed(0).rows  # depends on the lengths alone: every epoch has as many

    def __len__(self) -> int:
        """How many batches hold every example once.

        Raises:
            TypeError: rows to train on have no end.
        """
        if not self.every:
            raise TypeError("rows to train on have no end")
        return -(-self.rows // self.batch_size)

    def batch(self, step: int) -> TextBatch:
        """Batch number `step`, from 0. `document` says which example a token is of."""
        shape = self.batch_size, self.seq_len
        ids, targets = np.full(shape, self.pad), np.full(shape, NO_TARGET)
        index, document = np.full(shape, PADDING), np.full(shape, PADDING)
        for row in range(self.batch_size):
            at = 0
            for number in self._of_row(step * self.batch_size + row):
                example = self.examples[number]
                here = slice(at, at := at + len(example.ids))
                ids[row, here], targets[row, here] = example.ids, example.labels
                index[row, here], document[row, here] = np.arange(len(example.ids)), number
        return TextBatch(ids, targets, index, document, np.ones(self.batch_size, dtype=bool), 0)

    def _of_row(self, number: int) -> list[int]:
        """The examples of a row counted through all epochs."""
        epoch, number = divmod(number, self.rows)
        if self.every and epoch:
            return []
        packing = self._packed(epoch)
        return packing.pieces.document[packing.bounds[number] : packing.bounds[number + 1]].tolist()
