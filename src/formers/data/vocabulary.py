"""Which tokenizer a shard folder is built with: trained on its text, ready made, or given."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from formers.data.plan import digest, score
from formers.errors import DataError, suggest

if TYPE_CHECKING:
    from formers.text.base import Tokenizer

    TokenizerChoice = str | os.PathLike[str] | Tokenizer

TRAINED = ("bpe", "wordpiece", "unigram", "word")
NAMES = (*TRAINED, "byte", "char", "gpt2")
TRAINED_SIZE = 4096
TRAIN_ON = 1 << 26  # characters: a vocabulary of usual size hardly changes beyond


class Texts(Protocol):
    """Documents to train on, anew at each call."""

    characters: int

    def __call__(self, *, training_only: bool) -> Iterator[str]: ...


def choose_tokenizer(choice: TokenizerChoice, vocab_size: int | None, texts: Texts) -> Tokenizer:
    """The tokenizer that `choice` names (see ``builder.Settings``), trained on `texts` if need be.

    "bpe", "wordpiece", "unigram" and "word" are trained on the training split alone; of more than 64 million characters on
    a part of the documents that their content decides. The characters of a "char" tokenizer are those of all documents, or
    validation could not be written.

    Raises:
        DataError: an unknown name, a vocabulary larger than the text supports, a vocab_size for a tokenizer that has
            its own.
    """
    if isinstance(choice, str) and choice in TRAINED:
        return _train(choice, TRAINED_SIZE if vocab_size is None else vocab_size, texts)
    tokenizer = _of_own_size(choice, texts)
    if vocab_size not in (None, tokenizer.vocab_size):
        raise DataError(
            f"vocab_size {vocab_size:,} with the tokenizer {_name(choice)}",
            f"its own {tokenizer.vocab_size:,}: only {', '.join(TRAINED)} are trained to a size",
            "leave vocab_size out, or use the tokenizer bpe",
        )
    return tokenizer


def _of_own_size(choice: TokenizerChoice, texts: Texts) -> Tokenizer:
    from formers.text import load_tokenizer, train_tokenizer

    if not isinstance(choice, str | os.PathLike):
        return choice
    if choice in ("byte", "char"):
        return train_tokenizer(str(choice), texts(training_only=False))
    if choice == "gpt2":
        from formers.text import gpt2

        return gpt2()
    path = Path(choice).expanduser()
    if not path.exists():
        raise DataError(
            f"there is no tokenizer {str(choice)!r}",
            f"{', '.join(NAMES)}, or a folder with a tokenizer.json",
            suggest(str(choice), NAMES),
        )
    return load_tokenizer(path)


def _train(kind: str, vocab_size: int, texts: Texts) -> Tokenizer:
    from formers.text import train_tokenizer

    tokenizer = train_tokenizer(kind, _sample(texts), vocab_size)
    if tokenizer.vocab_size < vocab_size:
        raise DataError(
            f"the text supports a vocabulary of {tokenizer.vocab_size:,} tokens",
            f"{vocab_size:,}, as asked",
            f"ask for --vocab-size {tokenizer.vocab_size} or fewer, or give more text",
        )
    return tokenizer


def _sample(texts: Texts) -> Iterator[str]:
    """The training documents, or a part of about `TRAIN_ON` characters that adding documents hardly changes."""
    share = TRAIN_ON / max(1, texts.characters)
    for text in texts(training_only=True):
        if share >= 1 or score(digest(text), seed=0) < share:
            yield text


def _name(choice: TokenizerChoice) -> str:
    return repr(os.fspath(choice)) if isinstance(choice, str | os.PathLike) else repr(choice)
