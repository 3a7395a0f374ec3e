"""ALBERT against transformers' own, head by head: float64, every parameter random, sizes prime where they can be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from formers.errors import ConfigError
from formers.models.albert import ALBERT, FOREIGN, HEADS, PRESETS, ALBERTConfig
from tests.parity.encoder_defects import NINE, TOLERANCE, check_defect
from tests.parity.encoders import Batch, batch, cases, check_old_names, check_there_and_back, compare, twins

SIZES: dict[str, Any] = {
    "vocab_size": 101, "d_embedding": 17, "d_model": 39, "num_layers": 4, "num_groups": 2, "num_heads": 3, "d_ff": 53,
    "max_length": 71, "num_types": 3,
}  # fmt: skip
LABELS = {"sequence": 5, "token": 7}


def sizes(head: str) -> dict[str, Any]:
    return SIZES | {"num_labels": LABELS.get(head, 2)}


def given(side: str, head: str = "masked_token") -> Batch:
    return batch(side, vocab_size=101, num_labels=LABELS.get(head, 2), num_types=3)


@pytest.mark.parametrize(("head", "side", "attention"), cases(HEADS))
def test_hidden_states_logits_loss_and_every_gradient(head: str, side: str, attention: str) -> None:
    ours, theirs, table = twins("albert", head, attention=attention, **sizes(head))
    found = compare(ours, theirs, table, given(side, head))
    print(f"albert {head} {side}: {found.worst:.1e}")
    found.assert_within(TOLERANCE)


@pytest.mark.parametrize(
    "changes",
    [
        {"num_groups": 1, "num_layers": 3},
        {"num_groups": 3, "num_layers": 6, "group_layers": 2},
        {"num_groups": 4},
        {"activation": "gelu", "eps": 3e-3},
    ],
)
def test_other_settings_too(changes: dict[str, Any]) -> None:
    ours, theirs, table = twins("albert", "masked_token", **SIZES | changes)
    compare(ours, theirs, table, given("right")).assert_within(TOLERANCE)


@pytest.mark.parametrize("head", HEADS)
def test_there_and_back_is_bit_identical_and_their_auto_class_opens_it(head: str, tmp_path: Path) -> None:
    check_there_and_back(twins("albert", head, **sizes(head) | {"group_layers": 2})[1], tmp_path)


@pytest.mark.parametrize("head", ["masked_token", "pooler"])
def test_names_of_old_files_are_read(head: str, tmp_path: Path) -> None:
    check_old_names(twins("albert", head, **SIZES)[1], tmp_path)


def test_what_is_not_implemented_is_refused_all_at_once() -> None:
    refused = {
        "net_structure_type": 1,
        "gap_size": 2,
        "hidden_act": "mish",
        "architectures": ["AlbertForChoosing"],
    }
    with pytest.raises(ConfigError) as caught:
        FOREIGN.read(FOREIGN.write(ALBERTConfig()) | refused)
    for name in ("net_structure_type", "gap_size", "mish", "AlbertForChoosing"):
        assert name in str(caught.value)


def test_groups_of_unequal_size_are_refused() -> None:
    with pytest.raises(ConfigError, match="num_layers 12 is not a multiple of num_groups 5"):
        ALBERTConfig(num_groups=5)


# --- parameters ---------------------------------------------------------------------------------------------------------


def count(**settings: Any) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in ALBERT(ALBERTConfig(**settings)).parameters())


@pytest.mark.parametrize("num_layers", [1, 3, 12])
def test_parameters_are_v_e_and_e_h_and_one_group_whatever_the_depth(num_layers: int) -> None:
    v, e, h, ff, places, types = 101, 17, 39, 53, 71, 3
    embedding = v * e + (places + types) * e + 2 * e
    widen = e * h + h
    group = 4 * (h * h + h) + (h * ff + ff) + (ff * h + h) + 2 * 2 * h
    head = (h * e + e) + 2 * e + v  # the map to v is the tokens' own
    assert count(**SIZES | {"num_groups": 1, "num_layers": num_layers}) == embedding + widen + group + head


def test_each_more_group_costs_one_group() -> None:
    one, two, three = (count(**SIZES | {"num_layers": 6, "num_groups": n}) for n in (1, 2, 3))
    assert three - two == two - one > 0


@pytest.mark.parametrize(
    ("preset", "parameters"),
    [
        ("base", 11_683_584),
        ("large", 17_683_968),
        ("xlarge", 58_724_864),
        ("xxlarge", 222_595_584),
        ("base_v1", 11_683_584),
    ],
)
def test_the_published_sizes_have_the_published_parameters(preset: str, parameters: int) -> None:
    """Base as transformers counts it; the others 18, 60 and 235 million in table 1, rounded there and with heads."""
    assert count(**PRESETS[preset], head="pooler") == parameters


# --- ten defects ------------------------------------------------------------------------------------------------------


def layers_dealt_out_in_turn(model: Any) -> None:
    model.trunk.order = tuple(i % 2 for i in range(4))


TEN = NINE | {"groups take turns": layers_dealt_out_in_turn}


@pytest.mark.parametrize("name", TEN)
def test_parity_catches_the_defect(name: str) -> None:
    assert len(TEN) == 10
    check_defect(name, TEN[name], "albert", given("right"), SIZES)
