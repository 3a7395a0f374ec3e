"""What tokens looked at: shares that sum to one, and entries that are what stands in the text and in the memory."""

from __future__ import annotations

import functools
import json

import numpy as np
import pytest
import torch

import formers
from formers.errors import DataError, TargetError
from formers.inspection.looked import SHARES
from formers.inspection.lookups import lookups
from formers.parts.taps import listen
from formers.text import train_tokenizer

TEXT = "".join(f"The {n}th key opens door {n * 7 % 13}, é and all. " for n in range(4))
SIZES = {"d_model": 24, "num_heads": 4, "d_ff": 32, "vocab_size": 257, "segment_length": 19, "memory_size": 100}
MERGES = ["gate", "tanh", "sum", "straight", "joint"]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer("byte", [], 257)


def memorizing(**changes):
    model = formers.build(
        "memorizing",
        **{**SIZES, "num_layers": 3, "cache_length": 7, "memory_layers": (0, 2), "neighbours": 5, **changes},
    )
    return awake(model)


def grafted(base: str = "llama", **changes):
    heads = {"num_kv_heads": 2} if base == "llama" else {}
    decoder = formers.build(base, preset="nano", num_heads=4, num_layers=3, vocab_size=257, max_length=64, **heads)
    return awake(formers.graft_memory(decoder, [1], 100, neighbours=5, segment_length=19, **changes))


def awake(model):
    """Gates open and weights large enough for attention to have preferences."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("merge.logit"):
                parameter.normal_(0.0, 0.7, generator=generator)
            elif name.endswith("linear.weight"):
                parameter.mul_(6)
    return model


@functools.cache
def read(kind: str):
    """The model's look-ups in TEXT. A byte is a token."""
    ids = list(TEXT.encode())
    return lookups(of_model(kind), ids, tokenizer=train_tokenizer("byte", [], 257), without=False)


def of_model(kind: str):
    if kind in MERGES:
        return memorizing(merge=kind, num_kv_heads=2)
    return {
        "strict": lambda: memorizing(own_token=False, cache_length=0),
        "unseen": lambda: memorizing(seen_twice=False),
        "llama": lambda: grafted("llama", cache_length=5),
        "gpt2": lambda: grafted("gpt2"),
        "joint graft": lambda: grafted("gpt2", merge="joint"),
    }[kind]()


ALL = [*MERGES, "strict", "unseen", "llama", "gpt2", "joint graft"]


@pytest.mark.parametrize("kind", ALL)
def test_shares_sum_to_one_and_memory_has_a_share_only_after_the_first_segment(kind: str):
    found = read(kind)
    for layer in found.layers:
        assert layer.shares.shape == (len(found), 4, len(SHARES))
        assert np.abs(layer.shares.sum(-1) - 1).max() < 1e-5
        assert (layer.shares >= 0).all()
        memory = layer.shares[..., SHARES.index("memory")]
        assert (memory[:19] == 0).all()
        assert (memory[20:] > 0).all()
        assert (layer.index[:19] == -1).all()


@pytest.mark.parametrize("kind", ALL)
def test_an_entry_is_the_token_at_its_place_in_an_earlier_segment(kind: str):
    found = read(kind)
    ids = found.ids.tolist()
    behind = 7 if kind == "unseen" else 0
    for layer in found.layers:
        token = np.arange(len(ids))[:, None, None]
        there = layer.index >= 0
        assert there[20:, :, :4].all()
        assert (layer.index < token // 19 * 19 - behind)[there].all()
    looked = found.at(100, layer=found.layers[0].layer, head=3)
    for entry in looked.entries:
        assert entry.token == ids[entry.index]
        assert entry.text == "".join(found.pieces[entry.index : entry.index + 1])
        assert (entry.before + entry.text + entry.after) in TEXT
    assert [entry.weight for entry in looked.entries] == sorted((e.weight for e in looked.entries), reverse=True)


@pytest.mark.parametrize("kind", ["gate", "joint", "llama"])
def test_scores_and_weights_are_those_of_the_plain_formula(kind: str, tokenizer):
    """All keys of the text at once, from the taps of one call on the whole, and the softmax written out."""
    model, ids = of_model(kind).double().eval(), torch.tensor(tokenizer.encode(TEXT))
    found = lookups(model, ids, top=5, without=False)
    name = found.layers[-1].name
    with listen(model, f"{name}.*") as seen, torch.no_grad():
        model(ids[None])
    q, k = seen[f"{name}.queries"][0][0], seen[f"{name}.keys"][0][0]
    k = k.repeat_interleave(len(q) // len(k), 0)
    scores, layer = q @ k.transpose(-1, -2), found.layers[-1]
    for token, head in [(30, 0), (71, 1), (140, 3)]:
        allowed = scores[head, token, : token // 19 * 19][-100:]
        best = allowed.topk(5)
        start = token // 19 * 19 - len(allowed)
        assert (best.indices + start).tolist() == layer.index[token, head].tolist()
        assert np.allclose(layer.score[token, head], best.values, atol=1e-5)
        share = layer.shares[token, head, SHARES.index("memory")]
        assert np.allclose(layer.weight[token, head], share * best.values.softmax(-1), atol=1e-5)
    if layer.gates is not None:
        tops = layer.shares[50:, :, SHARES.index("memory")]
        gate = layer.gates if kind == "gate" else np.abs(layer.gates) / (np.abs(1 - layer.gates) + np.abs(layer.gates))
        assert np.allclose(tops, gate, atol=1e-6)


def test_the_cache_takes_what_lies_before_the_segment(tokenizer):
    """Against the pattern of the whole text in one call, whose columns are the tokens."""
    model, ids = memorizing().eval(), torch.tensor(tokenizer.encode(TEXT))
    layer = lookups(model, ids, without=False).of(2)
    with listen(model, f"{layer.name}.pattern") as seen, torch.no_grad():
        model(ids[None])
    (pattern,) = seen[f"{layer.name}.pattern"]
    for token in (5, 13, 15, 60, 129):
        cache = pattern[0, :, token, : token // 19 * 19].sum(-1).numpy()
        assert np.allclose(layer.shares[token, :, 1], (1 - layer.shares[token, :, 2]) * cache, atol=1e-6)


def test_a_copy_of_a_passage_is_found_where_it_stands(tokenizer):
    """Keys are the embedding of the token and queries too, so a token finds itself: the known ring."""
    model = memorizing(num_layers=1, memory_layers=(0,), num_kv_heads=4, num_heads=4, normalised_scale=50.0)
    with torch.no_grad():
        weight = model.trunk.blocks[0]["attention"].project.linear.weight
        weight[:24], weight[24:48] = torch.eye(24), torch.eye(24)
    text = "zebra crossings. " + "- " * 12 + "zebra"
    found = lookups(model, tokenizer.encode(text), tokenizer=tokenizer, without=False)
    for offset in range(5):
        for head in range(4):
            best = found.at(len(text) - 5 + offset, layer=0, head=head).entries[0]
            assert best.text == "zebra"[offset]
            assert text[best.index] == "zebra"[offset]


@pytest.mark.parametrize("kind", ["gate", "joint", "llama"])
def test_what_memory_bought_is_the_loss_of_a_reading_without_it(kind: str, tokenizer):
    model, ids = of_model(kind).eval(), torch.tensor(tokenizer.encode(TEXT))
    found = lookups(model, ids)
    with torch.no_grad():
        logits = model(ids[None]).logits[0, :-1]
    assert np.isnan(found.loss[0])
    expected = torch.nn.functional.cross_entropy(logits, ids[1:], reduction="none")
    assert np.allclose(found.loss[1:], expected, atol=1e-3)
    assert found.loss_without is not None
    assert np.allclose(found.loss[1:20], found.loss_without[1:20], atol=1e-4)
    assert np.abs(found.loss[20:] - found.loss_without[20:]).max() > 1e-2
    assert lookups(model, ids, without=False).loss_without is None


def test_without_memory_is_the_decoder_on_each_segment_alone(tokenizer):
    model, ids = grafted("gpt2").eval(), torch.tensor(tokenizer.encode(TEXT))
    found = lookups(model, ids)
    with torch.no_grad():
        for parameter in (p for name, p in model.named_parameters() if name.endswith("merge.logit")):
            parameter.zero_()
        closed = lookups(model, ids, without=False)
    assert found.loss_without is not None
    assert np.allclose(found.loss_without[1:], closed.loss[1:], atol=1e-5)
    assert (closed.layers[0].shares[..., SHARES.index("memory")] == 0).all()


def test_it_goes_to_json_and_keeps_as_many_entries_as_asked(tokenizer):
    ids = tokenizer.encode(TEXT)
    found = lookups(memorizing(), ids, tokenizer=tokenizer, top=3, without=False)
    assert {layer.index.shape for layer in found.layers} == {(len(ids), 4, 3)}
    back = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert "".join(back["pieces"]) == TEXT
    assert back["ids"] == ids
    assert [layer["layer"] for layer in back["layers"]] == [0, 2]
    assert back["layers"][1]["index"] == found.of(2).index.tolist()
    assert lookups(memorizing(), ids[:30], top=99, without=False).layers[0].index.shape[-1] == 5


def test_a_model_in_training_stays_in_training_and_hears_nothing_afterwards(tokenizer):
    model = memorizing(dropout=0.5).train()
    first, second = (lookups(model, tokenizer.encode(TEXT[:60]), without=False) for _ in range(2))
    assert model.training
    assert np.array_equal(first.loss, second.loss, equal_nan=True)
    assert not any(tap.heard for tap in model.modules() if hasattr(tap, "heard"))


def test_a_model_without_memory_is_refused(tokenizer):
    with pytest.raises(TargetError, match="no memory"):
        lookups(formers.build("gpt2", preset="nano"), [1, 2, 3])
    with pytest.raises(TargetError, match="no memory"):
        lookups(torch.nn.Linear(2, 2), [1, 2, 3])


@pytest.mark.parametrize("ids", [[], [[1, 2]], [1.5, 2.0], [3, 999], [-1]])
def test_what_is_no_document_is_refused(ids):
    with pytest.raises(DataError):
        lookups(memorizing(), ids)


def test_places_that_are_not_there_are_refused(tokenizer):
    found = lookups(memorizing(), tokenizer.encode(TEXT[:20]), tokenizer=tokenizer)
    for wrong in (
        {"token": 20, "layer": 0, "head": 0},
        {"token": 0, "layer": 1, "head": 0},
        {"token": 0, "layer": 0, "head": 4},
    ):
        with pytest.raises(TargetError):
            found.at(wrong["token"], layer=wrong["layer"], head=wrong["head"])
