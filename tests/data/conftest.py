"""Small shards of documents over characters of one to four bytes, in memory and on disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from formers.data.shards import Shards
from formers.text import CharTokenizer

ALPHABET = "ab \nåé東京🙂"
Documents = Sequence[tuple[str, int]]  # (text, split)


def _in_memory(documents: Documents) -> Shards:
    tokenizer = CharTokenizer(ALPHABET)
    tokens: list[int] = []
    rows = []
    for text, split in documents:
        ids = [*tokenizer.encode(text), tokenizer.end_of_text]
        rows.append((len(tokens), len(ids), len(text.encode()), split))
        tokens += ids
    meta = {
        "vocab_size": tokenizer.vocab_size,
        "tokenizer_kind": "char",
        "tokenizer_fingerprint": tokenizer.fingerprint,
    }
    stored = np.array(tokens, dtype="<u2")
    return Shards(Path("memory"), meta, stored, np.array(rows, dtype=np.int64).reshape(-1, 4), tokenizer)


@pytest.fixture(scope="session")
def in_memory() -> Callable[[Documents], Shards]:
    """Shards of (text, split) pairs over `ALPHABET`, without a folder."""
    return _in_memory


@pytest.fixture(scope="session")
def alphabet() -> str:
    return ALPHABET


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A folder of forty small text files, all different."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    for number in range(40):
        lines = [
            f"line {line} of file {number} says {number * line} in å very unmistakable manner\n" for line in range(12)
        ]
        (folder / f"{number:02}.txt").write_text("".join(lines), encoding="utf-8")
    return folder
