"""Every model says which ids it was given that its vocabulary lacks."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import formers
from formers.errors import ConfigError
from formers.models import registry
from formers.parts.embeddings import check_ids

NAMES = [name for name in registry.specs() if name != "grafted"]


def model(name: str) -> Any:
    return formers.build(name, preset="nano", seed=1).eval()


def call(made: Any, ids: torch.Tensor) -> Any:
    return made(ids, source=torch.ones(1, 3, dtype=torch.long)) if "source" in made.inputs else made(ids)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("beyond", [-100, 0], ids=["negative", "too_large"])
def test_an_id_that_the_vocabulary_lacks_is_named(name: str, beyond: int) -> None:
    made = model(name)
    wrong = beyond or made.config.vocab_size
    with pytest.raises(ConfigError, match=f"the id {wrong}\n.* 0 to {made.config.vocab_size - 1}"):
        call(made, torch.tensor([[1, wrong, 3]]))


@pytest.mark.parametrize("ids", [torch.tensor([1, 2]), torch.tensor([[1.0, 2.0]])], ids=["one_row", "no_whole_numbers"])
def test_what_are_no_ids_is_said_with_its_shape(ids: torch.Tensor) -> None:
    with pytest.raises(ConfigError, match=r"input_ids of torch\.\w+, shape \[.*\n.*\[batch, seq\]"):
        check_ids(ids, 3)  # of a model the tests' own checks of shapes would speak first


def test_a_source_is_read_as_strictly() -> None:
    made = model("t5")
    with pytest.raises(ConfigError, match=f"source ids with the id {made.config.vocab_size}"):
        made(torch.zeros(1, 2, dtype=torch.long), source=torch.tensor([[1, made.config.vocab_size]]))
