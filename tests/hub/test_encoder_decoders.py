"""Folders of encoder-decoders, compared with each other and with what transformers makes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import formers
from formers.hub import diff, resolve


@pytest.fixture
def t5() -> Any:
    return formers.build("t5", preset="nano", vocab_size=97, seed=1)


def test_a_folder_equals_what_transformers_makes_of_it(t5: Any, tmp_path: Path) -> None:
    formers.save(t5, tmp_path / "t5")
    ours, theirs = (resolve(prefix + str(tmp_path / "t5")).model for prefix in ("", "transformers:"))
    assert type(theirs).__name__ == "T5ForConditionalGeneration"
    report = diff(ours, theirs)
    assert report.same
    assert report.activations.pairs == 2 * 4 + 2 * 6 + 3


def test_the_layer_that_differs_is_named(t5: Any) -> None:
    other = formers.build("t5", preset="nano", vocab_size=97, seed=1)
    with torch.no_grad():
        other.trunk.blocks[1]["cross"].mix.linear.weight.mul_(1.01)
    report = diff(t5, other)
    assert report.activations.first is not None
    assert report.activations.first.name == "trunk.blocks.1.cross.mix.linear"
    assert report.causes[0].kind == "weights"


def test_the_name_of_a_head_of_its_own_settles_what_newer_configs_leave_open(t5: Any, tmp_path: Path) -> None:
    """transformers 5 writes tie_word_embeddings: true also for 1.1, whose head is its own."""
    own = formers.build("t5", preset="nano", vocab_size=97, tie=False, scale_head=False, seed=1)
    tied = formers.build("t5", preset="nano", vocab_size=97, tie=True, scale_head=False, seed=1)
    for name, model in (("own", own), ("tied", tied)):
        formers.save(model, tmp_path / name)
        config = (tmp_path / name / "config.json").read_text()
        stated = config.replace('"tie_word_embeddings": false', '"tie_word_embeddings": true')
        (tmp_path / name / "config.json").write_text(stated)
        back = formers.load(tmp_path / name)
        assert (back.head.linear.weight is back.tokens.weight) == (name == "tied")
        assert back.config.tie == (name == "tied")
        assert not back.config.scale_head
