"""Labelled data, read from the files that they are published as: words with tags, texts with ratings, pairs of texts.

What belongs together (the sentences of an article, those of a review) carries the name of its group, and groups are held out
whole: a test sentence whose neighbours were trained on measures memory.
"""

from __future__ import annotations

import gzip
import json
import math
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from formers.data.plan import digest, score
from formers.errors import DataError

ARTICLE = "-DOCSTART-"
RATED = "_GroundTruth.txt"
"""How the names of VADER's files of rated texts end (Hutto and Gilbert, ICWSM 2014)."""


class Grouped(Protocol):
    """Something to train or test on, and what it belongs to."""

    @property
    def group(self) -> str: ...


Item = TypeVar("Item", bound=Grouped)


@dataclass(frozen=True)
class Sentence:
    """Words and a tag for each."""

    words: tuple[str, ...]
    tags: tuple[str, ...]
    group: str


@dataclass(frozen=True)
class Rated:
    """A text and the mean of what people rated it, -4 (most negative) to 4."""

    text: str
    rating: float
    group: str


@dataclass(frozen=True)
class TextPair:
    """A text and the one that is to be written from it; `split` as the file says, "train" or "test"."""

    source: str
    target: str
    split: str


def held_out(items: Sequence[Item], share: float, seed: int) -> tuple[list[Item], list[Item]]:
    """(training, test): a share of the groups, drawn by `seed`, is the test, at least two of them. Orders are kept.

    Raises DataError where there are fewer than three groups, or a share that is none.
    """
    groups = sorted({item.group for item in items}, key=lambda group: score(digest(group), seed))
    if not 0 < share < 1 or len(groups) < 3:
        raise DataError(
            f"{len(groups)} groups and a test share of {share}", "three groups or more, a share within 0 and 1"
        )
    test = set(groups[: min(len(groups) - 1, max(2, round(share * len(groups))))])
    return [item for item in items if item.group not in test], [item for item in items if item.group in test]


# --- words with tags --------------------------------------------------------------------------------------------------


def read_conll(path: Path | str) -> list[Sentence]:
    """The sentences of a CoNLL file: a word a line, its tag in the last column, an empty line behind each sentence.

    Lines of -DOCSTART- begin an article, which is the group of its sentences; in files without, a sentence is its own.

    Raises DataError for a file that cannot be read, a line (it is named) without tag, or no sentence at all.
    """
    lines = _text(Path(path)).splitlines()
    has_articles = any(line.startswith(ARTICLE) for line in lines)
    found: list[Sentence] = []
    article, rows = 0, []
    for number, line in enumerate([*lines, ""], start=1):
        fields = line.split()
        if line.startswith(ARTICLE):
            article, fields = article + 1, []
        if len(fields) == 1:
            raise DataError(
                f"{path}, line {number}: {line[:60]!r} has no tag", "a word and its tag, such as: Paris I-LOC"
            )
        if fields:
            rows.append((fields[0], fields[-1]))
        elif rows:
            words, tags = zip(*rows, strict=True)
            group = f"article {article}" if has_articles else f"sentence {len(found)}"
            found.append(Sentence(words, tags, group))
            rows = []
    if not found:
        raise DataError(f"{path} holds no sentence", "a word and its tag a line, an empty line behind each sentence")
    return found


# --- texts with ratings -----------------------------------------------------------------------------------------------


def read_ratings(path: Path | str) -> list[Rated]:
    """Rated texts: a file of `id<TAB>rating<TAB>text` lines, or a folder or .tar.gz of VADER's with several.

    An id such as 12_3 is sentence 3 of text 12, whose sentences are a group. Of equal texts the first is kept.

    Raises DataError for what cannot be read, a line (it is named) that is no such line, or no text at all.
    """
    found: dict[str, Rated] = {}
    for name, text in _rated_files(Path(path)):
        for number, line in enumerate(text.splitlines(), start=1):
            if line.strip():
                rated = _rated(line, name, number)
                found.setdefault(rated.text, rated)
    if not found:
        raise DataError(f"{path} holds no rated text", f"id<TAB>rating<TAB>text lines, or files named *{RATED}")
    return list(found.values())


def _rated(line: str, name: str, number: int) -> Rated:
    fields = line.split("\t")
    try:
        key, rating, text = fields[0], float(fields[1]), fields[2].strip()
    except (IndexError, ValueError):
        text, key, rating = "", "", math.nan
    if not text or not math.isfinite(rating):
        raise DataError(f"{name}, line {number}: {line[:60]!r}", "id<TAB>rating<TAB>text")
    return Rated(text, rating, f"{name} {key.partition('_')[0]}")


def _rated_files(path: Path) -> Iterator[tuple[str, str]]:
    """Name and text of each file of ratings, by name."""
    if path.is_dir():
        for file in sorted(path.rglob(f"*{RATED}")):
            yield file.name, _text(file)
    elif path.name.endswith((".tar.gz", ".tgz", ".tar")):
        yield from _in_archive(path)
    else:
        yield path.name, _text(path)


def _in_archive(path: Path) -> Iterator[tuple[str, str]]:
    try:
        with tarfile.open(path) as archive:
            members = [member for member in archive.getmembers() if member.isfile() and member.name.endswith(RATED)]
            for member in sorted(members, key=lambda member: member.name):
                file = archive.extractfile(member)
                assert file is not None
                yield Path(member.name).name, file.read().decode("utf-8-sig")
    except (OSError, tarfile.TarError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}", f"an archive of files named *{RATED}, in UTF-8") from None


# --- pairs of texts ---------------------------------------------------------------------------------------------------


def read_text_pairs(path: Path | str, source: str, target: str) -> list[TextPair]:
    """The pairs of a JSON-lines file (.gz too) whose lines have the fields `source`, `target` and "split".

    Raises DataError for a file that cannot be read, a line (it is named) that lacks one of them, or a split without pairs.
    """
    found = []
    for number, line in enumerate(_text(Path(path)).splitlines(), start=1):
        if line.strip():
            found.append(_text_pair(line, f"{path}, line {number}", (source, target, "split")))
    splits = {pair.split for pair in found}
    if not {"train", "test"} <= splits:
        there = ", ".join(sorted(splits)) or "nothing"
        raise DataError(f"{path} holds {there}", 'lines with "split": "train" and lines with "split": "test"')
    return found


def _text_pair(line: str, where: str, fields: tuple[str, str, str]) -> TextPair:
    wanted = "an object with " + ", ".join(map(repr, fields))
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(f"{where} is no JSON: {error}", wanted) from None
    if not isinstance(row, dict) or not all(isinstance(row.get(field), str) and row[field].strip() for field in fields):
        raise DataError(f"{where}: {line[:60]}", wanted + ", none of them empty")
    return TextPair(*(row[field] for field in fields))


def pair_lines(pairs: Iterable[TextPair]) -> bytes:
    """The pairs as ``formers data build --pairs`` reads them."""
    lines = (json.dumps({"source": pair.source, "target": pair.target}, ensure_ascii=False) for pair in pairs)
    return "".join(line + "\n" for line in lines).encode()


def _text(path: Path) -> str:
    try:
        raw = path.expanduser().read_bytes()
        return (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}", "a text file in UTF-8, or one that gzip made") from None
