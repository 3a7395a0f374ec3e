"""From a text to the words that a vocabulary of word pieces cuts up: normalisation, then splitting.

Both are read from the form of tokenizer.json and kept as they stand there; what they ask for and nobody here does is named.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from formers.errors import ConfigError
from formers.text.aligned import Aligned, Step
from formers.text.charsmap import CharsMap
from formers.text.normalise import METASPACE, NO_MARKS, Lower, Metaspace, Replace, Strip, UnicodeForm, bert
from formers.text.patterns import compiled

if TYPE_CHECKING:
    import regex

Json = dict[str, Any]

PUNCTUATION = r"\p{P}$+<=>^`|~"
"""Unicode's punctuation, and the ASCII symbols that BERT counts as such."""
BERT_WORDS = rf"[{PUNCTUATION}]|[^\s{PUNCTUATION}]+"
PUNCTUATION_APART = rf"[{PUNCTUATION}]|[^{PUNCTUATION}]+"
NO_SPACES = r"\S+"
WORD = r"\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}"
"""What the Rust library calls a word's character (Unicode, UTS 18, annex C)."""
WORDS_AND_REST = rf"[{WORD}]+|[^{WORD}\s]+"
AT_METASPACES = rf"{METASPACE}[^{METASPACE}]*|[^{METASPACE}]+"

Stage = tuple[Step | None, "regex.Pattern[str]"]
"""A way to split: a change of each part (or none), then the matches of an expression."""


class Pipeline:
    """Text to words.

    Args:
        normalizer: as in tokenizer.json; None for none.
        pre_tokenizer: as in tokenizer.json.

    Attributes:
        problems: what is asked for and not implemented; a pipeline with problems must not be used.
    """

    def __init__(self, normalizer: Json | None, pre_tokenizer: Json | None) -> None:
        self.normalizer, self.pre_tokenizer = normalizer, pre_tokenizer
        self.problems: list[str] = []
        self.steps = [step for part in _flat(normalizer, "normalizers") for step in self._steps(part)]
        self.stages = [stage for part in _flat(pre_tokenizer, "pretokenizers") for stage in self._stages(part)]

    def __repr__(self) -> str:
        return f"Pipeline({self.content()})"

    @property
    def has_metaspace(self) -> bool:
        """Whether words begin with a sign for the space before them."""
        return any(isinstance(step, Metaspace) for step, _ in self.stages)

    @property
    def adds_prefix(self) -> bool:
        """Whether the first word begins with such a sign though no space stands before it."""
        return any(isinstance(step, Metaspace) and step.prefix for step, _ in self.stages)

    def content(self) -> list[object]:
        """What decides the words, as JSON: for fingerprints."""
        parts = [*_flat(self.normalizer, "normalizers"), *_flat(self.pre_tokenizer, "pretokenizers")]
        return [_canonical(part) for part in parts]

    def words(self, text: str) -> list[str]:
        """The words of `text`, normalised, in order."""
        for step in self.steps:
            text = step(text)
        parts = [text] if text else []
        for step, pattern in self.stages:
            changed = parts if step is None else map(step, parts)
            parts = [word for part in changed for word in pattern.findall(part)]
        return parts

    def aligned_words(self, text: str) -> list[Aligned]:
        """The words of `text`, each of which knows where its characters come from."""
        whole = Aligned.whole(text)
        for step in self.steps:
            whole = whole.through(step)
        parts = [whole] if whole.text else []
        for step, pattern in self.stages:
            changed = parts if step is None else [part.through(step) for part in parts]
            parts = [part.cut(*found.span()) for part in changed for found in pattern.finditer(part.text)]
        return parts

    # -- reading --------------------------------------------------------------------------------------------------------

    def _steps(self, part: Json) -> list[Step]:
        match part:
            case {"type": "BertNormalizer"}:
                names = {"clean": "clean_text", "cjk": "handle_chinese_chars", "lower": "lowercase"}
                flags = {ours: bool(part.get(theirs, True)) for ours, theirs in names.items()}
                return bert(**flags, strip_accents=part.get("strip_accents"))
            case {"type": "NFC" | "NFD" | "NFKC" | "NFKD" as form}:
                return [UnicodeForm(form)]
            case {"type": "Lowercase"}:
                return [Lower()]
            case {"type": "StripAccents"}:
                return list(NO_MARKS)
            case {"type": "Strip"}:
                return [Strip(bool(part["strip_left"]), bool(part["strip_right"]))]
            case {"type": "Replace", "pattern": {"String": str(text)}, "content": str(new)}:
                return [Replace(re.escape(text), new)]
            case {"type": "Replace", "pattern": {"Regex": str(expression)}, "content": str(new)}:
                return self._replace(expression, new)
            case {"type": "Precompiled", "precompiled_charsmap": charsmap}:
                return self._charsmap(charsmap)
        self.problems.append(f"the normalizer {_named(part)}")
        return []

    def _charsmap(self, encoded: str | None) -> list[Step]:
        try:
            return [CharsMap(base64.b64decode(encoded, validate=True))] if encoded else []
        except binascii.Error as error:
            self.problems.append(f"the normalizer Precompiled with a charsmap that is not base64 ({error})")
            return []

    def _replace(self, expression: str, new: str) -> list[Step]:
        try:
            compiled(expression)
        except ConfigError as error:
            self.problems.append(f"the normalizer Replace: {error.found}")
            return []
        return [Replace(expression, new)]

    def _stages(self, part: Json) -> list[Stage]:
        match part:
            case {"type": "BertPreTokenizer"}:
                return [(None, compiled(BERT_WORDS))]
            case {"type": "Whitespace"}:
                return [(None, compiled(WORDS_AND_REST))]
            case {"type": "WhitespaceSplit"}:
                return [(None, compiled(NO_SPACES))]
            case {"type": "Punctuation", "behavior": "Isolated"}:
                return [(None, compiled(PUNCTUATION_APART))]
            case {"type": "Metaspace"} if part.get("replacement", METASPACE) == METASPACE and part.get("split", True):
                prefix = _prefix(part)
                if prefix is not None:
                    return [(Metaspace(prefix), compiled(AT_METASPACES))]
        self.problems.append(f"the pre_tokenizer {_named(part)}")
        return []


def _flat(part: Json | None, key: str) -> Iterator[Json]:
    """The parts of a Sequence, of those in it, and so on; nothing for None."""
    if part is not None and part["type"] == "Sequence":
        for inner in part[key]:
            yield from _flat(inner, key)
    elif part is not None:
        yield part


def _canonical(part: Json) -> Json:
    """A table by its hash, a metaspace without the fields that only older or newer files have, the rest as it is."""
    match part:
        case {"type": "Precompiled", "precompiled_charsmap": charsmap}:
            return {"type": "Precompiled", "sha256": hashlib.sha256((charsmap or "").encode()).hexdigest()}
        case {"type": "Metaspace"}:
            return {"type": "Metaspace", "prefix": _prefix(part)}
    return part


def _prefix(metaspace: Json) -> bool | None:
    """Whether every part gets a prefix; None where only the first of a text does, which is not implemented."""
    scheme = metaspace.get("prepend_scheme", "always" if metaspace.get("add_prefix_space", True) else "never")
    return {"always": True, "never": False}.get(scheme)


def _named(part: Json) -> str:
    settings = {key: value for key, value in part.items() if key != "type"}
    return f"{part['type']} {settings}" if settings else part["type"]
