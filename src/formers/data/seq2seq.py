"""Source to target: a JSON-lines file of {"source": .., "target": ..} as shards, and rows of them with teacher forcing.

The shards are like any others, a source and its target being two documents one after the other, so their tokenizer is trained
on both sides and everything that reads shards reads them. `meta.json` says ``"pairs": true``. Pairs with the same source are
held out together.
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from formers.data.batch import PADDING
from formers.data.builder import Summary
from formers.data.cache import cache_folder, is_whole
from formers.data.corruption import forced
from formers.data.plan import VALIDATION, digest, whole_documents
from formers.data.shards import Shards, ShardWriter, is_shard_folder
from formers.data.texts import SourceBatch
from formers.data.views import View
from formers.data.vocabulary import choose_tokenizer
from formers.errors import DataError
from formers.files import whole_folder

if TYPE_CHECKING:
    from formers.data.vocabulary import TokenizerChoice

Pair = tuple[str, str]
ENCODE_AT_ONCE = 1 << 14  # pairs handed to the tokenizer in one call
ORDER = 16  # keeps this view's random numbers apart


def read_pairs(path: Path | str, *, source_field: str = "source", target_field: str = "target") -> Iterator[Pair]:
    """The pairs of a JSON-lines file; empty lines are passed over.

    Raises:
        DataError: a file that cannot be read, or a line (it is named) that is no object with both texts.
    """
    try:
        lines = Path(path).expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}", "a JSON-lines file in UTF-8") from None
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield _pair(line, f"{path}, line {number}", (source_field, target_field))


def _pair(line: str, where: str, fields: tuple[str, str]) -> Pair:
    wanted = f'an object such as {{"{fields[0]}": "a text", "{fields[1]}": "another"}}'
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(f"{where} is no JSON: {error}", wanted) from None
    if not isinstance(row, dict) or not all(isinstance(row.get(field), str) and row[field] for field in fields):
        raise DataError(f"{where}: {line[:80]}", wanted + ", both not empty")
    return row[fields[0]], row[fields[1]]


def build_pairs(
    files: Sequence[Path | str],
    out: Path | str,
    *,
    tokenizer: TokenizerChoice = "unigram",
    vocab_size: int | None = None,
    seed: int = 0,
    validation: float = 0.1,
    source_field: str = "source",
    target_field: str = "target",
) -> Summary:
    """Build the shard folder `out` from JSON-lines files of pairs. Equal pairs are kept once.

    Args:
        tokenizer, vocab_size, seed, validation: as for :func:`formers.data.build`.

    Raises:
        DataError: files that cannot be read, no pairs, a vocabulary that cannot be had, `out` is something else.
    """
    began, out = time.perf_counter(), Path(out).expanduser().resolve()
    if out.exists() and not is_shard_folder(out) and any(out.iterdir()):
        raise DataError(f"{out} exists and is no shard folder", "a new folder", "name another --out")
    there = [pair for file in files for pair in read_pairs(file, source_field=source_field, target_field=target_field)]
    pairs = list(dict.fromkeys(there))
    if not pairs:
        raise DataError("the files hold no pairs", "at least one line each")
    plan = whole_documents(dict.fromkeys(digest(source) for source, _ in pairs), validation, seed)
    splits = [plan[digest(source)][0].split for source, _ in pairs]
    made = choose_tokenizer(tokenizer, vocab_size, _Texts(pairs, splits))
    facts = {
        "pairs": True,
        "sources": [str(file) for file in files],
        "files": len(files),
        "seed": seed,
        "validation": validation,
        "separator": None,
        "text_field": "text",
        "cut": False,
        "duplicates": len(there) - len(pairs),
        "skipped": {},
        "skipped_files": [],
        "overlap": None,
        "overlap_lines": 0,
    }
    with whole_folder(out) as folder, ShardWriter(folder, made) as writer:
        _write(writer, pairs, splits)
        meta = writer.finish(facts)
    same = {name: meta[name] for name in Summary.__dataclass_fields__ if name in meta}
    return Summary(folder=out, seconds=time.perf_counter() - began, **same)


class _Texts:
    """Both sides of all pairs, or of those that are trained on."""

    def __init__(self, pairs: list[Pair], splits: list[int]) -> None:
        self._pairs, self._splits = pairs, splits
        self.characters = sum(len(source) + len(target) for source, target in pairs)

    def __call__(self, *, training_only: bool) -> Iterator[str]:
        for pair, split in zip(self._pairs, self._splits, strict=True):
            if not (training_only and split == VALIDATION):
                yield from pair


def _write(writer: ShardWriter, pairs: list[Pair], splits: list[int]) -> None:
    for start in range(0, len(pairs), ENCODE_AT_ONCE):
        texts = [text for pair in pairs[start : start + ENCODE_AT_ONCE] for text in pair]
        sides = [split for split in splits[start : start + ENCODE_AT_ONCE] for _ in range(2)]
        for text, ids, split in zip(texts, writer.tokenizer.encode_batch(texts), sides, strict=True):
            writer.add(ids, len(text.encode()), split)


def cached_pairs(
    files: Sequence[Path | str],
    *,
    tokenizer: TokenizerChoice = "unigram",
    vocab_size: int | None = None,
    seed: int = 0,
    validation: float = 0.1,
    cache: Path | str | None = None,
) -> Path:
    """The shard folder of these pairs, built if it is not in the cache; see :func:`formers.data.cached_shards`."""
    settings: dict[str, Any] = {
        "tokenizer": tokenizer,
        "vocab_size": vocab_size,
        "seed": seed,
        "validation": validation,
    }
    for file in files:
        if not Path(file).is_file():
            raise DataError(f"there is no file {file}", 'a JSON-lines file of {"source": .., "target": ..}')
    folder = cache_folder("pairs", files, settings, cache)
    if not is_whole(folder):
        build_pairs(files, folder, **settings)
    return folder


class SourceToTarget(View):
    """Rows of a source and a target: batches are `SourceBatch`. Every pair comes once an epoch, in an order drawn for it.

    Args:
        shards: built by `build_pairs`.
        split, batch_size, seq_len, seed, rank, world: as for every view; `seq_len` is that of sources.
        target_len: tokens of a target, its end included; None: as many as seq_len.
        rows: "windows" (epochs without end) or "every" (once, in order).

    Longer texts are cut, with a warning that says how many: a source before its end, as pipelines cut it; a target has no
    end then.

    Raises:
        DataError: shards that hold no pairs, or whose tokenizer has no padding.
    """

    def __init__(
        self,
        shards: Shards,
        *,
        split: str = "train",
        rows: str = "windows",
        target_len: int | None = None,
        **settings: int,
    ) -> None:
        super().__init__(shards, split=split, **settings)
        self.kind, self.target_len = rows, target_len or self.seq_len
        self.start = shards.tokenizer.role("pad")
        if not shards.meta.get("pairs"):
            raise DataError(
                f"the shards in {shards.folder} hold texts, not pairs",
                'shards of a JSON-lines file of {"source": .., "target": ..}',
                "formers data build FILE.jsonl --pairs --out FOLDER",
            )
        if self.start is None:
            raise DataError(
                f"the tokenizer of {shards.folder} has no padding, with which a decoder begins",
                "a special token <pad>",
                "open the shards with formers.data.equip(shards, 'source_to_target')",
            )
        self._order = lru_cache(maxsize=2)(self._drawn)
        self._warn()

    def _warn(self) -> None:
        long = [int((self.lengths[at::2] > most).sum()) for at, most in ((0, self.seq_len), (1, self.target_len))]
        if any(long):
            warnings.warn(
                f"of {self.pairs:,} {self.split} pairs {long[0]:,} sources are cut to {self.seq_len} tokens and "
                f"{long[1]:,} targets to {self.target_len}",
                stacklevel=2,
            )

    @property
    def pairs(self) -> int:
        """How many the split has."""
        return len(self.documents) // 2

    def __len__(self) -> int:
        """How many batches hold every pair once.

        Raises:
            TypeError: rows other than "every" have no end.
        """
        if self.kind != "every":
            raise TypeError("SourceToTarget with rows='windows' has no end")
        return -(-self.pairs // self.batch_size)

    def _drawn(self, epoch: int) -> np.ndarray:
        return self._generator(ORDER, epoch).permutation(self.pairs)

    def _make(self, step: int) -> SourceBatch:
        numbers = [self._number(step * self.batch_size + row) for row in self.rows]
        rows = [self._row(number) for number in numbers]
        document = [PADDING if number is None else int(self.documents[2 * number]) for number in numbers]
        assert self.start is not None
        return forced(rows, document, self.seq_len, self.target_len, self.start)

    def _number(self, place: int) -> int | None:
        """Which pair stands at a place counted through all epochs; None behind the end."""
        if self.kind == "every":
            return place if place < self.pairs else None
        epoch, place = divmod(place, self.pairs)
        return int(self._order(epoch)[place])

    def _row(self, number: int | None) -> tuple[np.ndarray, np.ndarray]:
        if number is None:
            return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
        source, target = (self.shards.document_tokens(int(self.documents[2 * number + side])) for side in (0, 1))
        if len(source) > self.seq_len:
            source = np.concatenate([source[: self.seq_len - 1], source[-1:]])
        return source, target[: self.target_len]
