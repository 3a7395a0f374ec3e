"""GPT-2 against transformers' own, in float64, every parameter random, sizes prime where they can be."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from transformers.models.gpt2 import modeling_gpt2

from formers.parts.taps import listen
from formers.training.loss import IGNORE, cross_entropy
from tests.parity.harness import carry, compare, float64_throughout, greedy, ragged, random_ids, twins

SIZES: dict[str, Any] = {"vocab_size": 101, "d_model": 39, "num_layers": 3, "num_heads": 3, "max_length": 71}
TOLERANCE = 1e-9
"""Five orders above what was measured, three below the smallest of the ten seeded defects."""


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"d_ff": 53},
        {"activation": "gelu"},
        {"activation": "relu", "eps": 3e-3},
        {"tie": False},
        {"num_heads": 1, "num_layers": 1},
    ],
)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_logits_and_every_gradient(changes: dict[str, Any], attention: str) -> None:
    ours, theirs, table = twins("gpt2", attention=attention, **SIZES | changes)
    compare(ours, theirs, table, random_ids(2, 37, 101)).assert_within(TOLERANCE)


def test_ragged_rows_padded_on_the_left_with_position_ids_handed_to_both() -> None:
    ours, theirs, table = twins("gpt2", **SIZES)
    ids, positions = ragged([37, 23, 2], 101)
    compare(ours, theirs, table, ids, positions=positions).assert_within(TOLERANCE)


def test_fifty_greedy_tokens() -> None:
    ours, theirs, table = twins("gpt2", tie=False, **SIZES)
    theirs.transformer.wpe.weight.data.mul_(6.0)  # else a random model says one token for ever
    carry(theirs, ours, table)
    ids = random_ids(3, 7, 101)
    generated = theirs.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=50, do_sample=False, pad_token_id=0
    )
    chosen = greedy(ours, ids, 50)
    assert torch.equal(chosen, generated[:, 7:])
    assert len(chosen.unique()) > 10  # a model that repeats itself would agree with anything


@pytest.mark.parametrize("tie", [True, False])
def test_there_and_back_is_bit_identical(tie: bool) -> None:
    ours, theirs, table = twins("gpt2", tie=tie, **SIZES)
    written = table.write(ours.state_dict())
    stored = theirs.state_dict()
    assert {name for name in stored if name not in written} == ({"lm_head.weight"} if tie else set())
    assert all(torch.equal(written[name], stored[name]) for name in written)
    again, _, _ = twins("gpt2", seed=2, tie=tie, **SIZES)
    again.load_state_dict(table.read(written, {name: tensor.shape for name, tensor in ours.state_dict().items()}))
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in ours.state_dict().items())


def test_their_model_takes_what_ours_wrote() -> None:
    ours, theirs, table = twins("gpt2", **SIZES)
    _, other, _ = twins("gpt2", seed=2, **SIZES)
    missing, unexpected = other.load_state_dict(table.write(ours.state_dict()), strict=False)
    assert (missing, unexpected) == (["lm_head.weight"], [])
    ids = random_ids(1, 11, 101)
    assert torch.equal(other(ids).logits, theirs(ids).logits)
    carry(other, ours, table)


def test_hidden_states_of_every_layer_and_the_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """Theirs makes its loss in float32, which is lifted here. The first token of a row has none: what stands before it is
    padding, which transformers lets speak."""
    float64_throughout(monkeypatch, modeling_gpt2)
    ours, theirs, _ = twins("gpt2", **SIZES)
    ids, positions = ragged([37, 23, 2], 101)
    index = positions.index.expand_as(ids)
    real, labels = index >= 0, ids.masked_fill(index <= 0, IGNORE)
    given = {"attention_mask": real.long(), "position_ids": index.clamp(min=0)}
    wanted = theirs(input_ids=ids, labels=labels, output_hidden_states=True, **given)
    with listen(ours, "trunk.stream.*") as seen:
        hidden, _ = ours.body(ids, positions)
    found = [ours.tokens(ids) + ours.places(positions), seen["trunk.stream.0"][0], seen["trunk.stream.1"][0], hidden]
    for mine, other in zip(found, wanted.hidden_states, strict=True):
        assert (mine - other)[real].abs().max() <= TOLERANCE
    total, count = cross_entropy(hidden, ours.head, F.pad(labels[:, 1:], (0, 1), value=IGNORE))
    assert (total / count - wanted.loss).abs() <= TOLERANCE
