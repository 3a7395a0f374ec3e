"""Which documents are kept and which of them are held out for validation.

*Duplicates.* Documents are told apart by the sha256 of their text; of equal ones the first is kept.

*Split.* A document is held out when a seeded hash of its content falls below `validation`: a number that belongs to the
document alone, so that adding or removing others moves none. Where chance would hold out none (or all), the document
with the lowest (highest) number is held out (kept): that is the one case in which documents can move.

*Cutting.* Fewer than 1 / `validation` documents (a single text file, say) cannot give such a share by whole documents,
so they are cut first: the size is the largest power of two up to 1/32 of all characters (64 to 65,536), and a piece
ends after the last line break within that size, in longer lines after the last space, else at the size itself. Pieces
are held out in the order of their seeded hash up to the share `validation` of the bytes (at least the smallest piece);
equal pieces go together. Neighbouring pieces of one side are joined again into one document, so training keeps long
stretches.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby

from formers.errors import DataError

TRAIN, VALIDATION = 0, 1
SPLITS = ("train", "validation")
PIECES = 32
SMALLEST_PIECE, LARGEST_PIECE = 64, 1 << 16


@dataclass(frozen=True)
class Part:
    """Characters start..stop of a document (stop None: to its end) that make one document of a split."""

    start: int
    stop: int | None
    split: int


Plan = dict[bytes, list[Part]]
"""digest of a document -> the parts it is kept as."""


@dataclass
class Survey:
    """What one pass over the documents finds: digest -> (characters, bytes), and how many were there twice."""

    sizes: dict[bytes, tuple[int, int]]
    duplicates: int

    @property
    def characters(self) -> int:
        return sum(characters for characters, _ in self.sizes.values())


def digest(text: str) -> bytes:
    """sha256 of the text in UTF-8."""
    return hashlib.sha256(text.encode()).digest()


def survey(texts: Iterable[str]) -> Survey:
    """Digests and sizes of `texts`."""
    found = Survey({}, 0)
    for text in texts:
        key = digest(text)
        if key in found.sizes:
            found.duplicates += 1
        else:
            found.sizes[key] = (len(text), len(text.encode()))
    return found


def score(key: bytes, seed: int) -> float:
    """A number in [0, 1) that belongs to a content and a seed."""
    mixed = hashlib.sha256(f"formers split {seed}\n".encode() + key).digest()
    return int.from_bytes(mixed[:8], "big") / 2**64


def whole_documents(keys: Iterable[bytes], validation: float, seed: int) -> Plan:
    """Every document in one piece, held out by its score.

    Raises:
        DataError: a single document, and a validation split is asked for.
    """
    scores = {key: score(key, seed) for key in keys}
    held_out = {key for key, value in scores.items() if value < validation}
    if validation > 0:
        if len(scores) < 2:
            raise DataError(
                "the text is one document", "two or more, to hold one out", "let it be cut, or ask for validation=0"
            )
        if not held_out:
            held_out = {min(scores, key=scores.__getitem__)}
        if len(held_out) == len(scores):
            held_out.remove(max(scores, key=scores.__getitem__))
    return {key: [Part(0, None, int(key in held_out))] for key in scores}


def needs_cutting(documents: int, validation: float) -> bool:
    """Whether so few documents cannot give the share by whole documents."""
    return validation > 0 and documents * validation < 1


def piece_size(characters: int) -> int:
    """Characters of a piece: the largest power of two up to 1/32 of the text, within limits. A power of two, so that a
    file that grows a little keeps its cuts."""
    share = max(1, characters // PIECES)
    return min(max(1 << (share.bit_length() - 1), SMALLEST_PIECE), LARGEST_PIECE)


def cuts(text: str, size: int) -> Iterator[tuple[int, int]]:
    """Places (start, stop) of the pieces of `text`; see the rule at the top."""
    start = 0
    while start < len(text):
        stop = min(start + size, len(text))
        if stop < len(text):
            line = text.rfind("\n", start, stop)
            space = line if line >= 0 else text.rfind(" ", start, stop)
            stop = space + 1 if space >= 0 else stop
        yield start, stop
        start = stop


def cut_documents(texts: Iterable[str], characters: int, validation: float, seed: int) -> Plan:
    """Documents cut into pieces, neighbours of one split joined again. `characters` counts all of them.

    Raises:
        DataError: the text is too short, or repeats one piece over and over, so that none can be held out.
    """
    size = piece_size(characters)
    places: dict[bytes, list[tuple[int, int, bytes]]] = {}
    weights: Counter[bytes] = Counter()
    for text in texts:
        key = digest(text)
        if key not in places:
            places[key] = [(start, stop, digest(text[start:stop])) for start, stop in cuts(text, size)]
            weights.update({piece: 0 for _, _, piece in places[key]})
            for start, stop, piece in places[key]:
                weights[piece] += len(text[start:stop].encode())
    held_out = _held_out(weights, validation, seed)
    return {key: list(_joined(pieces, held_out)) for key, pieces in places.items()}


def _held_out(weights: Mapping[bytes, int], validation: float, seed: int) -> set[bytes]:
    if len(weights) < 2:
        raise DataError(
            f"the text has {sum(weights.values()):,} bytes and cannot be cut into pieces that differ",
            f"at least two different pieces of {SMALLEST_PIECE} characters, to hold one out for validation",
            "give more text, or ask for no validation split (validation=0)",
        )
    quota, taken = validation * sum(weights.values()), 0
    held_out: set[bytes] = set()
    for piece in sorted(weights, key=lambda key: score(key, seed)):
        if taken + weights[piece] <= quota:
            held_out.add(piece)
            taken += weights[piece]
    return held_out or {min(weights, key=lambda key: (weights[key], score(key, seed)))}


def _joined(pieces: list[tuple[int, int, bytes]], held_out: set[bytes]) -> Iterator[Part]:
    for is_held_out, run in groupby(pieces, key=lambda piece: piece[2] in held_out):
        places = list(run)
        yield Part(places[0][0], places[-1][1], int(is_held_out))


def follow(plan: Plan, texts: Iterable[str]) -> Iterator[tuple[str, int]]:
    """(text, split) of every document of the plan, in the order of `texts`.

    Raises:
        DataError: the texts are not those the plan was made of.
    """
    left = dict(plan)
    for text in texts:
        key = digest(text)
        if key not in plan:
            raise _changed()
        for part in left.pop(key, ()):
            yield text[part.start : part.stop], part.split
    if left:
        raise _changed()


def _changed() -> DataError:
    return DataError("the sources changed while they were read", "files that stay as they are", "build again")
