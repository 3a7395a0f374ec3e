"""Token shards of vocabularies that normalise: built, opened, read back."""

from __future__ import annotations

from pathlib import Path

import pytest

from formers.data import build, open_shards
from tests.text.words import TEXT


@pytest.mark.parametrize("kind", ["wordpiece", "unigram"])
def test_a_trained_vocabulary_builds_shards(kind: str, tmp_path: Path):
    for number in range(8):
        (tmp_path / f"{number}.txt").write_text(f"{TEXT} {number} the theatre {number}", encoding="utf-8")
    summary = build([str(tmp_path / "*.txt")], tmp_path / "out", tokenizer=kind, vocab_size=80, quiet=True)
    shards = open_shards(tmp_path / "out")
    assert (summary.vocab_size, shards.tokenizer.kind) == (80, kind)
    ids = shards.document_tokens(0).tolist()
    assert ids[-1] == shards.tokenizer.end_of_text
    assert shards.tokenizer.decode(ids[:-1]) == shards.tokenizer.decode(
        shards.tokenizer.encode(shards.tokenizer.decode(ids))
    )
