"""Llama against transformers' own, in float64, every parameter random: with its float32 casts lifted, and as it is."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from transformers.models.llama import modeling_llama
from transformers.models.mistral import modeling_mistral

from formers.parts.attention import KeyValueWindow
from formers.parts.masks import Causal, SameDocument, Window
from formers.parts.turns import LinearScaling, Llama3Scaling
from tests.parity.harness import compare, float64_throughout, greedy, ragged, random_ids, twins

SIZES: dict[str, Any] = {
    "vocab_size": 101,
    "d_model": 42,
    "num_layers": 3,
    "num_heads": 6,
    "num_kv_heads": 2,
    "d_head": 14,
    "d_ff": 53,
    "max_length": 71,
    "rotary_base": 500.0,
}
LIFTED = 1e-9
AS_IT_IS = 5e-6
"""transformers computes norms and rotary angles in float32 also in a float64 model: the floor is theirs."""

VARIANTS: dict[str, dict[str, Any]] = {
    "grouped": {},
    "one head of keys": {"num_kv_heads": 1},
    "as many": {"num_kv_heads": None, "d_head": None, "num_heads": 3},
    "attention bias": {"attention_bias": True},
    "all biases, tied": {"attention_bias": True, "feed_forward_bias": True, "tie": True},
    "tied": {"tie": True},
    "linear": {"rotary_scaling": LinearScaling(2.5)},
    "llama3": {"rotary_scaling": Llama3Scaling(8.0, 1.0, 4.0, 64), "attention_bias": True},
    "other numbers": {"eps": 3e-3, "activation": "gelu_tanh", "rotary_base": 10_000.0},
}


@pytest.fixture
def lifted(monkeypatch: pytest.MonkeyPatch) -> None:
    float64_throughout(monkeypatch, modeling_llama, modeling_mistral)


@pytest.mark.usefixtures("lifted")
@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_and_every_gradient_with_their_float32_casts_lifted(variant: str) -> None:
    ours, theirs, table = twins("llama", **SIZES | VARIANTS[variant])
    compare(ours, theirs, table, random_ids(2, 37, 101)).assert_within(LIFTED)


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_and_every_gradient_as_it_is(variant: str) -> None:
    ours, theirs, table = twins("llama", **SIZES | VARIANTS[variant])
    found = compare(ours, theirs, table, random_ids(2, 37, 101))
    found.assert_within(AS_IT_IS)
    assert found.worst > LIFTED, "nothing was lifted that had to be lifted"


@pytest.mark.usefixtures("lifted")
def test_ragged_rows_padded_on_the_left_with_position_ids_handed_to_both() -> None:
    ours, theirs, table = twins("llama", **SIZES)
    ids, positions = ragged([37, 23, 2], 101)
    compare(ours, theirs, table, ids, positions=positions).assert_within(LIFTED)


@pytest.mark.usefixtures("lifted")
def test_a_window_is_that_of_mistral() -> None:
    reference = transformers.MistralConfig
    ours, theirs, table = twins("llama", reference=reference, **SIZES)
    assert theirs.config.sliding_window == 4096
    ids = random_ids(2, 37, 101)
    compare(ours, theirs, table, ids).assert_within(LIFTED)
    ours, theirs, table = windowed(7)
    compare(ours, theirs, table, ids).assert_within(LIFTED)


def windowed(size: int, *, random: bool = True) -> tuple[Any, Any, Any]:
    """Our Llama and their Mistral, each of which sees `size` tokens back, itself included."""

    def config(**settings: Any) -> Any:
        return transformers.MistralConfig(sliding_window=size, **settings)

    ours, theirs, table = twins("llama", reference=config, random=random, **SIZES)  # type: ignore[arg-type]
    for block in ours.trunk.blocks:
        block["attention"].score.mask = Causal() & Window(size) & SameDocument()
        block["attention"].remember = KeyValueWindow(2, 14, size)
    return ours, theirs, table


def test_fifty_greedy_tokens() -> None:
    ours, theirs, _ = twins("llama", **SIZES)
    ids = random_ids(3, 7, 101)
    generated = theirs.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=50, do_sample=False, pad_token_id=0
    )
    chosen = greedy(ours, ids, 50)
    assert torch.equal(chosen, generated[:, 7:])
    assert len(chosen.unique()) > 10


@pytest.mark.parametrize("variant", ["attention bias", "tied", "all biases, tied"])
def test_there_and_back_is_bit_identical(variant: str) -> None:
    ours, theirs, table = twins("llama", **SIZES | VARIANTS[variant])
    written, stored = table.write(ours.state_dict()), theirs.state_dict()
    tied = VARIANTS[variant].get("tie", False)
    assert {name for name in stored if name not in written} == ({"lm_head.weight"} if tied else set())
    assert all(torch.equal(written[name], stored[name]) for name in written)
    again, _, _ = twins("llama", seed=2, **SIZES | VARIANTS[variant])
    again.load_state_dict(table.read(written, {name: tensor.shape for name, tensor in ours.state_dict().items()}))
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in ours.state_dict().items())
