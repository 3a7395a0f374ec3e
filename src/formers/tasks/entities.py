"""Entities from tags, by the rules of CoNLL's evaluation as seqeval writes them, and precision, recall and F1 of entities.

A tag is "O", or a letter and a type: B-PER begins a person, I-PER goes on with one, E-PER is its last token, S-PER one of a
single token. Rules are lenient, so that IOB1, IOB2 and IOBES are all read: an entity begins where a tag says so, where the type
changes, and where I or E follow what has ended; it ends before the next one and before O. A tag without a letter is an I.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from formers.errors import DataError

OUTSIDE = "O"

Span = tuple[str, int, int]
"""Type, first place, and the place behind the last."""


def split_tag(tag: str) -> tuple[str, str]:
    """Letter and type: "B-PER" is ("B", "PER"), "O" is ("O", ""), "PER" is ("I", "PER")."""
    if tag == OUTSIDE:
        return OUTSIDE, ""
    if tag[1:2] == "-" and tag[0] in "BIES":
        return tag[0], tag[2:]
    return "I", tag


def begins(before: str, tag: str) -> bool:
    """Whether an entity begins at `tag`, the one before it being `before`."""
    (last, last_type), (letter, kind) = split_tag(before), split_tag(tag)
    return letter != OUTSIDE and (letter in "BS" or last in "OES" or kind != last_type)


def spans(tags: Sequence[str]) -> list[Span]:
    """The entities of a sentence's tags, from left to right."""
    found: list[Span] = []
    before = OUTSIDE
    for place, tag in enumerate(tags):
        if begins(before, tag):
            found.append((split_tag(tag)[1], place, place + 1))
        elif tag != OUTSIDE:
            kind, first, _ = found[-1]
            found[-1] = (kind, first, place + 1)
        before = tag
    return found


@dataclass(frozen=True)
class Scores:
    """Precision, recall, F1, and how many entities there are in truth. A share of nothing is 0."""

    precision: float
    recall: float
    f1: float
    support: int

    @classmethod
    def of(cls, right: int, predicted: int, true: int) -> Scores:
        precision, recall = right / predicted if predicted else 0.0, right / true if true else 0.0
        both = precision + recall
        return cls(precision, recall, 2 * precision * recall / both if both else 0.0, true)


@dataclass(frozen=True)
class EntityScores:
    """`overall` counts entities of all types together (micro average); `macro_f1` is the mean of the types' F1."""

    overall: Scores
    macro_f1: float
    types: dict[str, Scores]


def entity_scores(truth: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> EntityScores:
    """An entity is right if type, beginning and end are. Tags of sentences; raises DataError where lengths differ."""
    _check(truth, predicted)
    true, guessed, right = Counter[str](), Counter[str](), Counter[str]()
    for theirs, ours in zip(truth, predicted, strict=True):
        is_true, is_guessed = set(spans(theirs)), set(spans(ours))
        true.update(span[0] for span in is_true)
        guessed.update(span[0] for span in is_guessed)
        right.update(span[0] for span in is_true & is_guessed)
    kinds = sorted(true | guessed)
    types = {kind: Scores.of(right[kind], guessed[kind], true[kind]) for kind in kinds}
    macro = sum(scores.f1 for scores in types.values()) / len(types) if types else 0.0
    return EntityScores(Scores.of(right.total(), guessed.total(), true.total()), macro, types)


def _check(truth: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> None:
    if len(truth) != len(predicted):
        raise DataError(f"{len(truth)} sentences and {len(predicted)} predictions", "as many of each")
    for place, (theirs, ours) in enumerate(zip(truth, predicted, strict=True)):
        if isinstance(theirs, str) or isinstance(ours, str):
            raise DataError(f"sentence {place} is one text", "a list of tags, one a token")
        if len(theirs) != len(ours):
            raise DataError(
                f"sentence {place} has {len(theirs)} tags and {len(ours)} predicted ones", "as many of each"
            )
