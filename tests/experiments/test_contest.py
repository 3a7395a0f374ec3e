"""A contest of models of no weight, and what its rows say."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

import formers
from formers.data import Shards, build, open_shards
from formers.errors import ConfigError
from formers.experiments import contest, worth
from formers.experiments.claims import Interval
from formers.hub import targets

SETTINGS = worth.WorthSettings(
    steps=2, batch_size=2, seq_len=16, longest=64, size=32, window=32, short=16,
    model={**worth.MODEL, "d_model": 16, "num_layers": 2, "num_heads": 2, "d_ff": 32, "segment_length": 16,
           "cache_length": 16, "memory_layers": (1,), "neighbours": 4},
)  # fmt: skip


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    folder = tmp_path_factory.mktemp("text")
    generator = np.random.default_rng(0)
    texts = ["".join(chr(97 + n) for n in generator.integers(0, 5, size)) for size in (200, 150, 300, 180, 220, 170)]
    (folder / "text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    build([folder / "text.jsonl"], folder / "shards", tokenizer="byte", validation=0.5, cut=False, quiet=True)
    return open_shards(folder / "shards")


def quick(settings: worth.WorthSettings) -> tuple[contest.Contestant, ...]:
    """The contestants without compiling."""
    return tuple(
        dataclasses.replace(
            each,
            recipe=dataclasses.replace(each.recipe, train=dataclasses.replace(each.recipe.train, compile="off")),
        )
        for each in worth.contestants(settings)
    )


def test_all_train_and_read_the_same_documents_and_nothing_is_done_twice(shards: Shards, tmp_path: Path) -> None:
    contestants, documents = quick(SETTINGS), [int(d) for d in shards.rows("validation")]
    assert contest.train_all(contestants, shards, tmp_path, progress=False) is None
    readings = worth.readings(SETTINGS)
    rows = contest.read_all(contestants, shards, documents, tmp_path, readings=readings)
    assert len(rows) == len(contestants) * 2 * len(documents)
    said: list[str] = []
    assert contest.train_all(contestants, shards, tmp_path, progress=False) is None
    assert contest.read_all(contestants, shards, documents, tmp_path, readings=readings, say=said.append) == rows
    assert said == []
    costs = {
        each.name: {
            **contest.costs(targets.load(tmp_path / each.name), SETTINGS.seq_len),
            "seconds_a_token": contest.seconds_a_token(tmp_path / each.name),
        }
        for each in contestants
    }
    assert costs["window"]["operations"] > costs["plain"]["operations"]
    assert costs["memory"]["operations"] > costs["plain"]["operations"]
    assert costs["large"]["parameters"] > 3 * (costs["plain"]["parameters"] - 16 * shards.vocab_size)
    found = worth.summarise(rows, costs, SETTINGS)
    assert found["contestants"]["plain"]["against_plain"] is None
    assert len(found["verdicts"]) == 5


def test_a_memory_that_comes_late_begins_as_the_model_without(shards: Shards, tmp_path: Path) -> None:
    contestants = {each.name: each for each in quick(SETTINGS)}
    assert contest.train_all([contestants["plain"]], shards, tmp_path, progress=False) is None
    begun = targets.load(contest._begun(contestants["late"], tmp_path, shards))
    plain = targets.load(tmp_path / "plain")
    ids = torch.from_numpy(shards.document_tokens(0)[:100])[None]
    with torch.no_grad():
        assert torch.equal(begun(ids).logits, plain(ids).logits)


def rows_of(bits: dict[str, list[float]], short: list[float]) -> list[dict]:
    def row(name: str, reading: str, document: int, value: float) -> dict:
        facts = {"contestant": name, "reading": reading, "document": document, "bytes": 1000, "tokens": 400, "right": 1}
        return facts | {"loss": value * 1000 * math.log(2), "by_position": []}

    whole = [row(name, "whole", i, value) for name, each in bits.items() for i, value in enumerate(each)]
    return whole + [row(name, "short", i, value) for name in bits for i, value in enumerate(short)]


def test_verdicts_say_what_the_rows_show() -> None:
    bits = {
        "plain": [2.0, 2.1, 2.2], "memory": [1.8, 1.91, 2.0], "longer": [1.99, 2.09, 2.19], "late": [1.84, 1.95, 2.05],
        "large": [1.85, 1.9, 2.04], "window": [1.95, 2.05, 2.15],
    }  # fmt: skip
    found = worth.verdicts(rows_of(bits, [2.5, 2.6, 2.7]), SETTINGS)
    assert [verdict.word for verdict in found] == ["reproduced"] * 5
    late = found[1].figures
    assert isinstance(late["interval"], Interval)
    assert late["share of the gain"] == pytest.approx(late["interval"].mean / found[0].figures["interval"].mean)
    turned = {**bits, "memory": bits["plain"], "plain": bits["memory"]}
    assert found[0].word != worth.verdicts(rows_of(turned, [2.5, 2.6, 2.7]), SETTINGS)[0].word


def test_sizes_that_make_no_contest_are_refused() -> None:
    with pytest.raises(ConfigError, match="late_share"):
        worth.WorthSettings(steps=0, late_share=0)


def test_a_look_up_is_counted_once_and_forward_alone() -> None:
    """Of 2,000 entries more: 2 operations for each number of a key, no backward."""
    found = [
        contest.costs(formers.build("memorizing", preset="nano", memory_size=size), length=64) for size in (0, 2000)
    ]
    assert found[1]["operations"] - found[0]["operations"] == 2 * 64 * 2000
