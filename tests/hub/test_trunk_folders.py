"""Folders of models whose trunk or feed-forward is not as Hugging Face knows it: what they are is what they say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import formers
from formers.errors import ConfigError


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_reversible_model_is_saved_as_ours_and_as_nobody_elses(name: str, tmp_path: Path) -> None:
    model = formers.build(name, "nano", trunk="reversible", ff_chunks=2).eval()
    formers.save(model, tmp_path / "model")
    settings = json.loads((tmp_path / "model" / "config.json").read_text())
    assert settings["model_type"] == f"formers-{name}"
    assert settings["formers"]["config"]["trunk"] == "reversible"
    loaded = formers.load(tmp_path / "model")
    assert loaded.config == model.config
    ids = torch.randint(0, 512, (2, 17))
    assert torch.equal(loaded(ids).logits, model(ids).logits)


def test_transformers_does_not_take_a_reversible_model_for_gpt2(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    formers.save(formers.build("gpt2", "nano", trunk="reversible"), tmp_path / "model")
    with pytest.raises(ValueError, match="formers-gpt2"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "model")


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_chunks_are_how_a_model_is_computed_and_not_what_it_is(name: str, tmp_path: Path) -> None:
    formers.save(formers.build(name, "nano", ff_chunks=3), tmp_path / "chunked")
    formers.save(formers.build(name, "nano"), tmp_path / "whole")
    for file in sorted(path.name for path in (tmp_path / "whole").iterdir()):
        assert (tmp_path / "chunked" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    assert formers.load(tmp_path / "chunked").config.ff_chunks == 1


def test_published_weights_do_not_fill_a_reversible_model_unasked(tmp_path: Path) -> None:
    formers.save(formers.build("gpt2", "nano"), tmp_path / "model")
    assert formers.load(tmp_path / "model").config.trunk == "pre_norm"
    with pytest.raises(ConfigError, match="trunk 'sideways' is none of"):
        formers.build("gpt2", "nano", trunk="sideways")
