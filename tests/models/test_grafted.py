"""A memory for a decoder that was trained without: nothing changes at first, and then it can be of use."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import formers
from formers.data import Sequential, Streams, Windows
from formers.data.shards import Shards
from formers.errors import ConfigError, TargetError
from formers.hub import load, save
from formers.models.grafted import default_layers, graft_memory
from formers.parts.attention import Attention
from formers.parts.taps import listen
from formers.text import ByteTokenizer
from formers.training import Objective, train
from formers.training.batches import CarriedStates
from formers.training.evaluate import evaluate
from tests.parity.harness import random_ids, randomise
from tests.training import small

EXACT = 1e-9
"""Other shapes, so other kernels and orders of summation, in float64."""

DECODERS: dict[str, dict[str, Any]] = {
    "gpt2": {"max_length": 67, "d_ff": 53},
    "llama": {"d_ff": 53, "num_kv_heads": 1, "d_head": 6},
}
SEGMENT, TEXT = 11, 47


def decoder(name: str) -> Any:
    made = formers.build(name, vocab_size=97, d_model=26, num_layers=3, num_heads=2, **DECODERS[name]).double().eval()
    randomise(made, 2)
    return made


def grafted(name: str, *, gate: float = 0.0, **changes: Any) -> Any:
    asked: dict[str, Any] = {"size": 1000, "neighbours": 5, "segment_length": SEGMENT} | changes
    made = graft_memory(decoder(name), asked.pop("layers", [-2]), **asked)
    with torch.no_grad():
        for parameter in (p for n, p in made.named_parameters() if n.endswith("merge.logit")):
            parameter.fill_(gate)
    return made


@torch.no_grad()
def read(made: Any, ids: Tensor, cuts: list[int]) -> Tensor:
    state, found, start = made.init_state(len(ids), ids.shape[1]), [], 0
    for length in cuts:
        out = made(ids[:, start : start + length], state=state)
        state, start = out.state.commit(), start + length
        found.append(out.logits)
    return torch.cat(found, 1)


@pytest.mark.parametrize("name", DECODERS)
def test_within_a_segment_it_is_the_decoder_bit_for_bit(name: str) -> None:
    base, ids = decoder(name), random_ids(2, SEGMENT, 97)
    made = grafted(name)
    with torch.no_grad():
        assert torch.equal(made(ids).logits, base(ids).logits)
    assert torch.equal(read(made, ids, [SEGMENT]), base(ids).logits)
    assert torch.equal(read(made, ids, [1] * SEGMENT), read(base, ids, [1] * SEGMENT))


@pytest.mark.parametrize("cuts", [[TEXT], [8] * 5 + [7], [13, 17, 11, 6], [1] * TEXT, [SEGMENT] * 4 + [3]])
@pytest.mark.parametrize("name", DECODERS)
def test_beyond_a_segment_it_is_the_decoder_on_each_segment(name: str, cuts: list[int]) -> None:
    """Llama goes by distances, and so is told nothing of where a segment stands."""
    base, ids = decoder(name), random_ids(2, TEXT, 97)
    with torch.no_grad():
        alone = torch.cat([base(ids[:, i : i + SEGMENT]).logits for i in range(0, TEXT, SEGMENT)], 1)
    assert (read(grafted(name), ids, cuts) - alone).abs().max() < EXACT


@pytest.mark.parametrize("cuts", [[TEXT], [8] * 5 + [7], [1] * TEXT])
@pytest.mark.parametrize("name", DECODERS)
def test_with_gates_at_zero_it_is_the_model_without_memories_bit_for_bit(name: str, cuts: list[int]) -> None:
    made, ids = grafted(name), random_ids(2, TEXT, 97)
    without = grafted(name)
    block = without.trunk.blocks[1]
    layer = block["attention"]
    block["attention"] = Attention(layer.project, layer.score, layer.mix, turn=layer.turn, remember=layer.remember)
    without.eval()
    assert torch.equal(read(made, ids, cuts), read(without, ids, cuts))


@pytest.mark.parametrize("cuts", [[8] * 5 + [7], [13, 17, 11, 6], [1] * TEXT])
@pytest.mark.parametrize("size", [7, 1000])
@pytest.mark.parametrize("name", DECODERS)
def test_with_open_gates_what_is_seen_does_not_depend_on_cuts(name: str, size: int, cuts: list[int]) -> None:
    made, ids = grafted(name, gate=0.7, size=size), random_ids(2, TEXT, 97)
    with torch.no_grad():
        whole = made(ids).logits
    assert (read(made, ids, cuts) - whole).abs().max() < EXACT
    assert (whole - grafted(name)(ids).logits)[:, SEGMENT:].abs().max() > 1e-3


def test_a_gate_at_zero_learns() -> None:
    made, ids = grafted("gpt2"), random_ids(2, TEXT, 97)
    made(ids).logits.square().sum().backward()
    gradient = made.get_parameter("base.trunk.blocks.1.attention.merge.logit").grad
    assert gradient is not None
    assert bool((gradient != 0).all())


def test_keys_are_stored_without_rotary_positions() -> None:
    """The same tokens at another place of the text, after the same segment, have the same keys, bit for bit."""
    made = grafted("llama", layers=[0])
    ids = random_ids(1, SEGMENT, 97).repeat(1, 3)
    with listen(made, "*.keys") as seen, torch.no_grad():
        made(ids)
    first, second, third = seen["base.trunk.blocks.0.attention.keys"][0].split(SEGMENT, 2)
    assert (first - second).abs().max() < EXACT
    assert (first - third).abs().max() < EXACT


def test_the_given_decoder_stays_as_it_was() -> None:
    base = decoder("gpt2")
    before, kinds = {n: t.clone() for n, t in base.state_dict().items()}, [type(m) for m in base.modules()]
    made = graft_memory(base, [-1], 100)
    with torch.no_grad():
        made.get_parameter("base.tokens.weight").zero_()
    assert all(torch.equal(t, before[n]) for n, t in base.state_dict().items())
    assert [type(m) for m in base.modules()] == kinds


def test_it_is_saved_and_loaded_like_any_model(tmp_path: Path) -> None:
    made, ids = grafted("llama", gate=0.7), random_ids(2, TEXT, 97)
    save(made, tmp_path / "folder")
    again = load(tmp_path / "folder")
    assert again.config == made.config
    with torch.no_grad():
        assert torch.equal(again(ids).logits, made(ids).logits)


def test_the_layer_at_two_thirds_is_the_papers_ninth_of_twelve() -> None:
    depths = {12: 8, 6: 4, 4: 2, 2: 1, 1: 0}
    assert {n: default_layers(formers.build("gpt2", "nano", num_layers=n))[0] for n in depths} == depths


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (lambda: graft_memory(decoder("gpt2"), [-4], 10), ConfigError, "layer -4 of a model of 3 layers"),
        (lambda: graft_memory(decoder("gpt2"), [1, 1], 10), ConfigError, "different"),
        (lambda: graft_memory(decoder("gpt2"), [1], 10, segment_length=68), ConfigError, "67 positions"),
        (lambda: graft_memory(decoder("gpt2"), [1], 10, segment_length=7, cache_length=2), TargetError, "start again"),
        (lambda: graft_memory(grafted("gpt2"), [1], 10), TargetError, "MemoryAttention"),
        (lambda: graft_memory(torch.nn.Linear(2, 2), [0], 10), TargetError, "a decoder of formers"),
        (
            lambda: graft_memory(
                formers.build("t5", vocab_size=9, d_model=8, num_layers=1, num_heads=1, d_ff=8), [0], 10
            ),
            TargetError,
            "T5 takes source",
        ),
    ],
)
def test_what_cannot_be_grafted_is_refused(make: Any, error: type, said: str) -> None:
    with pytest.raises(error, match=said):
        make()


# --- of use ----------------------------------------------------------------------------------------------------------


def texts_of_few_words() -> Shards:
    """Documents of 25 words, drawn from three that are each document's own: what was said is worth remembering."""
    tokenizer, rng = ByteTokenizer(), random.Random(0)
    tokens, rows = [], []
    for number in range(60):
        words = rng.sample(small.WORDS, 3)
        said = " ".join(rng.choice(words) for _ in range(25))
        ids = [*tokenizer.encode(said), tokenizer.end_of_text]
        rows.append((len(tokens), len(ids), len(said), int(number % 4 == 3)))
        tokens += ids
    meta = small.shards().meta
    return Shards(Path("memory"), meta, np.array(tokens, "<u2"), np.array(rows, np.int64), tokenizer)


@pytest.mark.slow
def test_a_trained_decoder_gains_from_a_memory_by_its_gates_alone_and_more_by_its_layer(tmp_path: Path) -> None:
    shards, base = texts_of_few_words(), small.gpt2()

    def loss(model: Any) -> float:
        view = Sequential(shards, split="validation", batch_size=8, seq_len=24)
        return evaluate(Objective(model), view, states=CarriedStates(model, 8, 400)).loss

    def tuned(only: str, steps: int, lr: float) -> float:
        model = graft_memory(base, [-1], 200, segment_length=24, neighbours=16)
        settings = small.settings(steps=steps, lr=lr, only=(only,), carry_state=True)
        train(model, settings, Streams(shards, batch_size=8, seq_len=24), out=tmp_path / only)
        return loss(model)

    train(base, small.settings(steps=150, lr=1e-2), Windows(shards, batch_size=8, seq_len=24), out=tmp_path / "base")
    before = loss(graft_memory(base, [-1], 200, segment_length=24, neighbours=16))
    assert tuned("memory", 60, 5e-3) < tuned("gates", 30, 3e-2) < before
