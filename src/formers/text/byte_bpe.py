"""Byte-level BPE: split the text, spell each piece in bytes, merge. What GPT-2 and GPT-4 use.

No text is unknown and nothing is normalised: "é" as one character and "é" as e with an accent are different bytes and have
different ids.

**Ids of a trained vocabulary**: special tokens first, then the 256 bytes in GPT-2's order, then the merges as they were
learnt. Only the end grows, so a smaller vocabulary is a prefix of a larger one (`BPETokenizer.prefix`), and a trained model
can be given more rows. (GPT-2's own file has its special token last; any order of ids can be read.)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

from formers.errors import ConfigError, DataError
from formers.text import bpe, hf_format, patterns
from formers.text.base import END_OF_TEXT, Tokenizer, check_special, check_text, check_texts, one_or_many
from formers.text.stand_ins import BYTE_ORDER, from_stand_ins, to_stand_ins

CACHED_PIECES = 200_000
CACHED_LENGTH = 64


class BPETokenizer(Tokenizer):
    """Byte-level BPE over a given vocabulary.

    Args:
        tokens: id -> bytes; all 256 single bytes must be among them.
        merges: pairs of ids, the earliest learnt first; the id of what they make is looked up in `tokens`.
        special_tokens: name -> id.
        pattern: "gpt2", "cl100k" or a regular expression; how text is split before merging.
        whole_pieces: take a piece that is itself a token whole, without merging (tiktoken; Hugging Face: ignore_merges).
        template: a foreign file's post-processor (say, a leading <s>). It is kept for the file and never applied: `encode`
            gives the ids of the text alone.
        gluttons: special tokens that swallow the white space before them where they are recognised (RoBERTa's <mask>).
    """

    kind = "bpe"

    def __init__(
        self,
        tokens: Mapping[int, bytes],
        merges: Sequence[bpe.Pair],
        special_tokens: Mapping[str, int],
        pattern: str = "gpt2",
        *,
        whole_pieces: bool = False,
        template: dict[str, Any] | None = None,
        gluttons: Iterable[str] = (),
    ) -> None:
        super().__init__(special_tokens)
        self._gluttons = frozenset(gluttons)
        self.tokens, self.merges = dict(tokens), list(merges)
        self.pattern, self.whole_pieces, self.template = patterns.as_expression(pattern), whole_pieces, template
        self.id_of = {token: token_id for token_id, token in tokens.items()}
        self._check()
        self._byte_ids = [self.id_of[bytes([value])] for value in range(256)]
        self._table = bpe.merge_table(self.merges, (self.id_of[tokens[a] + tokens[b]] for a, b in self.merges))
        self._cache: dict[str, list[int]] = {}

    def _check(self) -> None:
        missing = [value for value in range(256) if bytes([value]) not in self.id_of]
        if missing:
            raise DataError(
                f"the vocabulary lacks {len(missing)} of the 256 bytes: {missing[:10]}", wanted="all of them"
            )
        for a, b in self.merges:
            if a not in self.tokens or b not in self.tokens or self.tokens[a] + self.tokens[b] not in self.id_of:
                raise DataError(f"a merge of ids {a} and {b} needs or makes a token that the vocabulary lacks")
        taken = {token_id: name for name, token_id in self.special_tokens.items() if token_id in self.tokens}
        if taken or len(self.id_of) < len(self.tokens):
            raise DataError(f"ids or tokens are not unique: {taken or 'two ids stand for the same bytes'}")

    @cached_property
    def _tokens(self) -> dict[int, bytes]:
        return self.tokens

    # -- encoding -------------------------------------------------------------------------------------------------------

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = []
        for piece in patterns.split(text, self.pattern):
            known = self._cache.get(piece)
            ids.extend(self._remember(piece) if known is None else known)
        return ids

    def _remember(self, piece: str) -> list[int]:
        ids = self.encode_piece(piece)
        if len(piece) <= CACHED_LENGTH:
            if len(self._cache) >= CACHED_PIECES:
                self._cache.clear()
            self._cache[piece] = ids
        return ids

    def encode_piece(self, piece: str) -> list[int]:
        """Ids of one piece: its bytes, merged."""
        data = piece.encode()
        if self.whole_pieces and data in self.id_of:
            return [self.id_of[data]]
        return bpe.encode([self._byte_ids[value] for value in data], self._table)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of each text, in parallel in Rust.

        Texts with characters that `regex` and the Rust library class differently (see `rust.Disputed`) are encoded here.
        """
        from formers.text import rust

        check_texts(texts)
        here = [rust.disputed.in_text(text) for text in texts]
        there = self._backend.encode([text for text, mine in zip(texts, here, strict=True) if not mine])
        bulk = iter(there)
        return [self._ids(text) if mine else next(bulk) for text, mine in zip(texts, here, strict=True)]

    @cached_property
    def _backend(self) -> Any:
        from formers.text import rust

        return rust.Backend(self.to_json(special=False))

    # -- size -----------------------------------------------------------------------------------------------------------

    def prefix(self, vocab_size: int) -> BPETokenizer:
        """The tokenizer of the first `vocab_size` ids: what training with that size would have given.

        Raises:
            DataError: ids below `vocab_size` that do not include all bytes and special tokens.
        """
        outside = [name for name, token_id in self.special_tokens.items() if token_id >= vocab_size]
        if outside or not 0 < vocab_size <= self.vocab_size:
            raise DataError(
                f"no prefix of {vocab_size} ids: {f'special tokens {outside} lie behind it' if outside else 'out of range'}",
                wanted=f"at most {self.vocab_size}, special tokens included",
                do="train a tokenizer, whose special tokens come first",
            )
        tokens = {token_id: token for token_id, token in self.tokens.items() if token_id < vocab_size}
        merges = [(a, b) for a, b in self.merges if self.id_of[self.tokens[a] + self.tokens[b]] < vocab_size]
        kept = {"whole_pieces": self.whole_pieces, "template": self.template, "gluttons": self._gluttons}
        return BPETokenizer(tokens, merges, self.special_tokens, self.pattern, **kept)

    # -- files ----------------------------------------------------------------------------------------------------------

    def _content(self) -> dict[str, object]:
        tokens = sorted((token_id, to_stand_ins(token)) for token_id, token in self.tokens.items())
        greedy = {"gluttons": sorted(self._gluttons)} if self._gluttons else {}  # others have the fingerprint they had
        content: dict[str, object] = {"tokens": tokens, "merges": self.merges, "pattern": self.pattern}
        return content | {"whole_pieces": self.whole_pieces} | greedy

    def to_json(self, *, special: bool = True) -> dict[str, Any]:
        """The form of tokenizer.json; without special tokens it is what the Rust library encodes plain text with."""
        names = {token_id: to_stand_ins(token) for token_id, token in self.tokens.items()}
        extra = self.special_tokens if special else {}
        vocab = {name: token_id for token_id, name in names.items()} | extra
        model = hf_format.bpe_model(vocab, [(names[a], names[b]) for a, b in self.merges], self.whole_pieces)
        cut = hf_format.GPT2_SPLIT if self.pattern == patterns.GPT2 else hf_format.split_bytes(self.pattern)
        contents = hf_format.document(extra, cut, hf_format.BYTE_DECODER, model)
        for token in contents["added_tokens"]:
            token["lstrip"] = token["content"] in self._gluttons
        return contents | {"post_processor": self.template if special else None}


def train_bpe(
    texts: Iterable[str] | str,
    vocab_size: int | None = None,
    *,
    special_tokens: Iterable[str] = (END_OF_TEXT,),
    pattern: str = "gpt2",
    min_frequency: int = 1,
    engine: str = "rust",
) -> BPETokenizer:
    """Learn a vocabulary of `vocab_size` ids: special tokens, 256 bytes, and a merge for each of the rest.

    Ties: the highest count, then the smallest (left id, right id). `engine` "rust" and "python" give the same merges; the
    first is for large texts. A pair must occur `min_frequency` times to be merged. Texts are separate: no merge spans two.

    Raises:
        ConfigError: an unknown engine or pattern, or no vocab_size.
        DataError: no text; a vocab_size below the alphabet, or above what the text supports (the error says how much it
            does); special tokens that ordinary text could also make.
    """
    names = tuple(special_tokens)
    _check_request(names, vocab_size, pattern, engine)
    assert vocab_size is not None
    num_merges = vocab_size - len(names) - 256
    if engine == "rust":
        from formers.text import rust

        pairs = rust.train(_checked(texts), names, vocab_size, pattern, min_frequency)
    else:
        pairs = _train_here(texts, len(names), num_merges, pattern, min_frequency)
    if len(pairs) < num_merges:
        raise DataError(
            f"vocab_size {vocab_size} is larger than this text supports",
            wanted=f"at most {len(names) + 256 + len(pairs)}: {len(names)} special tokens, 256 bytes, {len(pairs)} merges"
            f" of pairs that occur {min_frequency} times or more",
            do="ask for a smaller vocabulary, or train on more text",
        )
    return _assemble(pairs, names, pattern)


def _check_request(names: tuple[str, ...], vocab_size: int | None, pattern: str, engine: str) -> None:
    patterns.compiled(pattern)
    if engine not in ("rust", "python"):
        raise ConfigError(f"unknown engine {engine!r}", wanted="rust or python")
    if vocab_size is None:
        raise ConfigError("a bpe tokenizer without vocab_size", wanted="a number of ids, such as 4096")
    if vocab_size < len(names) + 256:
        raise DataError(
            f"vocab_size {vocab_size} is smaller than the alphabet",
            wanted=f"at least {len(names) + 256}: 256 bytes and {len(names)} special tokens",
            do="ask for more, or use the byte or char tokenizer",
        )
    check_special(names, taken=[name for name in names if _is_ordinary(name, pattern)])


def _is_ordinary(name: str, pattern: str) -> bool:
    """Whether merges could spell `name`, as it stands in the file; then one name would have two meanings there."""
    try:
        text = from_stand_ins(name).decode()
    except KeyError:
        return False
    except UnicodeDecodeError:
        return True
    return len(patterns.split(text, pattern)) == 1


def _checked(texts: Iterable[str] | str) -> Iterable[str]:
    """The texts, each checked to be one, and at least one of them not empty."""
    empty = True
    for text in one_or_many(texts):
        check_text(text)
        empty = empty and not text
        yield text
    if empty:
        raise DataError("the text is empty", wanted="text to learn merges from", do="check the source")


def _train_here(
    texts: Iterable[str] | str, num_special: int, num_merges: int, pattern: str, min_frequency: int
) -> list[bpe.Pair]:
    pieces: Counter[str] = Counter()
    for text in _checked(texts):
        pieces.update(patterns.split(text, pattern))
    first = {value: num_special + place for place, value in enumerate(BYTE_ORDER)}
    words = {tuple(first[value] for value in piece.encode()): count for piece, count in pieces.items()}
    return bpe.train(words, num_merges, num_special + 256, max(1, min_frequency))


def _assemble(pairs: Sequence[bpe.Pair], names: Sequence[str], pattern: str) -> BPETokenizer:
    """The tokenizer of a list of merges: special tokens, bytes, and one id a merge, in this order."""
    tokens = {len(names) + place: bytes([value]) for place, value in enumerate(BYTE_ORDER)}
    for a, b in pairs:
        tokens[len(names) + len(tokens)] = tokens[a] + tokens[b]
    return BPETokenizer(tokens, pairs, {name: place for place, name in enumerate(names)}, pattern)
