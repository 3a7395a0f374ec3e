"""Where a row ends, and the text it has by then.

Text is cut exactly at a stop string, also where the string begins or ends inside a token: as if characters came one at a
time, the first stop string to be complete ends the row (of several completed by one character, the longest).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from formers.text.base import Tokenizer

LENGTH, TOKEN, STRING = "length", "stop_token", "stop_string"
"""Why a row ended: all tokens that were asked for, a stop token, or a stop string."""


class RowText:
    """The text of one row as its tokens come. What `feed` returns is final: it holds back what may begin a stop string.

    before  ids that the row goes on from, which are no part of its text: a word that follows them keeps its space
    """

    def __init__(self, tokenizer: Tokenizer, stop_strings: Sequence[str] = (), before: Sequence[int] = ()) -> None:
        self._stream, self._stops = tokenizer.stream(), tuple(stop_strings)
        self._stream.feed(before)
        self._held = ""
        self.stopped = False

    def feed(self, token: int) -> str:
        """New text that is certain to stay. Empty once a stop string has ended the row."""
        return "" if self.stopped else self._release(self._stream.feed(token))

    def finish(self) -> str:
        """What was held back, when no more tokens come."""
        if self.stopped:
            return ""
        released = self._release(self._stream.finish())
        rest, self._held = self._held, ""
        return released + rest

    def _release(self, new: str) -> str:
        text = self._held + new
        cut = first_stop(text, self._stops)
        if cut is not None:
            self.stopped, self._held = True, ""
            return text[:cut]
        keep = len(text) - unfinished(text, self._stops)
        self._held = text[keep:]
        return text[:keep]


def first_stop(text: str, stops: Sequence[str]) -> int | None:
    """Where the first stop string to be complete begins; None where none stands in `text`."""
    found = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text]
    return min(found)[1] if found else None


def unfinished(text: str, stops: Sequence[str]) -> int:
    """Length of the longest end of `text` with which a stop string may begin."""
    lengths = (n for stop in stops for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n]))
    return max(lengths, default=0)


class RowEnd:
    """Tells when one row ends."""

    def __init__(
        self,
        stop_tokens: Sequence[int],
        stop_strings: Sequence[str],
        tokenizer: Tokenizer | None,
        before: Sequence[int] = (),
    ) -> None:
        self._tokens = frozenset(stop_tokens)
        self._text = None if not stop_strings or tokenizer is None else RowText(tokenizer, stop_strings, before)

    def after(self, token: int) -> str | None:
        """Why the row ends with this token, or None."""
        if token in self._tokens:
            return TOKEN
        if self._text is None:
            return None
        self._text.feed(token)
        return STRING if self._text.stopped else None
