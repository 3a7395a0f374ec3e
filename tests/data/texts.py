"""Small shards of sentences in memory, cut by any kind of tokenizer."""

from __future__ import annotations

import functools
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from formers.data.shards import Shards
from formers.text import Tokenizer, train_tokenizer

WORDS = """the quick brown fox jumps over a lazy dog and runs home to sleep until morning comes with unquestionably
extraordinary thoughts about naïve überraschungen""".split()
SIZES = {"wordpiece": 100, "unigram": 42, "bpe": 330, "byte": None}


def sentences(number: int, rng: random.Random) -> str:
    return " ".join(" ".join(rng.choices(WORDS, k=rng.randint(3, 9))) + rng.choice(".!?") for _ in range(number))


@functools.cache
def documents(number: int = 60, longest: int = 30, seed: int = 0) -> tuple[str, ...]:
    rng = random.Random(seed)
    return tuple(sentences(rng.randint(1, longest), rng) for _ in range(number))


@functools.cache
def tokenizer(kind: str) -> Tokenizer:
    return train_tokenizer(kind, documents(), SIZES[kind])


def shards(kind: str = "wordpiece", texts: Sequence[str] | None = None) -> Shards:
    """Every fourth document for validation."""
    cut = tokenizer(kind)
    tokens: list[int] = []
    rows = []
    for number, text in enumerate(documents() if texts is None else texts):
        ids = [*cut.encode(text), cut.end_of_text]
        rows.append((len(tokens), len(ids), len(text.encode()), int(number % 4 == 3)))
        tokens += ids
    meta = {"vocab_size": cut.vocab_size, "tokenizer_kind": cut.kind, "tokenizer_fingerprint": cut.fingerprint}
    return Shards(Path("memory"), meta, np.array(tokens, "<u2"), np.array(rows, np.int64).reshape(-1, 4), cut)
