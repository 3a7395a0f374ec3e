"""Loss against the size of the memory, on a model of no weight."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

import formers
from formers.data import Shards, build, open_shards
from formers.errors import ConfigError, DataError
from formers.experiments.memory_size import SweepSettings, choose, step, summarise, sweep, verdict
from formers.experiments.reading import bits_per_byte, read
from formers.hub import save

SETTINGS = SweepSettings(sizes=(0, 16, 512), documents=3, longer_than=50, rows=2)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    folder = tmp_path_factory.mktemp("text")
    generator = np.random.default_rng(0)
    texts = [
        "".join(chr(97 + n) for n in generator.integers(0, 5, size)) for size in (40, 700, 90, 200, 150, 300, 1200)
    ]
    (folder / "text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    build([folder / "text.jsonl"], folder / "shards", tokenizer="byte", validation=0.9, cut=False, quiet=True)
    return open_shards(folder / "shards")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, shards: Shards) -> Path:
    changes = {
        "vocab_size": shards.vocab_size,
        "segment_length": 8,
        "cache_length": 8,
        "memory_size": 64,
        "neighbours": 4,
    }
    return save(formers.build("memorizing", "nano", **changes), tmp_path_factory.mktemp("model") / "model")


def test_the_shortest_of_the_long_documents_are_read(shards: Shards) -> None:
    chosen = choose(shards, SETTINGS)
    lengths = [int(shards.documents[row, 1]) for row in chosen]
    longer = sorted(int(n) for n in shards.documents[shards.rows("validation"), 1] if n > 50)
    assert lengths == longer[:3]
    with pytest.raises(DataError, match="longer than 9,999 tokens"):
        choose(shards, SweepSettings(longer_than=9_999))


def test_a_document_read_beside_others_scores_as_it_does_in_one_call(shards: Shards, folder: Path) -> None:
    model = formers.load(folder)
    chosen = choose(shards, SETTINGS)
    texts = [shards.document_tokens(document) for document in chosen]
    for text, found in zip(texts, read(model, texts), strict=True):
        ids = torch.from_numpy(text)[None]
        with torch.no_grad():
            logits = model(ids[:, :-1]).logits[0]
        alone = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum")
        assert found["loss"] == pytest.approx(float(alone), rel=1e-5)
        assert found["right"] == int((logits.argmax(-1) == ids[0, 1:]).sum())
        assert sum(count for *_, count in found["by_position"]) == found["tokens"] == len(text) - 1
        assert bits_per_byte({**found, "bytes": 10}) == pytest.approx(found["loss"] / math.log(2) / 10)


def test_the_sweep_differs_by_size_and_is_not_measured_twice(shards: Shards, folder: Path, tmp_path: Path) -> None:
    said: list[str] = []
    rows = sweep(str(folder), shards, tmp_path, SETTINGS, say=said.append)
    assert len(rows) == 9
    by_size = {size: [row["loss"] for row in rows if row["size"] == size] for size in SETTINGS.sizes}
    assert by_size[0] != by_size[16] != by_size[512]
    half = [json.loads(line) for line in (tmp_path / "scores.jsonl").read_text().splitlines()][:4]
    (tmp_path / "scores.jsonl").write_text("".join(json.dumps(row) + "\n" for row in half))
    again = sweep(str(folder), shards, tmp_path, SETTINGS)
    key = lambda row: (row["size"], row["document"])  # noqa: E731
    assert [row["loss"] for row in sorted(again, key=key)] == pytest.approx([r["loss"] for r in sorted(rows, key=key)])
    assert len(said) == 6


def rows_of(losses: dict[int, list[float]], tokens: int = 100_000) -> list[dict]:
    """Rows of documents of 1,000 bytes with these bits per byte at each size."""
    return [
        {
            "size": size,
            "document": i,
            "tokens": tokens,
            "bytes": 1000,
            "loss": bits * 1000 * math.log(2),
            "right": 0,
            "by_position": [],
        }
        for size, each in losses.items()
        for i, bits in enumerate(each)
    ]


def test_a_step_counts_documents_longer_than_the_larger_size_only() -> None:
    rows = rows_of({0: [2.0, 2.1, 2.2], 65_536: [1.9, 2.0, 2.1]})
    found = step(rows, 0, 65_536)
    assert found is not None
    assert found.mean == pytest.approx(-0.1)
    assert step(rows_of({0: [2.0, 2.1], 65_536: [1.9, 2.0]}, tokens=65_536), 0, 65_536) is None


@pytest.mark.parametrize(
    ("middle", "last", "word"),
    [
        ([1.9, 2.0, 2.1], [1.8, 1.91, 2.0], "reproduced"),
        ([2.1, 2.2, 2.31], [1.8, 1.91, 2.0], "smaller effect"),
        ([2.0, 2.1, 2.2], [2.1, 2.0, 2.21], "not reproduced"),
    ],
)
def test_a_verdict_wants_a_fall_and_no_step_up(middle: list[float], last: list[float], word: str) -> None:
    rows = rows_of({0: [2.0, 2.1, 2.2], 8192: middle, 65_536: last})
    assert verdict(rows, (0, 8192, 65_536)).word == word
    assert summarise(rows, (0, 8192, 65_536))["means"][0]["bits_per_byte"] == pytest.approx(2.1)


def test_sizes_must_rise() -> None:
    with pytest.raises(ConfigError, match="rising"):
        SweepSettings(sizes=(8, 8))
