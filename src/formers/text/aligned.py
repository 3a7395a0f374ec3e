"""Text that remembers where it came from, so that a token of normalised text can be shown in the original."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

Span = tuple[int, int]


class Step(Protocol):
    """A change of text. ``step(text)`` is the fast way to what `pieces` gives, joined."""

    def __call__(self, text: str) -> str: ...

    def pieces(self, text: str) -> Iterator[tuple[str, int]]:
        """The new text in pieces, each with the number of characters of `text` that it takes the place of."""
        ...


@dataclass(frozen=True)
class Aligned:
    """A text and for each of its characters the (start, end) of the original that it stands for."""

    text: str
    spans: list[Span]

    @classmethod
    def whole(cls, text: str) -> Aligned:
        """A text that is its own original."""
        return cls(text, [(place, place + 1) for place in range(len(text))])

    def cut(self, start: int, end: int) -> Aligned:
        """The characters from `start` to `end`."""
        return Aligned(self.text[start:end], self.spans[start:end])

    def through(self, step: Step) -> Aligned:
        """The text after `step`. Characters that replace others stand for all of these; what is put in stands for the
        character after it (as in the Rust library), what is unchanged for itself."""
        texts: list[str] = []
        spans: list[Span] = []
        at = 0
        for new, used in step.pieces(self.text):
            old = self.spans[at : at + used]
            if new == self.text[at : at + used]:
                spans += old
            else:
                old = old or self.spans[at : at + 1] or self.spans[-1:] or [(0, 0)]
                spans += [(old[0][0], old[-1][1])] * len(new)
            texts.append(new)
            at += used
        return Aligned("".join(texts), spans)

    def place(self, start: int, end: int) -> Span:
        """Where the characters from `start` to `end` stand in the original."""
        return self.spans[start][0], self.spans[end - 1][1]
