"""A grid of settings: every combination is read once, and what it costs stands beside what it buys."""

from __future__ import annotations

from pathlib import Path

import pytest

from formers.data import Shards
from formers.errors import ConfigError
from formers.experiments import grid
from formers.experiments.grid import GridSettings, measure, summarise
from tests.experiments.test_memory_size import folder as folder
from tests.experiments.test_memory_size import shards as shards

SETTINGS = GridSettings({"cache_length": (0, 8), "memory_size": (0, 16, 64)}, documents=3, longer_than=50)


def test_every_combination_has_its_loss_and_its_costs(
    shards: Shards, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = measure(str(folder), shards, tmp_path, SETTINGS)
    assert len(rows) == 6 * 3
    cells = summarise(str(folder), rows, SETTINGS)
    assert [cell["settings"] for cell in cells] == SETTINGS.cells()
    assert len({cell["bits_per_byte"] for cell in cells}) == 6
    assert cells[0]["change"] is None
    assert all(cell["change"].count == 3 and cell["documents"] == 3 and cell["seconds"] > 0 for cell in cells[1:])
    by_cell = {tuple(cell["settings"].values()): cell for cell in cells}
    for name in ("operations", "state_bytes"):
        for cache in (0, 8):
            costs = [by_cell[cache, size][name] for size in (0, 16, 64)]
            assert costs == sorted(set(costs))  # a larger memory costs more
        assert by_cell[0, 16][name] < by_cell[8, 16][name]  # and so does a longer cache
    monkeypatch.setattr(grid, "read_documents", None)  # what was measured is not measured again
    assert measure(str(folder), shards, tmp_path, SETTINGS) == rows


def test_what_a_model_cannot_be_is_refused_before_anything_is_read(
    shards: Shards, folder: Path, tmp_path: Path
) -> None:
    wrong = GridSettings({"memory_size": (16, -1)}, documents=3, longer_than=50)
    with pytest.raises(ConfigError, match="memory_size is -1"):
        measure(str(folder), shards, tmp_path, wrong)
    assert not (tmp_path / "scores.jsonl").exists()
    with pytest.raises(ConfigError, match="two values or more"):
        GridSettings({"memory_size": (16,)})
    with pytest.raises(ConfigError, match="has values"):
        GridSettings({"memory_size": (16, 16)})
