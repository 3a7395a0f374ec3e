"""What pipelines give: plain records, which print as they are and turn into JSON."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Choice:
    """A token for a gap. `token` is spelt as in the vocabulary where it goes on with a word ("##ing"); `text` is the whole text
    with this token in the gap. `gain`, where it was asked for: the logarithm of how much more probable it is than without the
    text."""

    token: str
    token_id: int
    score: float
    text: str
    gain: float | None = None


@dataclass(frozen=True)
class Gap:
    """A mask token: its characters start..end of the text, and what may stand there, the most probable first."""

    start: int
    end: int
    choices: tuple[Choice, ...]


@dataclass(frozen=True)
class Entity:
    """Characters start..end of a text, which say `text`, and what they name. `score` is the mean probability of its parts."""

    label: str
    text: str
    score: float
    start: int
    end: int


@dataclass(frozen=True)
class Label:
    """A label and its probability (or its logit, where no scoring was asked for)."""

    label: str
    score: float


@dataclass(frozen=True)
class Answer:
    """Characters start..end of a passage. `score`: its probability among all answers that the passage could give. An empty text
    from 0 to 0 says that there is no answer."""

    text: str
    score: float
    start: int
    end: int
