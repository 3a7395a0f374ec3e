"""What a model is made of and what it costs, counted and by formula."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import formers
from formers.inspection.anatomy import cost, tree
from formers.parts.trunk import PreNorm, shared


def count(part) -> int:
    """Parameters by the shapes that the tree shows, each fold counted as often as it stands for."""
    own = sum(torch.Size(weight.shape).numel() for weight in part.weights if weight.shared_with is None)
    return (
        part.alike * (own + sum(count(child) for child in part.children))
        if part.alike > 1
        else own + sum(count(child) for child in part.children)
    )


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_the_tree_shows_every_parameter_once(name: str):
    model = formers.build(name, preset="nano")
    root = tree(model)
    assert root.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert count(root) == root.parameters
    assert root.bytes == 4 * root.parameters


def test_a_shared_tensor_is_named_where_it_stands_again():
    (head,) = [part for part in tree(formers.build("gpt2", preset="nano")).children if part.name == "head"]
    assert head.parameters == 0
    assert head.children[0].weights[0].shared_with == "tokens.weight"


def test_blocks_that_differ_are_not_folded():
    model = nn.Sequential(nn.Linear(3, 5), nn.Linear(3, 5), nn.Linear(5, 3))
    assert [part.name for part in tree(model).children] == ["0..1", "2"]


def test_a_block_that_is_several_layers_says_how_many():
    parts = {part.name: part for part in tree(formers.build("albert", preset="nano", num_layers=5)).children}
    (blocks,) = parts["trunk"].children[:1]
    assert [(block.name, block.runs) for block in blocks.children] == [("0", 5)]
    assert all(part.runs == 1 for name, part in parts.items())
    trunk = PreNorm([{"a": nn.Linear(3, 3)}, {"a": nn.Linear(3, 3)}], lambda: nn.LayerNorm(3), order=(0, 0, 1, 1))
    (blocks,) = (part for part in tree(trunk).children if part.name == "blocks")
    assert [(block.name, block.alike, block.runs) for block in blocks.children] == [("0..1", 2, 2)]


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_products_are_two_for_each_weight_of_a_map(name: str):
    model = formers.build(name, preset="nano")
    maps = [module for module in model.modules() if isinstance(module, nn.Linear)]
    assert cost(model).products_per_token == sum(2 * module.weight.numel() for module in maps)


def test_attention_costs_four_times_heads_times_width_a_layer_and_key():
    found = cost(formers.build("gpt2", preset="nano", num_layers=3, num_heads=4, d_model=32))
    assert found.attention_per_token == 3 * 4 * 4 * 8
    assert found.forward(10) == found.products_per_token + 10 * found.attention_per_token


@pytest.mark.parametrize(
    "preset", ["nano", "nano_context_feed_forward", "nano_attention_persistent", "nano_attention_feed_forward"]
)
def test_learned_pairs_cost_what_maps_do_and_context_memories_what_attention_does(preset: str):
    model = formers.build("memory_mosaics", preset=preset)
    found = cost(model)
    assert found.products_per_token == sum(
        2 * p.numel() for p in model.parameters() if p.ndim >= 2
    )  # head: the tokens' table
    assert found.attention_per_token == 4 * model.config.d_model * model.config.num_layers


def test_a_layer_that_is_shared_costs_as_often_as_it_runs():
    model = formers.build("gpt2", preset="nano", num_layers=1)
    once = cost(model)
    block = dict(model.trunk.blocks[0].items())
    model.trunk = PreNorm([block], lambda: nn.LayerNorm(64), order=shared(3))
    thrice = cost(model)
    assert thrice.attention_per_token == 3 * once.attention_per_token
    head = 2 * model.head.linear.weight.numel()
    assert thrice.products_per_token - head == 3 * (once.products_per_token - head)


def test_the_state_grows_by_keys_and_values_of_every_layer():
    found = cost(formers.build("llama", preset="nano"))  # 2 layers, 2 key/value heads of 16
    keys_and_values = 2 * 2 * 2 * 16 * 4
    assert keys_and_values <= found.state_per_token <= keys_and_values + 2 * 2 * 8 + 8  # and places in the document
    assert found.state_tokens == 128


def test_counting_changes_nothing():
    model = formers.build("gpt2", preset="nano").train()
    cost(model)
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())


def test_an_encoder_decoder_costs_a_token_of_its_source_and_one_of_its_text():
    model = formers.build("t5", preset="nano")
    price = cost(model)
    maps = sum(p.numel() for name, p in model.named_parameters() if "blocks" in name and p.ndim == 2)
    tables = 2 * model.config.num_buckets * model.config.num_heads
    assert price.products_per_token == 2 * (maps - tables + model.head.linear.weight.numel())
    assert price.attention_per_token == 4 * 2 * 32 * 6  # two heads of 32; encoder, decoder and attention to the source
    keys, places = 2 * 2 * 32 * 4, 2 * 8  # keys and values of a layer; index and document
    assert price.state_per_token == 2 * (keys + places)
    state = model.init_state(1, price.state_tokens, source=torch.zeros(1, price.source_tokens, dtype=torch.long))
    assert price.state_bytes == state.nbytes
