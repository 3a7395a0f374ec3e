"""What vocabularies of words and their pieces have in common: text becomes words (`pipeline.py`), each is cut by itself.

Normalisation loses something, so the text does not come back exactly; `encode_offsets` says where each token stands in it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

from formers.errors import DataError
from formers.text import hf_format
from formers.text.base import Tokenizer, check_special, check_texts
from formers.text.pipeline import Pipeline

CACHED_WORDS = 200_000
CACHED_LENGTH = 64

Cut = tuple[int, int, int]
"""A token in a word: id, start and end in characters of the normalised word."""


class WordTokenizer(Tokenizer):
    """Text to words to ids. A kind of vocabulary says how a word is cut (`cut_word`) and how it is written down (`_model`).

    Args:
        names: id -> the token as it is spelt in the vocabulary, special tokens left out.
        special_tokens: name -> id.
        pipeline: text to words.
        unknown: the special token that stands for what the vocabulary cannot spell, or None.
        words: names that are found in any text, before normalisation (sentencepiece's "user defined symbols").
        gluttons: special tokens that swallow the white space before them where they are recognised.
        template: what frames a text, as in tokenizer.json.
        decoder: as in tokenizer.json; None for the kind's own.
    """

    _opens_with_space = True

    def __init__(
        self,
        names: Mapping[int, str],
        special_tokens: Mapping[str, int],
        pipeline: Pipeline,
        *,
        unknown: str | None,
        words: Iterable[str] = (),
        gluttons: Iterable[str] = (),
        template: dict[str, Any] | None = None,
        decoder: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(special_tokens)
        if pipeline.problems:
            raise DataError("not implemented: " + "; ".join(pipeline.problems), wanted="steps that pipeline.py knows")
        self.names, self.pipeline, self.unknown = dict(names), pipeline, unknown
        self.id_of = {name: token_id for token_id, name in self.names.items()}
        self.template, self.decoder = template, decoder or self._decoder()
        self._gluttons = frozenset(gluttons)
        self._check(tuple(words))
        self._words = {name: self.id_of[name] for name in words}
        self._cache: dict[str, tuple[Cut, ...]] = {}

    def _check(self, words: Sequence[str]) -> None:
        check_special(list(self.special_tokens), taken=self.id_of)
        shared = sorted(set(self.special_tokens.values()) & self.names.keys())
        if shared or len(self.id_of) < len(self.names):
            raise DataError(f"ids or tokens are not unique: {shared[:5] or 'two ids have the same name'}")
        absent = [name for name in [*words, *([self.unknown] if self.unknown else [])] if self._id(name) is None]
        if absent:
            raise DataError(
                f"the vocabulary lacks {absent}", wanted="the unknown token and all words recognised anywhere"
            )

    def _id(self, name: str) -> int | None:
        return self.id_of.get(name, self.special_tokens.get(name))

    @cached_property
    def unknown_id(self) -> int | None:
        """The id of what cannot be spelt."""
        return None if self.unknown is None else self._id(self.unknown)

    # -- what a kind of vocabulary provides -----------------------------------------------------------------------------

    @abstractmethod
    def cut_word(self, word: str) -> list[Cut]:
        """The tokens of one normalised word."""

    @abstractmethod
    def _model(self, *, special: bool) -> dict[str, Any]:
        """The "model" of tokenizer.json; without special tokens, one in which text can never spell them."""

    @abstractmethod
    def _decoder(self) -> dict[str, Any]:
        """The "decoder" of tokenizer.json."""

    # -- encoding -------------------------------------------------------------------------------------------------------

    def _ids(self, text: str) -> list[int]:
        return [token_id for word in self.pipeline.words(text) for token_id, _, _ in self._cuts(word)]

    def _ids_and_spans(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        words = self.pipeline.aligned_words(text)
        found = [(i, word.place(start, end)) for word in words for i, start, end in self._cuts(word.text)]
        return [token_id for token_id, _ in found], [span for _, span in found]

    def _cuts(self, word: str) -> tuple[Cut, ...]:
        known = self._cache.get(word)
        if known is None:
            known = tuple(self.cut_word(word))
            if len(word) <= CACHED_LENGTH:
                if len(self._cache) >= CACHED_WORDS:
                    self._cache.clear()
                self._cache[word] = known
        return known

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of each text, in parallel in Rust.

        Texts with characters that the Rust library normalises or splits differently (see `rust.Differing`) are encoded here.
        """
        check_texts(texts)
        backend = self._backend
        here = [self._only_here(text) or backend.differing.in_text(text) for text in texts]
        there = iter(backend.encode([text for text, mine in zip(texts, here, strict=True) if not mine]))
        return [self.encode(text) if mine else next(there) for text, mine in zip(texts, here, strict=True)]

    def _only_here(self, text: str) -> bool:
        """Whether `text` spells something that the Rust library would take for a token that no text makes."""
        return False

    @cached_property
    def _backend(self) -> Any:
        from formers.text import rust

        return rust.WordBackend(self.to_json(special=False), self.pipeline)

    # -- files ----------------------------------------------------------------------------------------------------------

    def _content(self) -> dict[str, object]:
        return {
            "names": sorted(self.names.items()),
            "pipeline": self.pipeline.content(),
            "unknown": self.unknown,
            "words": sorted(self._words.items()),
            "gluttons": sorted(self._gluttons),
        }

    def to_json(self, *, special: bool = True) -> dict[str, Any]:
        """The form of tokenizer.json; without special tokens it is what the Rust library encodes plain text with."""
        extra = self.special_tokens if special else {}
        contents = hf_format.document(extra, self.pipeline.pre_tokenizer, self.decoder, self._model(special=special))
        for token in contents["added_tokens"]:
            token["lstrip"] = token["content"] in self._gluttons
        contents["added_tokens"] += hf_format.added(self._words, special=False)
        contents["added_tokens"].sort(key=lambda token: token["id"])
        contents["normalizer"] = self.pipeline.normalizer
        contents["post_processor"] = self.template if special else None
        return contents
