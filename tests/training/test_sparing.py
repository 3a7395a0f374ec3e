"""What a training does for a model that spares memory, and what it takes no notice of in runs of before."""

from __future__ import annotations

import contextlib

import pytest
from torch import nn

import formers
from formers.errors import ConfigError
from formers.training import setup
from formers.training.distributed import _shard
from formers.training.objective import Objective
from formers.training.settings import TrainSettings
from tests.training.small import job

SMALL = {"d_model": 16, "num_layers": 1, "num_heads": 2}


def build(**changes: object) -> nn.Module:
    return formers.build("gpt2", "nano", **SMALL | changes)


def test_freed_memory_is_kept_and_where_memory_is_spared_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("freed_memory_kept", "freed_memory_returned"):
        monkeypatch.setattr(setup, name, lambda device, name=name: contextlib.nullcontext(name))
    chosen = {
        "plain": setup.freed_memory(build(), TrainSettings(), "cpu"),
        "recomputed": setup.freed_memory(build(), TrainSettings(recompute=True), "cpu"),
        "reversible": setup.freed_memory(build(trunk="reversible"), TrainSettings(), "cpu"),
        "chunks": setup.freed_memory(build(ff_chunks=2), TrainSettings(), "cpu"),
    }
    kept = {name for name, context in chosen.items() if context.enter_result == "freed_memory_kept"}  # type: ignore[attr-defined]
    assert kept == {"plain"}


def test_a_run_from_before_there_were_trunks_is_the_same_run() -> None:
    """Its checkpoint names neither setting, so neither may stand in what it is compared with."""
    assert {"trunk", "ff_chunks"}.isdisjoint(job(build()).identity(1)["model"])
    assert job(build(trunk="reversible", ff_chunks=2)).identity(1)["model"]["trunk"] == "reversible"
    assert job(build(ff_chunks=2)).identity(1)["model"]["ff_chunks"] == 2


def test_weights_that_are_shared_out_are_refused() -> None:
    with pytest.raises(ConfigError, match="a reversible trunk with its weights shared out"):
        _shard(Objective(build(trunk="reversible")), compiled=False)
