"""The character tokenizer: a token is a character of the training text, the most frequent first.

Small vocabularies and readable tokens; but a character that the training text never held has no id. Either that is an
error that names the characters (the default), or the vocabulary holds U+FFFD, the replacement character, and every unknown
character becomes it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

from formers.errors import DataError
from formers.text import hf_format
from formers.text.base import END_OF_TEXT, Tokenizer, check_special, check_text, one_or_many

UNKNOWN = "\ufffd"
"""REPLACEMENT CHARACTER: what an unknown character is encoded as, where the vocabulary has it."""


class CharTokenizer(Tokenizer):
    """Special tokens have the first ids, then `characters` in the order given. No text is changed on the way."""

    kind = "char"

    def __init__(
        self, characters: Sequence[str], special_tokens: Iterable[str] = (END_OF_TEXT,), *, unknown: bool = False
    ) -> None:
        names = tuple(special_tokens)
        check_special(names, taken=set(characters))
        super().__init__({name: place for place, name in enumerate(names)})
        self.vocab = {char: len(names) + place for place, char in enumerate(characters)}
        self.unknown = unknown
        """Whether an unknown character becomes U+FFFD; if not, it is an error."""
        if unknown and UNKNOWN not in self.vocab:
            raise DataError("unknown=True without U+FFFD in the vocabulary", wanted="U+FFFD among the characters")

    def _ids(self, text: str) -> list[int]:
        vocab = self.vocab
        try:
            return [vocab[char] for char in text]
        except KeyError:
            return self._ids_with_unknown(text)

    def _ids_with_unknown(self, text: str) -> list[int]:
        if self.unknown:
            return [self.vocab.get(char, self.vocab[UNKNOWN]) for char in text]
        unknown = sorted(set(text) - self.vocab.keys())
        shown = ", ".join(f"{char!r} (U+{ord(char):04X})" for char in unknown[:20])
        more = f" and {len(unknown) - 20} more" if len(unknown) > 20 else ""
        raise DataError(
            f"the text holds {len(unknown)} characters that this vocabulary lacks: {shown}{more}",
            wanted=f"the {len(self.vocab)} characters of the training text",
            do="leave them out, train with unknown=True, or use the byte or bpe tokenizer, which know every character",
        )

    def _ids_and_spans(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        return self._ids(text), [(place, place + 1) for place in range(len(text))]

    @cached_property
    def _tokens(self) -> dict[int, bytes]:
        return {token_id: char.encode() for char, token_id in self.vocab.items()}

    def _content(self) -> dict[str, object]:
        return {"characters": list(self.vocab.items()), "unknown": self.unknown}

    def to_json(self) -> dict[str, Any]:
        model = hf_format.word_level_model(self.special_tokens | self.vocab, UNKNOWN if self.unknown else "")
        return hf_format.document(self.special_tokens, hf_format.SINGLE_CHARACTERS, hf_format.CHARACTER_DECODER, model)


def train_char(
    texts: Iterable[str] | str,
    vocab_size: int | None = None,
    *,
    special_tokens: Iterable[str] = (END_OF_TEXT,),
    unknown: bool = False,
) -> CharTokenizer:
    """The characters of `texts`: U+FFFD first if `unknown`, then by falling count, ties by code point.

    So a smaller vocabulary is a prefix of a larger one. `vocab_size` None takes every character; a smaller one needs
    `unknown`, for something must stand for the rest.

    Raises:
        DataError: no text; fewer characters than `vocab_size` asks for; more than it has room for, without `unknown`.
    """
    names = tuple(special_tokens)
    counts: Counter[str] = Counter()
    for text in one_or_many(texts):
        check_text(text)
        counts.update(text)
    if not counts:
        raise DataError("the text is empty", wanted="text to take characters from", do="check the source")
    known = sorted(counts, key=lambda char: (-counts[char], char))
    if unknown:
        known = [UNKNOWN, *(char for char in known if char != UNKNOWN)]
    return CharTokenizer(_cut(known, vocab_size, len(names), unknown), names, unknown=unknown)


def _cut(known: list[str], vocab_size: int | None, num_special: int, unknown: bool) -> list[str]:
    full = num_special + len(known)
    if vocab_size is None or vocab_size == full:
        return known
    if vocab_size > full:
        raise DataError(
            f"vocab_size {vocab_size} is larger than this text supports",
            wanted=f"at most {full}: {len(known)} characters and {num_special} special tokens",
            do=f"ask for {full}, or leave vocab_size out to take every character",
        )
    if not unknown or vocab_size <= num_special:
        raise DataError(
            f"vocab_size {vocab_size} has no room for the {len(known)} characters of this text",
            wanted=f"{full} with the special tokens",
            do="leave vocab_size out, or allow unknown characters (unknown=True)",
        )
    return known[: vocab_size - num_special]
