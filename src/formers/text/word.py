"""The word-level tokenizer: a token is a word or a run of punctuation, the most frequent first; any other word is unknown.

Few tokens a text and nothing to learn but counts; the price is a large vocabulary, and words that it does not know. White space
is lost: decoding joins words by one space. Words are found by Hugging Face's "Whitespace" step.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Any

from formers.errors import ConfigError, DataError
from formers.text import hf_format
from formers.text.base import END_OF_TEXT, check_special
from formers.text.pipeline import Pipeline
from formers.text.worded import Cut, WordTokenizer
from formers.text.wordpiece import count_words

UNKNOWN = "[UNK]"
SPECIAL = ("[PAD]", UNKNOWN, END_OF_TEXT)


class WordLevelTokenizer(WordTokenizer):
    """A token a word; arguments as in :class:`WordTokenizer`. With `unknown` None a word that has no id is an error."""

    kind = "word"

    def cut_word(self, word: str) -> list[Cut]:
        """The word's own id, or that of the unknown token.

        Raises:
            DataError: an unknown word, and the vocabulary has no token for such.
        """
        token_id = self.id_of.get(word, self.unknown_id)
        if token_id is None:
            raise DataError(
                f"the text holds the word {word!r}, which this vocabulary lacks", f"one of its {len(self.id_of):,} words",
                "train with the special token [UNK], or use the bpe tokenizer, which knows every word",
            )  # fmt: skip
        return [(token_id, 0, len(word))]

    def _only_here(self, text: str) -> bool:
        """Without an unknown token Rust's error would name no word."""
        return self.unknown is None

    @cached_property
    def _tokens(self) -> dict[int, bytes]:
        return {token_id: f" {name}".encode() for token_id, name in self.names.items()}

    def _model(self, *, special: bool) -> dict[str, Any]:
        unknown = {} if self.unknown is None or self.unknown_id is None else {self.unknown: self.unknown_id}
        extra = self.special_tokens if special else unknown
        return hf_format.word_level_model(self.id_of | extra, self.unknown or "")

    def _decoder(self) -> dict[str, Any]:
        return {}  # Hugging Face's joins tokens by a space where the file names none


def word_pipeline(*, lower: bool = False) -> Pipeline:
    r"""Runs of letters, digits and "_" (``\w+``), and runs of what is neither these nor white space; `lower`-cased if asked."""
    return Pipeline({"type": "Lowercase"} if lower else None, {"type": "Whitespace"})


def train_word(
    texts: Iterable[str] | str,
    vocab_size: int | None = None,
    *,
    special_tokens: Iterable[str] = SPECIAL,
    lower: bool = False,
    min_frequency: int = 1,
) -> WordLevelTokenizer:
    """The words of `texts` by falling count, ties by code point, behind the special tokens: what Hugging Face's trainer gives.

    Args:
        vocab_size: ids, special tokens included; None takes every word. Words that are cut off need the special token "[UNK]".
        lower: lower-case the text.
        min_frequency: how often a word must occur to be taken.

    Raises:
        ConfigError: words are to be cut off, and the special tokens lack "[UNK]".
        DataError: no text, or a vocab_size that the text does not support.
    """
    special = tuple(special_tokens)
    check_special(special)
    pipeline = word_pipeline(lower=lower)
    counts = count_words(texts, pipeline)
    frequent = [word for word, count in counts.items() if count >= min_frequency and word not in special]
    known = sorted(frequent, key=lambda word: (-counts[word], word))
    kept = _cut(known, vocab_size, len(special))
    if len(kept) < len(counts) and UNKNOWN not in special:
        raise ConfigError(
            f"special tokens {list(special)} without {UNKNOWN}", f'"{UNKNOWN}", for words that are cut off',
            "add it, or take every word: neither vocab_size nor min_frequency",
        )  # fmt: skip
    names = {len(special) + place: word for place, word in enumerate(kept)}
    places = {name: place for place, name in enumerate(special)}
    return WordLevelTokenizer(names, places, pipeline, unknown=UNKNOWN if UNKNOWN in special else None)


def _cut(known: list[str], vocab_size: int | None, num_special: int) -> list[str]:
    if vocab_size is None:
        return known
    if not num_special < vocab_size <= num_special + len(known):
        raise DataError(
            f"vocab_size {vocab_size} does not fit this text",
            f"{num_special + 1} to {num_special + len(known)}: {len(known)} words and {num_special} special tokens",
            "ask for such a size, or leave vocab_size out to take every word",
        )
    return known[: vocab_size - num_special]
