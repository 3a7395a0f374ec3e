"""Masked tokens: some are hidden, and the targets are what stood there (BERT, 1810.04805, section 3.1).

15% of the tokens are chosen, anew for every batch (dynamic, as in RoBERTa, 1907.11692, section 4.1). Of these 80% become
[MASK], 10% a random token, 10% stay; all of them are targets, nothing else is. Special tokens are never chosen and never
drawn. What is chosen together has a name:

    tokens   each token by itself
    words    whole words: all tokens of a word or none (BERT's later whole-word models)
    ngrams   one to three whole words in a row, n with a probability in proportion to 1/n (ALBERT, 1909.11942, 4.1)

A word goes on where a token ends and the next begins with a letter, a digit or a byte beyond ASCII; so a run of Chinese
characters is one word, unless the tokenizer sets them apart, as WordPiece does.

Departures
- Tokens and words are chosen independently of each other, so the number in a row varies; BERT's code takes round(15%) of each
  row and at least one. In n-grams the number of words is 15% of the row's, rounded up or down at random.
- The unknown token is special here: it is neither hidden nor drawn.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from formers.data.batch import NO_TARGET, PADDING
from formers.data.shards import Shards
from formers.data.texts import Place, TextBatch, TextView, rectangle
from formers.errors import ConfigError, DataError, suggest

if TYPE_CHECKING:
    from formers.text.base import Tokenizer

MASKINGS = ("tokens", "words", "ngrams")
SHARE, MASKED, RANDOM = 0.15, 0.8, 0.1
LONGEST_NGRAM = 3


class Letters:
    """What the tokens of a vocabulary look like at their ends, bool [vocab_size] each.

    Attributes:
        text: tokens that stand for text: neither special nor a gap in the vocabulary.
        opens, closes: the token begins, ends with something other than the inside of a word.
        stops: a sentence may end with the token: it ends in ``. ! ?`` or a line break.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        special = set(tokenizer.special_tokens.values())
        pieces = [b"" if i in special else _bytes(tokenizer, i) for i in range(tokenizer.vocab_size)]
        self.text = np.array([piece != b"" for piece in pieces])
        self.opens = np.array([not (piece and _in_a_word(piece[0])) for piece in pieces])
        self.closes = np.array([not (piece and _in_a_word(piece[-1])) for piece in pieces])
        self.stops = np.array([piece.endswith((b".", b"!", b"?", b"\n")) for piece in pieces])

    def begins(self, ids: np.ndarray) -> np.ndarray:
        """bool [.., seq]: which tokens begin a word; the first of a row always does."""
        begins = self.opens[ids]
        begins[..., 1:] |= self.closes[ids[..., :-1]]
        begins[..., 0] = True
        return begins


def _bytes(tokenizer: Tokenizer, token_id: int) -> bytes:
    try:
        return tokenizer.token_bytes(token_id)
    except DataError:  # a gap in the vocabulary, which no text has
        return b""


def _in_a_word(byte: int) -> bool:
    return byte >= 0x80 or chr(byte).isalnum()


@dataclass(frozen=True)
class Masking:
    """How tokens are chosen and hidden.

    letters  of the vocabulary
    mask_id  what hides a token
    choose   one of `MASKINGS`
    share    of the tokens that are chosen
    """

    letters: Letters
    mask_id: int
    choose: str = "tokens"
    share: float = SHARE

    def __post_init__(self) -> None:
        if self.choose not in MASKINGS:
            raise ConfigError(f"masking {self.choose!r}", ", ".join(MASKINGS), suggest(str(self.choose), MASKINGS))
        if not 0 < self.share < 1:
            raise ConfigError(f"a share of {self.share} is masked", "more than 0 and less than 1")

    @cached_property
    def drawn(self) -> np.ndarray:
        """The ids that may stand in a token's place."""
        return np.flatnonzero(self.letters.text)

    def __call__(self, ids: np.ndarray, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """What is read and what is to be said, int64 [rows, seq]; targets are -100 where nothing was chosen."""
        chosen = self.chosen(ids, generator)
        fate = generator.random(ids.shape)
        masked, other = chosen & (fate < MASKED), chosen & (fate >= MASKED) & (fate < MASKED + RANDOM)
        read = np.where(masked, self.mask_id, ids)
        read[other] = self.drawn[generator.integers(len(self.drawn), size=int(other.sum()))]
        return read, np.where(chosen, ids, NO_TARGET)

    def chosen(self, ids: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """bool [rows, seq]."""
        text = self.letters.text[ids]
        if self.choose == "tokens":
            return text & (generator.random(ids.shape) < self.share)
        word = np.cumsum(self.letters.begins(ids)).reshape(ids.shape) - 1  # counted through all rows
        if self.choose == "words":
            return text & (generator.random(word[-1, -1] + 1) < self.share)[word]
        return text & np.stack([self._ngrams(row, here, generator) for row, here in zip(word, text, strict=True)])

    def _ngrams(self, word: np.ndarray, text: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """bool [seq] of one row: n-grams and single words that stay, in a random order."""
        names, which = np.unique(word[text], return_inverse=True)
        budget = int(self.share * len(names) + generator.random())
        lengths = fill(budget, ngram_lengths(budget, generator))
        hidden = np.zeros(len(text), dtype=bool)
        hidden[text] = arranged(lengths, len(names) - budget, generator)[which]
        return hidden


def ngram_lengths(number: int, generator: np.random.Generator) -> np.ndarray:
    """int64 [number] in 1 .. 3, each n with probability (1/n) / (1 + 1/2 + 1/3) (ALBERT, 4.1)."""
    weights = 1 / np.arange(1, LONGEST_NGRAM + 1)
    return generator.choice(np.arange(1, LONGEST_NGRAM + 1), size=number, p=weights / weights.sum())


def fill(budget: int, lengths: np.ndarray) -> np.ndarray:
    """As many of `lengths` as it takes to make `budget` in all, the last of them cut."""
    ends = np.cumsum(lengths)
    taken = lengths[: int(np.searchsorted(ends, budget)) + 1].copy() if budget else lengths[:0]
    if budget:
        taken[-1] -= ends[len(taken) - 1] - budget
    return taken


def arranged(lengths: np.ndarray, free: int, generator: np.random.Generator) -> np.ndarray:
    """bool [sum(lengths) + free]: spans of these lengths and `free` places between, in an order that is drawn."""
    items = generator.permutation(np.concatenate([lengths, np.zeros(free, dtype=np.int64)]))
    return np.repeat(items > 0, np.maximum(items, 1))


class MaskedTokens(TextView):
    """Rows of framed texts with masked tokens: batches are `TextBatch`.

    Args:
        shards: their tokenizer has a mask (see ``formers.data.equip``).
        rows: one of `texts.ROWS`.
        masking: one of `MASKINGS`.
        share: of the tokens that are chosen.

    Raises:
        DataError: a tokenizer without a mask, a split without text.
    """

    number = 13

    def __init__(self, shards: Shards, *, masking: str = "tokens", share: float = SHARE, **settings) -> None:
        super().__init__(shards, **settings)
        self.masking = masking_of(shards, masking, share)

    def lay(self, places: list[list[Place]], generator: np.random.Generator) -> TextBatch:
        texts = [[self.frame.around(self.contents.ids(place))[0] for place in row] for row in places]
        ids = rectangle([_joined(row) for row in texts], self.seq_len, self.frame.pad)
        index = rectangle([_joined([np.arange(len(text)) for text in row]) for row in texts], self.seq_len, PADDING)
        names = [
            _joined([np.full(len(text), self.contents.document[place[0]]) for text, place in zip(*pair, strict=True)])
            for pair in zip(texts, places, strict=True)
        ]
        read, targets = self.masking(ids, generator)
        return TextBatch(
            input_ids=read,
            targets=np.where(index < 0, NO_TARGET, targets),
            index=index,
            document=rectangle(names, self.seq_len, PADDING),
            fresh=np.ones(len(ids), dtype=bool),
            bytes=0,
        )


def masking_of(shards: Shards, choose: str, share: float) -> Masking:
    """The masking of these shards' vocabulary. Raises DataError where it has no mask."""
    tokenizer = shards.tokenizer
    mask_id = tokenizer.role("mask")
    if mask_id is None:
        raise DataError(
            f"the tokenizer of {shards.folder} has no [MASK]",
            "a special token that hides others",
            "open the shards with formers.data.equip(shards, 'masked_token'), which adds one",
        )
    return Masking(Letters(tokenizer), mask_id, choose, share)


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)
