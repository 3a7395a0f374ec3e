"""The baselines equal what one computes by hand."""

from __future__ import annotations

import gzip
import math
import subprocess
import sys

import pytest

from formers.data import Sequential, gzip_bits_per_byte, unigram_bits_per_byte, unigram_counts
from formers.errors import DataError

DIGITS = "".join("ab é"[int(digit) % 4] for digit in str(3**9000))  # random enough to tell gzip -9 from -6
DOCUMENTS = [("abba\n" * 9, 0), ("éa東", 1), (DIGITS, 1), ("b東", 0)]


def test_gzip_is_that_of_all_documents_as_one_stream(in_memory) -> None:
    data = "".join(text for text, split in DOCUMENTS if split).encode()
    wanted = 8 * len(gzip.compress(data, compresslevel=9)) / len(data)
    assert len(gzip.compress(data, compresslevel=6)) != len(gzip.compress(data, compresslevel=9))
    assert gzip_bits_per_byte(in_memory(DOCUMENTS)) == wanted
    assert gzip_bits_per_byte([text for text, split in DOCUMENTS if split]) == wanted
    assert gzip_bits_per_byte(in_memory(DOCUMENTS), "train") != wanted
    with pytest.raises(DataError, match="no text"):
        gzip_bits_per_byte([])


def test_unigram_scores_what_the_views_score(in_memory) -> None:
    shards = in_memory(DOCUMENTS)
    train = [t for d in shards.rows("train") for t in shards.document_tokens(int(d)).tolist()]
    counts = {token: train.count(token) + 1 for token in range(shards.vocab_size)}
    assert (unigram_counts(shards) + 1).tolist() == list(counts.values())
    bits = size = 0.0
    for batch in Sequential(shards, batch_size=2, seq_len=3):
        bits -= sum(math.log2(counts[t] / sum(counts.values())) for t in batch.targets.ravel().tolist() if t >= 0)
        size += batch.bytes
    assert unigram_bits_per_byte(shards) == pytest.approx(bits / size, rel=1e-12)


def test_counting_in_chunks_counts_the_same(in_memory, monkeypatch) -> None:
    shards = in_memory(DOCUMENTS * 20)
    whole = unigram_counts(shards)
    monkeypatch.setattr("formers.data.baselines.TOKENS_AT_ONCE", 7)
    assert (unigram_counts(shards) == whole).all()
    assert whole.sum() == sum(shards.documents[d, 1] for d in shards.rows("train"))


def test_the_package_needs_no_torch() -> None:
    code = "import sys, formers.data; sys.exit('torch' in sys.modules or 'pyarrow' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
