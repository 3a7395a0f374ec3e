"""One door to all trainers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from formers.errors import ConfigError, suggest
from formers.text.base import END_OF_TEXT, Tokenizer
from formers.text.byte import ByteTokenizer
from formers.text.byte_bpe import train_bpe
from formers.text.char import train_char
from formers.text.unigram_train import SPECIAL as UNIGRAM_SPECIAL
from formers.text.unigram_train import train_unigram
from formers.text.word import SPECIAL as WORD_SPECIAL
from formers.text.word import train_word
from formers.text.wordpiece import SPECIAL as WORDPIECE_SPECIAL
from formers.text.wordpiece import train_wordpiece

KINDS = ("byte", "char", "word", "bpe", "wordpiece", "unigram")


def train_tokenizer(
    kind: str,
    texts: Iterable[str] | str = (),
    vocab_size: int | None = None,
    *,
    special_tokens: Iterable[str] | None = None,
    **options: Any,
) -> Tokenizer:
    """A tokenizer of one of `KINDS`, trained on `texts`; `vocab_size` counts the special tokens too.

    Special tokens unless given: BERT's five for wordpiece, T5's three for unigram, "[PAD]", "[UNK]" and "<|endoftext|>" for
    word, else "<|endoftext|>" alone. Further options: ``unknown`` (char, see `train_char`); ``lower``, ``min_frequency`` (see
    `train_word`); ``pattern``, ``min_frequency``, ``engine`` (bpe, see `train_bpe`); ``lower``,
    ``min_frequency``, ``alphabet`` (see `train_wordpiece`); ``lower``, ``alphabet``, ``byte_fallback`` (see
    `train_unigram`). The byte tokenizer needs no text and has one size.

    Raises:
        ConfigError: an unknown kind or option, or a vocab_size that the kind cannot have.
        DataError: text that does not support the vocabulary that was asked for.
    """
    trainer = _TRAINERS.get(kind)
    if trainer is None:
        raise ConfigError(f"unknown kind of tokenizer {kind!r}", wanted=", ".join(KINDS), do=suggest(str(kind), KINDS))
    known = _OPTIONS[kind]
    wrong = sorted(options.keys() - set(known))
    if wrong:
        raise ConfigError(f"the {kind} tokenizer has no options {wrong}", wanted=", ".join(known) or "none")
    names = _SPECIAL.get(kind, (END_OF_TEXT,)) if special_tokens is None else special_tokens
    return trainer(texts, vocab_size, special_tokens=names, **options)


def _byte(texts: Iterable[str] | str, vocab_size: int | None, *, special_tokens: Iterable[str]) -> ByteTokenizer:
    tokenizer = ByteTokenizer(special_tokens)
    if vocab_size not in (None, tokenizer.vocab_size):
        raise ConfigError(
            f"vocab_size {vocab_size} for the byte tokenizer",
            wanted=f"{tokenizer.vocab_size}: 256 bytes and {len(tokenizer.special_tokens)} special tokens",
            do="leave vocab_size out, or train a bpe tokenizer",
        )
    return tokenizer


_TRAINERS = {
    "byte": _byte,
    "char": train_char,
    "word": train_word,
    "bpe": train_bpe,
    "wordpiece": train_wordpiece,
    "unigram": train_unigram,
}
_OPTIONS = {
    "byte": (),
    "char": ("unknown",),
    "word": ("lower", "min_frequency"),
    "bpe": ("pattern", "min_frequency", "engine"),
    "wordpiece": ("lower", "min_frequency", "alphabet"),
    "unigram": ("lower", "alphabet", "byte_fallback"),
}
_SPECIAL = {"word": WORD_SPECIAL, "wordpiece": WORDPIECE_SPECIAL, "unigram": UNIGRAM_SPECIAL}
