"""WordPiece: cut each word from the left into the longest pieces that the vocabulary has. What BERT uses.

A piece inside a word is spelt with "##" before it. A word that cannot be cut to its end, or of more than 100 characters, is one
unknown token (Devlin et al. 2019, section 3; Schuster and Nakajima 2012). Encoding needs the vocabulary alone.

**Training.** The paper's own trainer was never published. Two rules are known: merge the pair that occurs most often, as in
BPE (what Hugging Face's trainer does), or the pair whose count is highest *relative to its parts*, count(ab) / count(a)
count(b), which is what a likelihood would gain (Schuster and Nakajima). Here it is the first: the pairs that the second
prefers are rare ones whose parts are rarer still, so it needs a threshold to be set by hand, and the first runs through the
tested engine of `bpe.py`. Ties: highest count, then smallest ids; the alphabet is sorted by code point. (Hugging Face's
trainer meets its alphabet in an order that changes from run to run, so its ids cannot be compared.)

**Ids of a trained vocabulary**: special tokens, the characters that begin words, those inside words, then the merges.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from formers.errors import ConfigError, DataError
from formers.text import bpe, hf_format
from formers.text.base import check_special, check_text, one_or_many
from formers.text.files import read_text
from formers.text.pipeline import Pipeline
from formers.text.template import frame
from formers.text.worded import Cut, WordTokenizer

INSIDE = "##"
LONGEST_WORD = 100
CLOSED = (".", "?", "!", ",", "n't", "'m", "'s", "'ve", "'re")
"""Tokens that are written without a space before them, if the file asks for "cleanup" (BERT's does)."""
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


class WordPieceTokenizer(WordTokenizer):
    """WordPiece over a given vocabulary; arguments as in :class:`WordTokenizer`, and:

    Args:
        inside: what marks a piece inside a word.
        longest_word: longer words are unknown.
    """

    kind = "wordpiece"

    def __init__(
        self,
        names: Mapping[int, str],
        special_tokens: Mapping[str, int],
        pipeline: Pipeline,
        *,
        inside: str = INSIDE,
        longest_word: int = LONGEST_WORD,
        unknown: str = "[UNK]",
        **rest: Any,
    ) -> None:
        self.inside, self.longest_word = inside, longest_word
        super().__init__(names, special_tokens, pipeline, unknown=unknown, **rest)
        self._longest = max(map(len, self.id_of), default=0)

    def cut_word(self, word: str) -> list[Cut]:
        """The longest piece from the left, then from where it ends, and so on; or one unknown token."""
        unknown = [(self._unknown(), 0, len(word))]
        if len(word) > self.longest_word:
            return unknown
        pieces: list[Cut] = []
        start = 0
        while start < len(word):
            piece = self._longest_piece(word, start)
            if piece is None:
                return unknown
            pieces.append(piece)
            start = piece[2]
        return pieces

    def _longest_piece(self, word: str, start: int) -> Cut | None:
        mark = self.inside if start else ""
        for end in range(min(len(word), start + self._longest), start, -1):
            token_id = self.id_of.get(mark + word[start:end])
            if token_id is not None:
                return token_id, start, end
        return None

    def _unknown(self) -> int:
        assert self.unknown_id is not None
        return self.unknown_id

    # -- decoding -------------------------------------------------------------------------------------------------------

    @cached_property
    def _tokens(self) -> dict[int, bytes]:
        return {i: self._spelled(name).encode() for i, name in self.names.items()}

    def _spelled(self, name: str) -> str:
        if name.startswith(self.inside):
            return name.removeprefix(self.inside)
        return name if self.decoder.get("cleanup") and name.startswith(CLOSED) else f" {name}"

    # -- files ----------------------------------------------------------------------------------------------------------

    def _content(self) -> dict[str, object]:
        return super()._content() | {"inside": self.inside, "longest_word": self.longest_word}

    def _model(self, *, special: bool) -> dict[str, Any]:
        extra = self.special_tokens if special else {str(self.unknown): self._unknown()}
        return hf_format.wordpiece_model(self.id_of | extra, str(self.unknown), self.inside, self.longest_word)

    def _decoder(self) -> dict[str, Any]:
        return {"type": "WordPiece", "prefix": self.inside, "cleanup": True}


def bert_pipeline(*, lower: bool, strip_accents: bool | None = None, chinese: bool = True) -> Pipeline:
    """BERT's way from text to words: `lower` for uncased models, which take accents away unless told otherwise; `chinese`
    makes every Chinese character a word."""
    return Pipeline(
        {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": chinese,
            "strip_accents": strip_accents,
            "lowercase": lower,
        },
        {"type": "BertPreTokenizer"},
    )


def from_vocabulary(
    lines: Sequence[str], pipeline: Pipeline, *, special: Sequence[str] = SPECIAL
) -> WordPieceTokenizer:
    """A tokenizer of a list of tokens, whose ids are their places; those of `special` that stand in it are special.

    Raises:
        DataError: no "[UNK]", or a token that stands twice.
    """
    special_tokens = {name: place for place, name in enumerate(lines) if name in special}
    names = {place: name for place, name in enumerate(lines) if name not in special_tokens}
    if "[UNK]" not in special_tokens:
        raise DataError("the vocabulary has no [UNK]", wanted="BERT's special tokens among the lines of vocab.txt")
    return WordPieceTokenizer(names, special_tokens, pipeline, template=_template(special_tokens))


def _template(special_tokens: Mapping[str, int]) -> dict[str, Any] | None:
    """[CLS] a [SEP] b [SEP], where the vocabulary has these."""
    if not {"[CLS]", "[SEP]"} <= special_tokens.keys():
        return None
    return frame(special_tokens, "[CLS] a [SEP]", "[CLS] a [SEP] b:1 [SEP]:1")


def load_vocab_txt(
    path: Path | str, *, lower: bool | None = None, strip_accents: bool | None = None, chinese: bool = True
) -> WordPieceTokenizer:
    """A tokenizer from BERT's vocab.txt: a token a line, the line's number its id.

    The file does not say whether it is for lower-cased text. `lower` None takes it for uncased if no token that is made of
    letters has a capital one. strip_accents, chinese: see `bert_pipeline`.

    Raises:
        DataError: a missing or damaged file, or one without [UNK].
    """
    text = read_text(Path(path))
    lines = text.removesuffix("\n").split("\n")
    if lower is None:
        lower = not any(line.removeprefix(INSIDE).isalpha() and line != line.lower() for line in lines)
    pipeline = bert_pipeline(lower=lower, strip_accents=strip_accents, chinese=chinese)
    return from_vocabulary([line.rstrip("\r") for line in lines], pipeline)


# -- training -----------------------------------------------------------------------------------------------------------


def train_wordpiece(
    texts: Iterable[str] | str,
    vocab_size: int | None = None,
    *,
    special_tokens: Iterable[str] = SPECIAL,
    lower: bool = True,
    min_frequency: int = 1,
    alphabet: int | None = None,
) -> WordPieceTokenizer:
    """Learn a vocabulary of `vocab_size` ids, special tokens included.

    Args:
        lower: lower-case the text and take accents away (uncased).
        min_frequency: how often a pair must occur to be merged.
        alphabet: how many characters to keep, the most frequent; words with others are unknown. None keeps all.

    Raises:
        ConfigError: no vocab_size, or special tokens without "[UNK]".
        DataError: no text, or a vocab_size that the text does not support.
    """
    special = tuple(special_tokens)
    _check_request(special, vocab_size)
    assert vocab_size is not None
    pipeline = bert_pipeline(lower=lower)
    counts = count_words(texts, pipeline)
    symbols = _alphabet(counts, alphabet)
    first = {name: len(special) + place for place, name in enumerate(symbols)}
    num_merges = vocab_size - len(special) - len(symbols)
    if num_merges < 0:
        raise DataError(
            f"vocab_size {vocab_size} is smaller than the alphabet",
            wanted=f"at least {vocab_size - num_merges}: {len(symbols)} characters (with and without ##) and"
            f" {len(special)} special tokens",
            do="ask for more, or keep fewer characters: alphabet=1000",
        )
    words = {
        tuple(first[s] for s in _spell(word)): n for word, n in counts.items() if all(s in first for s in _spell(word))
    }
    merges = bpe.train(words, num_merges, len(special) + len(symbols), max(1, min_frequency))
    if len(merges) < num_merges:
        raise DataError(
            f"vocab_size {vocab_size} is larger than this text supports",
            wanted=f"at most {vocab_size - num_merges + len(merges)}",
            do="ask for a smaller vocabulary, or train on more text",
        )
    return from_vocabulary(_assemble([*special, *symbols], merges), pipeline, special=special)


def _check_request(special: tuple[str, ...], vocab_size: int | None) -> None:
    check_special(special)
    if "[UNK]" not in special:
        raise ConfigError(
            f"special tokens {list(special)} without [UNK]", wanted='"[UNK]", for words that cannot be cut'
        )
    if vocab_size is None:
        raise ConfigError("a wordpiece tokenizer without vocab_size", wanted="a number of ids, such as 8192")


def count_words(texts: Iterable[str] | str, pipeline: Pipeline) -> Counter[str]:
    """How often each word occurs.

    Raises:
        DataError: no words at all.
    """
    counts: Counter[str] = Counter()
    for text in one_or_many(texts):
        check_text(text)
        counts.update(pipeline.words(text))
    if not counts:
        raise DataError("the text is empty", wanted="text to learn a vocabulary from", do="check the source")
    return counts


def _spell(word: str) -> list[str]:
    return [word[0], *(INSIDE + char for char in word[1:])]


def _alphabet(counts: Mapping[str, int], most: int | None) -> list[str]:
    """The characters of the words, those that begin one before those inside, each sorted."""
    frequency: Counter[str] = Counter()
    for word, count in counts.items():
        for symbol in _spell(word):
            frequency[symbol] += count
    of_char: Counter[str] = Counter()
    for symbol, count in frequency.items():
        of_char[symbol[-1]] += count
    kept = set(sorted(of_char, key=lambda char: (-of_char[char], char))[:most])
    symbols = [symbol for symbol in frequency if symbol[-1] in kept]
    return sorted(symbols, key=lambda symbol: (len(symbol), symbol))


def _assemble(names: list[str], merges: Sequence[bpe.Pair]) -> list[str]:
    for a, b in merges:
        names.append(names[a] + names[b].removeprefix(INSIDE))
    return names
