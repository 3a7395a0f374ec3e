"""What a model must beat: gzip -9 on the same bytes, and the frequencies of tokens."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable

import numpy as np

from formers.data.shards import LENGTH, START, Shards
from formers.errors import DataError

TOKENS_AT_ONCE = 1 << 22
GZIP = 16 + zlib.MAX_WBITS  # zlib's way to ask for gzip's own container


def gzip_bits_per_byte(texts: Shards | Iterable[str | bytes], split: str = "validation") -> float:
    """Bits that gzip -9 needs for each byte of the text, all documents as one stream (header and checksum included).

    Args:
        texts: open shards, whose `split` is taken, or texts.

    Raises:
        DataError: no text.
    """
    gzip, before, after = zlib.compressobj(9, zlib.DEFLATED, GZIP), 0, 0
    for data in _bytes(texts, split):
        before += len(data)
        after += len(gzip.compress(data))
    if not before:
        raise DataError("no text to compress", "at least one byte")
    return 8 * (after + len(gzip.flush())) / before


def _bytes(texts: Shards | Iterable[str | bytes], split: str) -> Iterable[bytes]:
    if isinstance(texts, Shards):
        return (texts.text_bytes(int(document)) for document in texts.rows(split))
    return (text.encode() if isinstance(text, str) else text for text in texts)


def unigram_counts(shards: Shards, split: str = "train") -> np.ndarray:
    """int64 [vocab_size]: how often each token stands in a split, end_of_text included."""
    if split in shards.left_out:
        return np.array(shards.left_out[split]["token_counts"], dtype=np.int64)
    return _counts(shards, split, skip=0)


def unigram_bits_per_byte(shards: Shards) -> float:
    """Bits per byte on validation of a model that knows nothing but how often each token stands in training (add one).

    It is scored on what every view scores: all tokens but the first of each document; end_of_text costs bits and stands
    for no bytes.
    """
    counts = unigram_counts(shards) + 1
    bits = math.log2(counts.sum()) - np.log2(counts)
    scored = _counts(shards, "validation", skip=1)
    size = int((scored * shards.token_bytes).sum())
    if not size:
        raise DataError(
            f"no token of the validation split of {shards.folder} can be scored", "a document of two tokens"
        )
    return float((scored * bits).sum() / size)


def _counts(shards: Shards, split: str, skip: int) -> np.ndarray:
    """How often each token stands in a split, the first `skip` tokens of each document left out."""
    counts = np.zeros(shards.vocab_size, dtype=np.int64)
    for run in _chunks(shards.documents[shards.rows(split)]):
        slices = [shards.tokens[start + skip : start + length] for start, length in run[:, [START, LENGTH]]]
        counts += np.bincount(np.concatenate(slices), minlength=len(counts))
    return counts


def _chunks(documents: np.ndarray) -> list[np.ndarray]:
    """`documents` in runs of about so many tokens, since counting costs a vocabulary each time."""
    chunk = np.cumsum(documents[:, LENGTH]) // TOKENS_AT_ONCE
    return np.split(documents, np.flatnonzero(np.diff(chunk)) + 1)
