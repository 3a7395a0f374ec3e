"""The steps that change text before it is cut into words: BERT's, and those that T5, ALBERT and DeBERTa ask for.

Each is a small frozen value with two methods (:class:`formers.text.aligned.Step`). Character classes follow the Unicode table
of the `regex` package, decompositions that of Python; where the Rust library's older tables differ, see ``rust.Differing``.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

from formers.text.aligned import Step
from formers.text.patterns import compiled

METASPACE = "\u2581"
"""LOWER ONE EIGHTH BLOCK: what sentencepiece writes for a space."""

CJK = (
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0002a6df\U0002a700-\U0002b81f\U0002b920-\U0002ceaf\U0002f800-\U0002fa1f"
)
"""Chinese characters as BERT counts them. From U+2B820 in its own code; the Rust library begins at U+2B920, and we with it."""


@dataclass(frozen=True)
class Replace:
    """Every match of a regular expression becomes `new`."""

    expression: str
    new: str

    def __call__(self, text: str) -> str:
        return compiled(self.expression).sub(lambda _: self.new, text)

    def pieces(self, text: str) -> Iterator[tuple[str, int]]:
        at = 0
        for found in compiled(self.expression).finditer(text):
            yield text[at : found.start()], found.start() - at
            yield self.new, found.end() - found.start()
            at = found.end()
        yield text[at:], len(text) - at


@dataclass(frozen=True)
class SpaceAroundCJK:
    """A space on either side of every Chinese character, so that each becomes a word."""

    def __call__(self, text: str) -> str:
        return text if text.isascii() else compiled(_CJK).sub(r" \g<0> ", text)

    def pieces(self, text: str) -> Iterator[tuple[str, int]]:
        for char in text:
            yield f" {char} " if compiled(_CJK).match(char) else char, 1


@dataclass(frozen=True)
class Lower:
    """Lower case, character by character: a final sigma is a sigma, and U+0130 becomes i with a dot above."""

    def __call__(self, text: str) -> str:
        return text.lower() if text.isascii() else "".join(map(str.lower, text))

    def pieces(self, text: str) -> Iterator[tuple[str, int]]:
        return ((char.lower(), 1) for char in text)


@dataclass(frozen=True)
class UnicodeForm:
    """NFC, NFD, NFKC or NFKD."""

    form: str

    def __call__(self, text: str) -> str:
        return text if text.isascii() else unicodedata.normalize(self.form, text)  # pyright: ignore[reportArgumentType]

    def pieces(self, text: str) -> Iterator[tuple[str, int]]:
        """A character and those after it that can join or pass it: marks, and the later letters of Korean syllables."""
        for run in compiled(_RUNS).findall(text):
            yield self(run), len(run)


@dataclass(frozen=True)
class Strip:
    """White space at the beginning, at the end, or both, goes."""

    left: bool
    right: bool

    def _bounds(self, text: str) -> tuple[int, int]:
        first, last = compiled(r"\S").search(text), compiled(r"(?r)\S").search(text)
        if first is None or last is None:
            return (len(text), len(text)) if self.left else (0, 0 if self.right else len(text))
        return first.start() if self.left else 0, last.end() if self.right else len(text)

    def __call__(self, text: str) -> str:
        start, end = self._bounds(text)
        return text[start:end]

    def pieces(self, text: str) -> Iterator[tuple[str, int]]:
        start, end = self._bounds(text)
        yield from (("", start), (text[start:end], end - start), ("", len(text) - end))


@dataclass(frozen=True)
class Metaspace:
    """Spaces become `METASPACE`, and a text that does not begin with one gets one (sentencepiece's dummy prefix)."""

    prefix: bool = True

    def __call__(self, text: str) -> str:
        text = text.replace(" ", METASPACE)
        return METASPACE + text if self.prefix and text and text[0] != METASPACE else text

    def pieces(self, text: str) -> Iterator[tuple[str, int]]:
        if self.prefix and text and text[0] not in (" ", METASPACE):
            yield METASPACE, 0
        yield from ((METASPACE if char == " " else char, 1) for char in text)


_CJK = f"[{CJK}]"
_JOINING = r"\p{M}\u1160-\u11ff\uff9e-\uffdc"
_RUNS = rf"[^{_JOINING}][{_JOINING}]*+|[{_JOINING}]++"

# Tab, line feed and carriage return are spaces to BERT, other control characters are nothing. Unassigned characters stay.
CLEAN = (Replace(r"[^\P{C}\t\n\r\p{Cn}]|[\0\ufffd]", ""), Replace(r"\s", " "))
NO_ACCENTS = (UnicodeForm("NFD"), Replace(r"\p{Mn}+", ""))
NO_MARKS = (Replace(r"\p{M}+", ""),)


def bert(*, clean: bool = True, cjk: bool = True, lower: bool = True, strip_accents: bool | None = None) -> list[Step]:
    """BERT's normalisation: `lower` is what tells uncased from cased, and takes accents away unless told otherwise."""
    accents = lower if strip_accents is None else strip_accents
    return [
        *(CLEAN if clean else ()),
        *((SpaceAroundCJK(),) if cjk else ()),
        *(NO_ACCENTS if accents else ()),
        *((Lower(),) if lower else ()),
    ]
