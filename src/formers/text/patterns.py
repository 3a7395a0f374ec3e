"""How text is cut into pieces before BPE: merges never cross the border of a piece.

Two patterns have names; any other regular expression may be given in their place.

- "gpt2" (also r50k): a word or number takes at most a *space* with it; contractions in lower case only.
- "cl100k" (GPT-3.5 and GPT-4), in its **original** form: a word takes any one character that is no letter, digit or line
  break with it, numbers are cut after three digits, punctuation keeps the line breaks behind it, contractions in any case.
  Later releases of tiktoken rewrote it with possessive quantifiers, and the rewritten form is not quite equal: a text that
  ends in a line break followed by other white space is cut once by the original ("\\n ", -> "\\n", " ") and not at all by
  the later one. Everything else is cut alike.

``\\p{L}`` and ``\\p{N}`` follow the Unicode table of the `regex` package, ``\\s`` is Unicode white space (U+00A0 and U+3000
are, U+200B and U+001C to U+001F are not).
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from formers.errors import ConfigError

if TYPE_CHECKING:
    import regex

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
CL100K = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PATTERNS = {"gpt2": GPT2, "cl100k": CL100K}


def as_expression(pattern: str) -> str:
    """The regular expression behind a name; anything that is no name is taken as one itself."""
    return PATTERNS.get(pattern, pattern)


@cache
def compiled(pattern: str) -> regex.Pattern[str]:
    """The compiled pattern.

    Raises:
        ConfigError: neither a name nor a regular expression.
    """
    import regex

    try:
        return regex.compile(as_expression(pattern))
    except regex.error as error:
        raise ConfigError(
            f"{pattern!r} is not a split pattern: {error}",
            wanted=f"one of {', '.join(PATTERNS)}, or a regular expression",
        ) from None


def split(text: str, pattern: str = "gpt2") -> list[str]:
    """The pieces of `text`, which joined are `text` again: the matches, and what lies between them."""
    expression = compiled(pattern)
    pieces = [match.group() for match in expression.finditer(text)] if expression.groups else expression.findall(text)
    if all(pieces) and sum(map(len, pieces)) == len(text):
        return pieces
    return _with_gaps(text, expression)


def _with_gaps(text: str, expression: regex.Pattern[str]) -> list[str]:
    """The named patterns leave nothing out; one of the user's own may."""
    pieces, end = [], 0
    for match in expression.finditer(text):
        pieces += [text[end : match.start()], match.group()]
        end = match.end()
    return [piece for piece in [*pieces, text[end:]] if piece]
