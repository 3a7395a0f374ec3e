"""Bulk work, by the Rust `tokenizers` library: the same merges and the same ids as bpe.py.

What it gains depends on the text (`python -m benchmarks.text`). On source code, whose pieces repeat, the readable engine and
its memory of pieces keep up; where pieces seldom repeat Rust is several times faster, and it uses every core.

The library recognises special tokens in any text, so it is handed a vocabulary without them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import regex
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

from formers.text import patterns
from formers.text.bpe import Pair
from formers.text.pipeline import Pipeline

CLASSES = (r"\p{L}", r"\p{N}", r"\p{M}", r"\p{Lu}", r"\p{Ll}", r"\p{P}", r"\p{S}", r"\s")
"""What split patterns ask of a character."""


class Disputed:
    """The characters that `regex` and the Rust library put into different classes, found as they are met.

    Each carries its own Unicode table. Characters assigned after the older of the two (a few thousand, hardly ever seen)
    are letters to one and unassigned to the other, so text around them may be split differently. Where it matters `regex`
    decides, and `encode` and `encode_batch` agree.
    """

    def __init__(self) -> None:
        self._agreed: set[str] = set()
        self._disputed: set[str] = set()

    def in_text(self, text: str) -> bool:
        """Whether `text` holds a disputed character."""
        if text.isascii():
            return False
        new = set(text) - self._agreed
        if new - self._disputed:
            self._classify("".join(sorted(new - self._disputed)))
        return not self._disputed.isdisjoint(new)

    def _classify(self, characters: str) -> None:
        disputed = {
            char for name in CLASSES for char in set(regex.findall(name, characters)) ^ _members(name, characters)
        }
        self._disputed |= disputed
        self._agreed |= set(characters) - disputed


def _members(class_name: str, characters: str) -> set[str]:
    """Those of `characters` that the Rust library finds in a class."""
    rest = pre_tokenizers.Split(Regex(class_name), "removed").pre_tokenize_str(characters)
    return set(characters) - set("".join(piece for piece, _ in rest))


disputed = Disputed()
"""One for the process: the tables do not change."""


class Differing:
    """The characters that a pipeline here and the Rust library's turn into different words, found as they are met.

    As with `Disputed`, each side carries its own Unicode tables, and the library's are old where marks and punctuation are
    concerned (a few hundred characters, assigned since 2016). Where it matters ours decide.
    """

    def __init__(self, pipeline: Pipeline, theirs: Tokenizer) -> None:
        self._ours, self._theirs = pipeline, theirs
        self._agreed: set[str] = set()
        self._differing: set[str] = set()
        self._ascii_alike = False
        self._ascii_alike = not self.in_text("".join(map(chr, range(128))))

    def in_text(self, text: str) -> bool:
        """Whether `text` holds such a character."""
        if self._ascii_alike and text.isascii():
            return False
        new = set(text) - self._agreed
        for char in new - self._differing:
            (self._agreed if self._alike(char) else self._differing).add(char)
        return not self._differing.isdisjoint(new)

    def _alike(self, char: str) -> bool:
        # Between letters, alone, at a border, and on both sides of a character that a charsmap replaces as a cluster.
        probe = f"a{char}b{char} {char} \u00aa{char}\u00aa"
        return self._ours.words(probe) == self._their_words(probe)

    def _their_words(self, text: str) -> list[str]:
        normalizer, splitter = self._theirs.normalizer, self._theirs.pre_tokenizer
        text = text if normalizer is None else normalizer.normalize_str(text)
        return [text] if splitter is None else [word for word, _ in splitter.pre_tokenize_str(text)]


class WordBackend:
    """Encodes many texts at once with a WordPiece or Unigram tokenizer; `differing` says which texts it must not have."""

    def __init__(self, contents: dict[str, Any], pipeline: Pipeline) -> None:
        self._tokenizer = Tokenizer.from_str(json.dumps(contents))
        self.differing = Differing(pipeline, self._tokenizer)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, nothing added, nothing special."""
        return [found.ids for found in self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]


class Backend:
    """Encodes many texts at once with the tokenizer that a parsed tokenizer.json describes."""

    def __init__(self, contents: dict[str, Any]) -> None:
        self._tokenizer = Tokenizer.from_str(json.dumps(contents))

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, nothing added, nothing special."""
        return [found.ids for found in self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]


def train(
    texts: Iterable[str], special: Sequence[str], vocab_size: int, pattern: str, min_frequency: int
) -> list[Pair]:
    """The merges that the library learns, as pairs of ids: special tokens first, then bytes, then merges."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = _split_step(pattern)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer=trainer)
    model = json.loads(tokenizer.to_str())["model"]
    assert len(model["vocab"]) == len(special) + 256 + len(model["merges"])
    return [(model["vocab"][left], model["vocab"][right]) for left, right in model["merges"]]


def _split_step(pattern: str) -> Any:
    expression = patterns.as_expression(pattern)
    if expression == patterns.GPT2:
        return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    split = pre_tokenizers.Split(Regex(expression), "isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
