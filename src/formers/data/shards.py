"""A shard folder: the tokens of many documents in one memory-mapped file, and what is known of them.

tokens.bin      little-endian uint16 (uint32 above 65,536 tokens of vocabulary): documents one after another, each
                followed by end_of_text, if the tokenizer has such a token
documents.npy   int64 [documents, 4]: start and length in tokens (end_of_text included), bytes of UTF-8, split
meta.json       see :class:`ShardWriter`; under "left_out" what is counted and stands elsewhere, see `Shards.left_out`
tokenizer.json  the tokenizer
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from formers.data.plan import SPLITS
from formers.errors import DataError, suggest

if TYPE_CHECKING:
    from formers.text.base import Tokenizer

FORMAT, VERSION = "formers.shards", 1
TOKENS, DOCUMENTS, META, TOKENIZER = "tokens.bin", "documents.npy", "meta.json", "tokenizer.json"
FILES = (TOKENS, DOCUMENTS, META, TOKENIZER)
START, LENGTH, BYTES, SPLIT = range(4)
BUILD_AGAIN = "build it again: formers data build SOURCE... --out FOLDER"


@dataclass(frozen=True)
class Shards:
    """An open shard folder.

    Attributes:
        folder: where it is.
        meta: meta.json.
        tokens: uint16 or uint32 [tokens], mapped, not read.
        documents: int64 [documents, 4]: start, length, bytes, split (0 train, 1 validation).
    """

    folder: Path
    meta: dict[str, Any]
    tokens: np.ndarray
    documents: np.ndarray
    given_tokenizer: Tokenizer | None = field(default=None, repr=False)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the folder.

        Raises:
            DataError: it is not the one the tokens were made with.
        """
        if self.given_tokenizer is not None:
            return self.given_tokenizer
        from formers.text import load_tokenizer

        tokenizer = load_tokenizer(self.folder)
        self.check_tokenizer(tokenizer.fingerprint)
        return tokenizer

    @property
    def vocab_size(self) -> int:
        return int(self.meta["vocab_size"])

    @property
    def fingerprint(self) -> str:
        """sha256 hex: tells these tokens and documents, and how they are split, from any others."""
        return hashlib.sha256(json.dumps(self.meta["sha256"], sort_keys=True).encode()).hexdigest()

    def check_tokenizer(self, fingerprint: str) -> None:
        """Whether `fingerprint` is that of the tokenizer these tokens were made with.

        Raises:
            DataError: says which differ.
        """
        own = self.meta["tokenizer_fingerprint"]
        if fingerprint != own:
            raise DataError(
                f"the shards in {self.folder} were built with another tokenizer: {self.meta['tokenizer_kind']} of "
                f"{self.vocab_size:,} tokens, fingerprint {own[:12]}",
                f"the tokenizer with fingerprint {fingerprint[:12]}",
                "build shards with that one: formers data build SOURCE... --out FOLDER --tokenizer ITS_FOLDER",
            )

    @cached_property
    def token_bytes(self) -> np.ndarray:
        """int64 [vocab_size]: how many bytes of UTF-8 each id stands for; special tokens stand for none."""
        sizes = (_bytes_of(self.tokenizer, token_id) for token_id in range(self.vocab_size))
        return np.fromiter(sizes, dtype=np.int64, count=self.vocab_size)

    @property
    def left_out(self) -> dict[str, dict[str, Any]]:
        """Splits whose documents are counted in `meta` and do not stand here, as where a model comes with the text that it
        has not read: of each the sha256 of its text, and token_counts, how often each id stands in it."""
        return self.meta.get("left_out", {})

    def rows(self, split: str) -> np.ndarray:
        """int64: which documents (rows of `documents`) belong to "train" or "validation", in their order.

        Raises:
            DataError: another name, or a split without documents, or one that was left out.
        """
        if split not in SPLITS:
            raise DataError(f"split {split!r}", f"one of {', '.join(SPLITS)}", suggest(split, SPLITS))
        if split in self.left_out:
            raise DataError(
                f"the {split} documents of {self.folder} were left out of it: {self.meta['documents'][split]:,} documents of "
                f"{self.meta['bytes'][split]:,} bytes",
                "shards that hold them",
                "build some of your own: formers data build SOURCE... --out FOLDER",
            )
        rows = np.flatnonzero(self.documents[:, SPLIT] == SPLITS.index(split))
        if not len(rows):
            raise DataError(f"the shards in {self.folder} have no {split} documents", "at least one", BUILD_AGAIN)
        return rows

    def document_tokens(self, document: int) -> np.ndarray:
        """int64 [length]: the tokens of a document, end_of_text included."""
        start, length = self.documents[document, :2]
        return self.tokens[start : start + length].astype(np.int64)

    def text(self, document: int) -> str:
        """The text of a document."""
        return self.text_bytes(document).decode()

    def text_bytes(self, document: int) -> bytes:
        """The UTF-8 of a document."""
        return self.tokenizer.decode_bytes(self.document_tokens(document).tolist())

    def shared_documents(self) -> int:
        """How many validation documents stand, token for token, in training too. 0 in every folder that `build` wrote;
        a folder from elsewhere is worth the look."""
        train, validation = (
            {self._key(int(row)) for row in np.flatnonzero(self.documents[:, SPLIT] == s)} for s in (0, 1)
        )
        return len(train & validation)

    def _key(self, document: int) -> bytes:
        start, length = self.documents[document, :2]
        return hashlib.sha256(self.tokens[start : start + length].tobytes()).digest()


def _bytes_of(tokenizer: Tokenizer, token_id: int) -> int:
    try:
        return len(tokenizer.decode_bytes([token_id]))
    except DataError:  # a vocabulary may have gaps; no text has such an id
        return 0


class ShardWriter:
    """Writes the files of a shard folder, meta.json last. It does not rename: see :func:`folders.whole_folder`.

    `finish(facts)` adds to the facts: format, version, dtype, vocab_size, tokenizer_kind, tokenizer_fingerprint,
    end_of_text, documents, tokens and bytes by split, inexact_documents (whose tokens do not spell their bytes), sha256
    by file.
    """

    def __init__(self, folder: Path, tokenizer: Tokenizer) -> None:
        self.folder, self.tokenizer = folder, tokenizer
        self.dtype = np.dtype("<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4")
        self._end = [] if tokenizer.end_of_text is None else [tokenizer.end_of_text]
        self._rows: list[tuple[int, int, int, int]] = []
        self._written = 0
        self._hash = hashlib.sha256()
        self._file = (folder / TOKENS).open("wb")

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, ids: Sequence[int], size: int, split: int) -> None:
        """Append a document: its ids (without end_of_text), its bytes of UTF-8, its split."""
        tokens = np.array([*ids, *self._end], dtype=np.int64)
        assert tokens.max() < self.tokenizer.vocab_size, "the tokenizer gave an id outside its vocabulary"
        data = tokens.astype(self.dtype).tobytes()
        self._file.write(data)
        self._hash.update(data)
        self._rows.append((self._written, len(tokens), size, split))
        self._written += len(tokens)

    def finish(self, facts: dict[str, Any]) -> dict[str, Any]:
        """Write the remaining files; the contents of meta.json are returned."""
        self._file.close()
        documents = np.array(self._rows, dtype=np.int64).reshape(-1, 4)
        np.save(self.folder / DOCUMENTS, documents, allow_pickle=False)
        self.tokenizer.save(self.folder)
        meta = {**self._meta(documents), **facts, "inexact_documents": self._inexact(documents)}
        meta["sha256"] = {
            TOKENS: self._hash.hexdigest(),
            DOCUMENTS: _sha256(self.folder / DOCUMENTS),
            TOKENIZER: _sha256(self.folder / TOKENIZER),
        }
        (self.folder / META).write_text(json.dumps(meta, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        return meta

    def _meta(self, documents: np.ndarray) -> dict[str, Any]:
        by_split = {name: documents[documents[:, SPLIT] == number] for number, name in enumerate(SPLITS)}
        return {
            "format": FORMAT,
            "version": VERSION,
            "dtype": str(self.dtype.name),
            "vocab_size": self.tokenizer.vocab_size,
            "tokenizer_kind": self.tokenizer.kind,
            "tokenizer_fingerprint": self.tokenizer.fingerprint,
            "end_of_text": self.tokenizer.end_of_text,
            "documents": {name: len(rows) for name, rows in by_split.items()},
            "tokens": {name: int(rows[:, LENGTH].sum()) for name, rows in by_split.items()},
            "bytes": {name: int(rows[:, BYTES].sum()) for name, rows in by_split.items()},
        }

    def _inexact(self, documents: np.ndarray) -> int:
        facts = {"vocab_size": self.tokenizer.vocab_size}
        written = Shards(self.folder, facts, _map(self.folder, self.dtype), documents, self.tokenizer)
        spelled = (written.token_bytes[tokens].sum() for tokens in map(written.document_tokens, range(len(documents))))
        return sum(int(size != wanted) for size, wanted in zip(spelled, documents[:, BYTES], strict=True))


def _map(folder: Path, dtype: np.dtype[Any]) -> np.ndarray:
    return np.memmap(folder / TOKENS, dtype=dtype, mode="r")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_shard_folder(folder: Path) -> bool:
    """Whether `build` wrote this folder, be it damaged since."""
    try:
        return _read_json(folder).get("format") == FORMAT
    except DataError:
        return False


def open_shards(folder: Path | str, *, verify: bool = False) -> Shards:
    """Open a shard folder. Sizes and the small files are always checked; `verify` reads tokens.bin through as well.

    Raises:
        DataError: missing, half written, of another format, or not what its checksums say.
    """
    folder = Path(folder).expanduser()
    _check_files(folder)
    meta = _read_meta(folder)
    for name in (DOCUMENTS, TOKENIZER, *([TOKENS] if verify else [])):
        if _sha256(folder / name) != meta["sha256"][name]:
            raise _damaged(folder, f"{name} is not what was written: its sha256 differs from meta.json's")
    documents = np.load(folder / DOCUMENTS, allow_pickle=False)
    dtype = np.dtype(meta["dtype"]).newbyteorder("<")
    wanted, found = int(documents[:, LENGTH].sum()) * dtype.itemsize, (folder / TOKENS).stat().st_size
    if found != wanted:
        raise _damaged(folder, f"{TOKENS} has {found:,} bytes where its documents need {wanted:,}")
    return Shards(folder, meta, _map(folder, dtype), documents)


def _check_files(folder: Path) -> None:
    if not folder.is_dir():
        what = "is a file, not a folder of shards" if folder.exists() else "does not exist"
        raise DataError(f"{folder} {what}", "a folder that `formers data build` wrote", BUILD_AGAIN)
    if missing := [name for name in FILES if not (folder / name).is_file()]:
        raise _damaged(folder, f"it lacks {', '.join(missing)}: half written, or no shards")


def _read_json(folder: Path) -> dict[str, Any]:
    try:
        meta = json.loads((folder / META).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _damaged(folder, f"{META} cannot be read ({error})") from error
    return cast("dict[str, Any]", meta) if isinstance(meta, dict) else {}


def _read_meta(folder: Path) -> dict[str, Any]:
    meta = _read_json(folder)
    if meta.get("format") != FORMAT:
        raise _damaged(folder, f"{META} is not that of shards")
    if meta.get("version") != VERSION:
        raise _damaged(folder, f"{META} has version {meta.get('version')}, this formers reads {VERSION}")
    needed = (
        "dtype",
        "vocab_size",
        "tokenizer_kind",
        "tokenizer_fingerprint",
        "documents",
        "tokens",
        "bytes",
        "sha256",
    )
    if lacking := [key for key in needed if key not in meta]:
        raise _damaged(folder, f"{META} lacks {', '.join(lacking)}")
    return meta


def _damaged(folder: Path, what: str) -> DataError:
    return DataError(f"the shards in {folder} cannot be used: {what}", "a whole folder, as built", BUILD_AGAIN)
