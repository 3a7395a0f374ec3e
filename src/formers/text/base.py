"""What every tokenizer can do: text to ids, ids to text, pieces to look at, and a fingerprint to be recognised by.

A tokenizer is two things: *tokens*, each an id that stands for some bytes, and *special tokens*, ids that stand for no text
at all ("here a document ends"). Special tokens are never recognised in ordinary text, so nobody can type one into a prompt;
``encode(..., allow_special=True)`` is the one door.
"""

from __future__ import annotations

import codecs
import hashlib
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any

from formers.errors import DataError
from formers.text import hf_format

END_OF_TEXT = "<|endoftext|>"
"""The special token that every tokenizer trained here separates documents with."""

END_NAMES = (END_OF_TEXT, "<|end_of_text|>", "<|eos|>", "<eos>", "</s>", "[SEP]")
"""Which special token ends a document: the first of these names that the vocabulary has (the file alone decides)."""

ROLES = {
    "end": END_NAMES,
    "pad": ("[PAD]", "<pad>", "<|pad|>"),
    "unknown": ("[UNK]", "<unk>"),
    "start": ("[CLS]", "<s>"),
    "separator": ("[SEP]", "</s>"),
    "mask": ("[MASK]", "<mask>"),
}
"""What special tokens are for, by the names that vocabularies give them; the first that a vocabulary has counts."""

Part = tuple[int, str, int | None]
"""A stretch of a text: where it starts, the text, and the id if it is a token in itself."""


class Tokenizer(ABC):
    """Text to ids and back. A kind of tokenizer writes the four abstract methods; the rest is here.

    Attributes:
        kind: "byte", "char", "word", "bpe", "wordpiece" or "unigram".
        special_tokens: name -> id. They stand for no text.
        template: the post-processor of the file, which says what special tokens frame a text or a pair. `encode` never
            applies it, :mod:`formers.text.encoding` does.
    """

    kind: str
    special_tokens: dict[str, int]
    template: dict[str, Any] | None = None
    _words: dict[str, int] = MappingProxyType({})  # pyright: ignore[reportAssignmentType]
    """name -> id of ordinary tokens that are found in any text before anything else happens to it."""
    _gluttons: frozenset[str] = frozenset()
    """Special tokens that, where they are recognised, swallow the white space before them (BERT's [MASK] in some files)."""
    _opens_with_space = False
    """Whether every word's token begins with a space, the first one too; `decode` drops that one."""

    def __init__(self, special_tokens: Mapping[str, int]) -> None:
        self.special_tokens = dict(special_tokens)

    # -- what a kind of tokenizer provides ------------------------------------------------------------------------------

    @abstractmethod
    def _ids(self, text: str) -> list[int]:
        """Ids of text in which nothing is special."""

    @cached_property
    @abstractmethod
    def _tokens(self) -> dict[int, bytes]:
        """id -> the bytes it stands for, without the special tokens."""

    @abstractmethod
    def _content(self) -> dict[str, object]:
        """All that decides which ids come out, as JSON: what the fingerprint is taken of."""

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """The same in the form of Hugging Face's tokenizer.json."""

    # -- facts ----------------------------------------------------------------------------------------------------------

    @cached_property
    def vocab_size(self) -> int:
        """Rows an embedding needs: the largest id plus one, special tokens included."""
        return max([*self._tokens, *self.special_tokens.values()]) + 1

    @property
    def end_of_text(self) -> int | None:
        """The id that separates documents (see `END_NAMES`), or None."""
        return self.role("end")

    def role(self, role: str) -> int | None:
        """The id of the special token with this role (a key of `ROLES`: "pad", "mask", ...), or None."""
        return next((self.special_tokens[name] for name in ROLES[role] if name in self.special_tokens), None)

    @cached_property
    def fingerprint(self) -> str:
        """sha256 (hex) of everything that decides ids; equal after save and load, different if a merge differs."""
        content = {"kind": self.kind, "special_tokens": sorted(self.special_tokens.items()), **self._content()}
        return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=True).encode()).hexdigest()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(vocab_size={self.vocab_size}, special_tokens={self.special_tokens})"

    # -- text to ids ----------------------------------------------------------------------------------------------------

    def encode(self, text: str, *, allow_special: bool = False) -> list[int]:
        """Ids of `text`. Nothing is added. Special tokens are plain text unless `allow_special`, then the longest wins.

        Raises:
            DataError: `text` is not a string of Unicode characters, or holds characters the vocabulary cannot express.
        """
        check_text(text)
        ids: list[int] = []
        for _, part, known in self._parts(text, allow_special):
            ids.extend(self._ids(part) if known is None else [known])
        return ids

    def encode_offsets(self, text: str, *, allow_special: bool = False) -> tuple[list[int], list[tuple[int, int]]]:
        """`encode`, and for each id the characters of `text` that it stands for, as (start, end)."""
        check_text(text)
        ids: list[int] = []
        spans: list[tuple[int, int]] = []
        for at, part, known in self._parts(text, allow_special):
            found, places = self._ids_and_spans(part) if known is None else ([known], [(0, len(part))])
            ids += found
            spans += [(at + start, at + end) for start, end in places]
        return ids, spans

    def _ids_and_spans(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """For tokens that spell the text: a token that holds only some bytes of a character stands for the character."""
        ids, byte_of = self._ids(text), [0]
        for token_id in ids:
            byte_of.append(byte_of[-1] + len(self._tokens[token_id]))
        if byte_of[-1] == len(text):
            return ids, list(pairwise(byte_of))
        char_of = [place for place, char in enumerate(text) for _ in char.encode()]
        return ids, [(char_of[start], char_of[end - 1] + 1) for start, end in pairwise(byte_of)]

    def _parts(self, text: str, allow_special: bool) -> list[Part]:
        """`text` cut at the tokens that are recognised as such; the longest name wins."""
        names = {**self._words, **self.special_tokens} if allow_special else self._words
        if not names:
            return [(0, text, None)]
        parts, at = [], 0
        for found in self._name_patterns[allow_special].finditer(text):
            parts += [(at, text[at : found.start()], None), (found.start("name"), found["name"], names[found["name"]])]
            at = found.end()
        return [part for part in [*parts, (at, text[at:], None)] if part[1]]

    @cached_property
    def _name_patterns(self) -> tuple[re.Pattern[str], re.Pattern[str]]:
        """Expressions for `_words`, and for these and the special tokens."""
        return _any_of(self._words), _any_of([*self._words, *self.special_tokens], self._gluttons)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of each text, by the fastest means there is; special tokens are never recognised."""
        check_texts(texts)
        return [self.encode(text) for text in texts]

    # -- ids to text ----------------------------------------------------------------------------------------------------

    def decode(self, ids: Iterable[int], *, show_special: bool = False) -> str:
        """Text of `ids`; bytes that are no UTF-8 become U+FFFD, special tokens nothing (or their names, if shown).

        Raises:
            DataError: an id that is not in the vocabulary.
        """
        stream = self.stream(show_special=show_special)
        return stream.feed(ids) + stream.finish()

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The exact bytes of `ids`; special tokens give none."""
        return b"".join(self.token_bytes(i) for i in ids)

    def token_bytes(self, token_id: int, *, show_special: bool = False) -> bytes:
        """The bytes one id stands for; a special token stands for none, or for its name if `show_special`."""
        token = self._tokens.get(int(token_id))
        if token is not None:
            return token
        name = self._special_names.get(int(token_id))
        if name is None:
            raise DataError(
                f"token id {int(token_id)} is not in the vocabulary",
                wanted=f"ids below vocab_size = {self.vocab_size} of this {self.kind} tokenizer",
                do="decode with the tokenizer that made the ids, and cut padded vocabulary rows before sampling",
            )
        return name.encode() if show_special else b""

    @cached_property
    def _special_names(self) -> dict[int, str]:
        return {token_id: name for name, token_id in self.special_tokens.items()}

    def stream(self, *, show_special: bool = False) -> TextStream:
        """A decoder to feed with ids one at a time, for generation."""
        return TextStream(self, show_special=show_special)

    def display(self, text: str) -> list[str]:
        """The pieces `text` is cut into, one an id; joined they are `text` again.

        A character whose bytes are spread over several tokens stands whole at the last of them, the others show "". What
        the tokenizer leaves out (white space, say) stands before the token that follows it.
        """
        _, spans = self.encode_offsets(text)
        ends = [0]
        for (_, end), (following, _) in pairwise([*spans, (len(text), len(text))]):
            ends.append(max(ends[-1], min(end, following)))
        if spans:
            ends[-1] = len(text)
        return [text[start:end] for start, end in pairwise(ends)]

    # -- files ----------------------------------------------------------------------------------------------------------

    def save(self, folder: Path | str, *, max_length: int | None = None) -> None:
        """Write `folder`/tokenizer.json in Hugging Face's form, and the tokenizer_config.json that AutoTokenizer wants.

        max_length  tokens that the model reads, to which AutoTokenizer cuts where it is told to
        """
        roles = {role: next((n for n in names if n in self.special_tokens), None) for role, names in ROLES.items()}
        named = {role: name for role, name in roles.items() if name}
        hf_format.write(Path(folder), self.to_json(), named, max_length)


class TextStream:
    """Text from ids as they come: each `feed` returns the characters that are certain by then.

    One token can end in the middle of a character (an emoji is four bytes, often three tokens); decoding tokens one by
    one would print U+FFFD. What was fed, joined, plus `finish()`, equals ``tokenizer.decode`` of all ids.
    """

    def __init__(self, tokenizer: Tokenizer, *, show_special: bool = False) -> None:
        self._tokenizer, self._show_special = tokenizer, show_special
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._at_start = tokenizer._opens_with_space

    def feed(self, ids: int | Iterable[int]) -> str:
        """The text that `ids` (one id or several) completes; "" while a character is unfinished."""
        many = ids if isinstance(ids, Iterable) else (ids,)
        new = b"".join(self._tokenizer.token_bytes(i, show_special=self._show_special) for i in many)
        if self._at_start and new:
            self._at_start, new = False, new.removeprefix(b" ")
        return self._decoder.decode(new)

    def finish(self) -> str:
        """What an unfinished character at the end decodes to (U+FFFD or ""); the stream can then be used anew."""
        self._at_start = self._tokenizer._opens_with_space
        return self._decoder.decode(b"", final=True)


def _any_of(names: Iterable[str], gluttons: frozenset[str] = frozenset()) -> re.Pattern[str]:
    """Any of `names`, the longest first, as the group "name"; white space before a glutton belongs to the match."""
    longest_first = sorted(names, key=len, reverse=True)
    greedy = [name for name in longest_first if name in gluttons]
    plain = rf"(?P<name>{'|'.join(map(re.escape, longest_first))})"
    if not greedy:
        return re.compile(plain)
    return re.compile(rf"(?:\s+(?={'|'.join(map(re.escape, greedy))}))?{plain}")


def check_text(text: str) -> None:
    """Refuse what is no text: another type, or a lone surrogate, which UTF-8 cannot express.

    Raises:
        DataError: says which and where.
    """
    if not isinstance(text, str):
        raise DataError(
            f"found {type(text).__name__}", wanted="text (str)", do="decode bytes first: data.decode('utf-8')"
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"the text holds a lone surrogate U+{ord(text[error.start]):04X} at character {error.start}",
            wanted="Unicode characters that UTF-8 can express",
            do="read the file with errors='replace', or drop that character",
        ) from None


def check_texts(texts: Sequence[str]) -> None:
    """`check_text` of each; and a lone string is no batch, though it is a sequence of strings."""
    if isinstance(texts, str):
        raise DataError("found one text", wanted="a sequence of texts", do="put it in a list: encode_batch([text])")
    for text in texts:
        check_text(text)


def check_special(names: Sequence[str], taken: Iterable[str] = ()) -> None:
    """Refuse special tokens that are empty, doubled, or also ordinary tokens (`taken`).

    Raises:
        DataError: names the ones at fault.
    """
    bad = sorted({name for name in names if not name or names.count(name) > 1 or name in set(taken)})
    if bad:
        raise DataError(
            f"special tokens {bad} are empty, doubled, or also ordinary tokens",
            wanted='names that stand apart from text, such as "<|endoftext|>"',
        )


def one_or_many(texts: Iterable[str] | str) -> Iterable[str]:
    """A lone string is one text, not an iterable of its characters."""
    return [texts] if isinstance(texts, str) else texts
