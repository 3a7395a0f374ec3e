"""From sources to a shard folder: read, plan, train the tokenizer, encode, write aside, rename."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from formers.data.overlap import LineOverlap
from formers.data.plan import (
    SPLITS,
    TRAIN,
    VALIDATION,
    Plan,
    Survey,
    cut_documents,
    follow,
    needs_cutting,
    survey,
    whole_documents,
)
from formers.data.progress import Watch, watch
from formers.data.readers import Reader
from formers.data.shards import ShardWriter, is_shard_folder
from formers.data.sources import STDLIB, Source, as_sources
from formers.data.vocabulary import choose_tokenizer
from formers.errors import DataError
from formers.files import whole_folder

if TYPE_CHECKING:
    from formers.data.vocabulary import TokenizerChoice
    from formers.text.base import Tokenizer

ENCODE_AT_ONCE = 1 << 22  # characters handed to the tokenizer in one call: enough to keep its threads busy
LOPSIDED = 3.0  # times the share of validation asked for, from which the summary remarks on it


@dataclass(frozen=True)
class Summary:
    """What was built. Dictionaries have the keys "train" and "validation".

    Attributes:
        folder: the shard folder.
        documents, tokens, bytes: counts by split.
        vocab_size, tokenizer_kind, tokenizer_fingerprint: of the tokenizer.
        duplicates: documents left out because an equal one was there.
        skipped: reason -> how many files (or "empty" documents) were left out; `skipped_files`: the first names.
        overlap: share of validation lines over 40 characters that also stand in training; None without such lines.
        cut: whether documents were cut to give a validation split.
        seconds: how long it took.
        notes: what a user should know, one sentence each.
    """

    folder: Path
    documents: dict[str, int]
    tokens: dict[str, int]
    bytes: dict[str, int]
    vocab_size: int
    tokenizer_kind: str
    tokenizer_fingerprint: str
    duplicates: int
    skipped: dict[str, int]
    skipped_files: list[str]
    overlap: float | None
    cut: bool
    seconds: float
    notes: list[str] = field(default_factory=list)

    @property
    def bytes_per_token(self) -> float:
        """Bytes of UTF-8 a token, over both splits."""
        return sum(self.bytes.values()) / sum(self.tokens.values())

    def lines(self) -> list[tuple[str, str]]:
        """(label, value) pairs to print."""
        skipped = ", ".join(f"{count:,} {reason}" for reason, count in sorted(self.skipped.items())) or "none"
        share = "no" if not self.overlap else f"{self.overlap:.1%} of"
        return [
            ("folder", str(self.folder)),
            ("tokenizer", f"{self.tokenizer_kind}, {self.vocab_size:,} tokens, {self.tokenizer_fingerprint[:12]}"),
            *((name, self._split(name)) for name in SPLITS),
            ("bytes per token", f"{self.bytes_per_token:.2f}"),
            ("duplicates left out", f"{self.duplicates:,}"),
            ("skipped", skipped),
            ("overlap", f"{share} validation lines over 40 characters stand in training too"),
            ("seconds", f"{self.seconds:.1f}"),
            *(("note", note) for note in self.notes),
        ]

    def _split(self, name: str) -> str:
        return f"{self.documents[name]:,} documents, {self.tokens[name]:,} tokens, {self.bytes[name]:,} bytes"


@dataclass(frozen=True)
class Settings:
    """What decides the contents of a shard folder, besides the text.

    Attributes:
        tokenizer: "bpe", "wordpiece", "unigram" or "word" (trained on the training split), "byte", "char" (the characters of
            all documents), "gpt2", a folder with a tokenizer.json, or a Tokenizer.
        vocab_size: for a trained one, default 4,096; the others have their own.
        seed: of the split.
        validation: share of the documents that is held out, in [0, 1).
        separator: what divides a text file into documents; None: a file is a document.
        text_field: the field of JSON lines, the column of Parquet and data sets.
        cut: whether to cut documents for the split (see :mod:`formers.data.plan`); None: if they are too few.
    """

    tokenizer: TokenizerChoice = "bpe"
    vocab_size: int | None = None
    seed: int = 0
    validation: float = 0.1
    separator: str | None = None
    text_field: str = "text"
    cut: bool | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.validation < 1:
            raise DataError(f"validation = {self.validation}", "a share in [0, 1)", "0.1 holds out a tenth")


def build(
    sources: Source | Iterable[Source] = (STDLIB,),
    out: Path | str = "shards",
    *,
    tokenizer: TokenizerChoice = "bpe",
    vocab_size: int | None = None,
    seed: int = 0,
    validation: float = 0.1,
    separator: str | None = None,
    text_field: str = "text",
    cut: bool | None = None,
    quiet: bool = False,
) -> Summary:
    """Build the shard folder `out` from text; see :class:`Settings` for the arguments.

    The same text and settings give the same files. `out` appears when it is complete; a shard folder that stood there
    is replaced. Text is UTF-8, a byte order mark is dropped, newlines stay. Progress goes to stderr if that is a
    terminal.

    Raises:
        DataError: no text, bad sources, a vocabulary larger than the text supports, `out` is something else, the disk
            is full.
    """
    settings = Settings(tokenizer, vocab_size, seed, validation, separator, text_field, cut)
    return build_with(as_sources(sources), Path(out), settings, quiet=quiet)


def build_with(
    sources: list[Source], out: Path, settings: Settings, *, quiet: bool = False, replace: bool = False
) -> Summary:
    """:func:`build` with its settings as one object; `replace`: whatever stands at `out` may go."""
    started = time.perf_counter()
    out = out.expanduser().resolve()
    if not replace:
        _check_out(out)
    reader = Reader(sources, text_field=settings.text_field, separator=settings.separator)
    try:
        with watch(quiet) as show, whole_folder(out) as folder:
            meta = _build_in(folder, reader, settings, show, [os.fspath(source) for source in sources])
    except OSError as error:
        raise DataError(
            f"{out} could not be written: {error.strerror or error}",
            "space and permission to write",
            "nothing was changed",
        ) from error
    return _summary(out, meta, time.perf_counter() - started)


def _check_out(out: Path) -> None:
    if out.is_dir() and not any(out.iterdir()):
        return
    if out.exists() and not is_shard_folder(out):
        raise DataError(
            f"{out} exists and is no shard folder", "a new folder, or shards to replace", "name another --out"
        )


def _build_in(folder: Path, reader: Reader, settings: Settings, show: Watch, sources: list[str]) -> dict[str, Any]:
    found = survey(show.texts("reading", reader))
    _check_text(reader, found)
    cut = needs_cutting(len(found.sizes), settings.validation) if settings.cut is None else settings.cut
    plan = _plan(reader, found, settings, cut)
    tokenizer = choose_tokenizer(settings.tokenizer, settings.vocab_size, _Texts(reader, plan, show, found.characters))
    overlap = LineOverlap()
    for text, split in follow(plan, reader):
        if split == VALIDATION:
            overlap.validation(text)
    with ShardWriter(folder, tokenizer) as writer:
        for text, split in _encode(writer, tokenizer, follow(plan, show.texts("encoding", reader, found.characters))):
            if split == TRAIN:
                overlap.training(text)
        return writer.finish(
            {
                "sources": sources,
                "files": reader.files,
                "seed": settings.seed,
                "validation": settings.validation,
                "separator": settings.separator,
                "text_field": settings.text_field,
                "cut": cut,
                "duplicates": found.duplicates,
                "skipped": dict(sorted(reader.skipped.items())),
                "skipped_files": reader.skipped_files,
                "overlap": overlap.share,
                "overlap_lines": overlap.lines,
            }
        )


def _check_text(reader: Reader, found: Survey) -> None:
    if not found.sizes:
        skipped = ", ".join(f"{count:,} {reason}" for reason, count in sorted(reader.skipped.items()))
        raise DataError(
            f"the sources hold no text: {reader.files:,} files, of them {skipped or 'none usable'}",
            "at least one file of UTF-8 text",
            "check the sources; other encodings need converting first",
        )


def _plan(reader: Reader, found: Survey, settings: Settings, cut: bool) -> Plan:
    if cut and settings.validation > 0:
        return cut_documents(reader, found.characters, settings.validation, settings.seed)
    return whole_documents(found.sizes, settings.validation, settings.seed)


class _Texts:
    """The documents a tokenizer may be trained on: (text, split) pairs, anew at each call."""

    def __init__(self, reader: Reader, plan: Plan, show: Watch, characters: int) -> None:
        self._reader, self._plan, self._show, self.characters = reader, plan, show, characters

    def __call__(self, *, training_only: bool) -> Iterator[str]:
        reading = self._show.texts("tokenizer", self._reader, self.characters)
        return (text for text, split in follow(self._plan, reading) if not (training_only and split == VALIDATION))


def _encode(
    writer: ShardWriter, tokenizer: Tokenizer, documents: Iterable[tuple[str, int]]
) -> Iterator[tuple[str, int]]:
    """Write the documents, several at once; they are passed on."""
    waiting: list[tuple[str, int]] = []
    size = 0
    for text, split in documents:
        waiting.append((text, split))
        size += len(text)
        if size >= ENCODE_AT_ONCE:
            _write(writer, tokenizer, waiting)
            waiting, size = [], 0
        yield text, split
    _write(writer, tokenizer, waiting)


def _write(writer: ShardWriter, tokenizer: Tokenizer, documents: list[tuple[str, int]]) -> None:
    encoded = tokenizer.encode_batch([text for text, _ in documents])
    for (text, split), ids in zip(documents, encoded, strict=True):
        writer.add(ids, len(text.encode()), split)


def _summary(out: Path, meta: dict[str, Any], seconds: float) -> Summary:
    same = [name for name in Summary.__dataclass_fields__ if name in meta]
    return Summary(folder=out, seconds=seconds, notes=_notes(meta), **{name: meta[name] for name in same})


def _notes(meta: dict[str, Any]) -> list[str]:
    notes = []
    size, wanted = meta["bytes"], meta["validation"]
    share = size["validation"] / (size["train"] + size["validation"])
    if meta["cut"]:
        notes.append("the documents are few, so they were cut at line ends to give a validation split")
    if wanted and not wanted / LOPSIDED <= share <= wanted * LOPSIDED:
        why = "the text is too short for a closer cut" if meta["cut"] else "documents differ much in size"
        notes.append(f"validation holds {share:.1%} of the bytes, {wanted:.1%} was asked for: {why}")
    if meta["inexact_documents"]:
        notes.append(
            f"the tokens of {meta['inexact_documents']:,} documents do not spell their bytes, since the tokenizer changes "
            "or does not know some characters: bits per byte count the bytes of the tokens"
        )
    return notes
