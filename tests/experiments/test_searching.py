"""Approximate look-ups beside exact ones, on a model's own keys."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import formers
from formers.data import Shards
from formers.errors import ConfigError, DataError, TargetError
from formers.experiments.searching import SearchSettings, search, stored, verdict
from formers.parts.taps import listen
from tests.experiments.test_memory_size import folder as folder
from tests.experiments.test_memory_size import shards as shards

pytest.importorskip("faiss", reason="the extra `search` is not installed")
SETTINGS = SearchSettings(sizes=(256, 1024, 1536), neighbours=8, queries=40, rounds=1)


def test_each_size_has_its_recall_and_its_times(shards: Shards, folder: Path) -> None:
    rows = search(formers.load(folder, memory_size=1), shards, SETTINGS)
    assert [row["entries"] for row in rows] == [256, 1024, 1536]
    assert all(0.9 < row["recall"] <= 1 and row["exact_ms"] > 0 and row["approximate_ms"] > 0 for row in rows)
    assert all(1 <= row["probes"] <= row["lists"] for row in rows)
    few = search(formers.load(folder, memory_size=1), shards, SearchSettings((1024,), 8, 40, probes=1, rounds=1))
    assert few[0]["recall"] < rows[1]["recall"]
    assert few[0]["probes"] == 1


def test_keys_are_those_of_the_longest_documents_as_far_as_wanted_and_queries_come_last(
    shards: Shards, folder: Path
) -> None:
    model = formers.load(folder, memory_size=1)
    keys, queries = stored(model, shards, 300, 40)
    longest = max(shards.rows("validation"), key=lambda row: int(shards.documents[row, 1]))
    ids = torch.from_numpy(shards.document_tokens(longest)).long()[None]
    with torch.no_grad(), listen(model, "*.keys", "*.queries") as seen:
        model(ids)
    own = {name.rpartition(".")[2]: found[0] for name, found in seen.items() if ".blocks.1." in name}
    torch.testing.assert_close(queries, own["queries"][:, :, 300:340])
    torch.testing.assert_close(keys, own["keys"][:, :, :300])


def test_what_cannot_be_is_refused(shards: Shards, folder: Path) -> None:
    with pytest.raises(ConfigError, match="rising from 64"):
        SearchSettings(sizes=(128, 64))
    with pytest.raises(ConfigError, match="neighbours is 0"):
        SearchSettings(neighbours=0)
    with pytest.raises(TargetError, match="has no memory"):
        search(formers.build("gpt2", "nano"), shards, SETTINGS)
    with pytest.raises(DataError, match="make 1,858 entries"):
        search(formers.load(folder, memory_size=1), shards, SearchSettings(sizes=(1 << 20,)))


def test_a_verdict_wants_recall_at_every_size_and_speed_at_the_largest() -> None:
    row = {"recall": 0.95, "exact_ms": 2.0, "approximate_ms": 1.0}
    assert verdict([row, row]).word == "reproduced"
    assert verdict([row, row | {"exact_ms": 0.5}]).word == "smaller effect"
    assert verdict([row | {"recall": 0.8}, row]).word == "not reproduced"
