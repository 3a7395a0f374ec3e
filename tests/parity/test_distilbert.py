"""DistilBERT against transformers' own, head by head: float64, every parameter random, sizes prime where they can be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from formers.errors import ConfigError
from formers.models.distilbert import FOREIGN, HEADS, PRESETS, DistilBERT, DistilBERTConfig
from tests.parity.encoder_defects import NINE, TOLERANCE, check_defect
from tests.parity.encoders import Batch, batch, cases, check_old_names, check_there_and_back, compare, twins

SIZES: dict[str, Any] = {
    "vocab_size": 101, "d_model": 39, "num_layers": 3, "num_heads": 3, "d_ff": 53, "max_length": 71,
}  # fmt: skip
LABELS = {"sequence": 5, "token": 7}


def sizes(head: str) -> dict[str, Any]:
    return SIZES | {"num_labels": LABELS.get(head, 2)}


def given(side: str, head: str = "masked_token") -> Batch:
    return batch(side, vocab_size=101, num_labels=LABELS.get(head, 2), num_types=0)


@pytest.mark.parametrize(("head", "side", "attention"), cases(HEADS))
def test_hidden_states_logits_loss_and_every_gradient(head: str, side: str, attention: str) -> None:
    ours, theirs, table = twins("distilbert", head, attention=attention, **sizes(head))
    found = compare(ours, theirs, table, given(side, head))
    print(f"distilbert {head} {side}: {found.worst:.1e}")
    found.assert_within(TOLERANCE)


def test_another_activation_too() -> None:
    ours, theirs, table = twins("distilbert", "masked_token", **SIZES | {"activation": "relu"})
    compare(ours, theirs, table, given("right")).assert_within(TOLERANCE)


def test_token_types_are_refused() -> None:
    ours, _, _ = twins("distilbert", "masked_token", **SIZES)
    ids = given("whole").ids
    with pytest.raises(ConfigError, match="DistilBERT was given token_types"):
        ours(ids, token_types=torch.zeros_like(ids))


@pytest.mark.parametrize("head", HEADS)
def test_there_and_back_is_bit_identical_and_their_auto_class_opens_it(head: str, tmp_path: Path) -> None:
    check_there_and_back(twins("distilbert", head, **sizes(head))[1], tmp_path)


@pytest.mark.parametrize("head", ["masked_token", "none"])
def test_names_of_old_files_are_read(head: str, tmp_path: Path) -> None:
    check_old_names(twins("distilbert", head, **SIZES)[1], tmp_path)


def test_what_is_not_implemented_is_refused_all_at_once() -> None:
    refused = {"sinusoidal_pos_embds": True, "activation": "mish", "architectures": ["DistilBertForChoosing"]}
    with pytest.raises(ConfigError) as caught:
        FOREIGN.read(FOREIGN.write(DistilBERTConfig()) | refused)
    for name in ("sinusoidal_pos_embds", "mish", "DistilBertForChoosing"):
        assert name in str(caught.value)


def test_the_published_size_has_the_published_parameters() -> None:
    with torch.device("meta"):
        made = DistilBERT(DistilBERTConfig(**PRESETS["base"], head="none"))
    assert sum(p.numel() for p in made.parameters()) == 66_362_880


# --- ten defects ------------------------------------------------------------------------------------------------------


def no_norm_of_the_embedding(model: Any) -> None:
    model.embedding.norm = nn.Identity()
    model.embedding.norm.weight, model.embedding.norm.bias = (
        nn.Parameter(torch.ones(39)) for _ in range(2)
    )  # as named


TEN = NINE | {"the embedding's norm left out": no_norm_of_the_embedding}


@pytest.mark.parametrize("name", TEN)
def test_parity_catches_the_defect(name: str) -> None:
    assert len(TEN) == 10
    check_defect(name, TEN[name], "distilbert", given("right"), SIZES)
