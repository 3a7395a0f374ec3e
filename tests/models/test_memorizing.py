"""Memorizing transformers: what is seen depends on positions alone, and what is remembered outlives nothing that it should."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

import formers
from formers.errors import ConfigError, StateError
from formers.models.memorizing import PRESETS, MemorizingConfig
from formers.parts.positions import Positions
from formers.parts.recollection import MERGES, MemoryAttention, recall_of
from formers.parts.taps import listen
from tests.parity.harness import random_ids, randomise

EXACT = 1e-9
"""Other shapes, so other orders of summation, in float64."""

SIZES: dict[str, Any] = {
    "vocab_size": 43, "d_model": 26, "num_layers": 3, "num_heads": 2, "d_ff": 31, "segment_length": 5, "cache_length": 3,
    "memory_layers": (1,), "memory_size": 1000, "neighbours": 7, "num_buckets": 6, "max_distance": 9,
}  # fmt: skip
TEXT = 37

VARIANTS: dict[str, dict[str, Any]] = {
    "paper": {},
    "small memory": {"memory_size": 8, "neighbours": 3},
    "never twice": {"seen_twice": False, "memory_size": 11},
    "shared heads": {"num_kv_heads": 1, "memory_size": 11},
    "two memories": {"memory_layers": (0, 2), "memory_size": 11},
    "no cache": {"cache_length": 0},
    "a long cache": {"cache_length": 13, "memory_size": 8},
    "joint": {"merge": "joint", "seen_twice": False},
    "meliad": {"own_token": False, "bias_in_memory_layers": False},
    "every third": {"memory_stride": 3, "memory_size": 4},
    "every third, never twice": {"memory_stride": 3, "memory_size": 3, "seen_twice": False, "neighbours": 2},
    "more apart than a segment": {"memory_stride": 7, "memory_size": 2},
    "held in int8": {"memory_storage": "int8", "memory_size": 11},
    "held in bf16": {"memory_storage": "bfloat16", "memory_size": 11},
}


def model(**changes: Any) -> Any:
    made = formers.build("memorizing", **SIZES | changes).double().eval()
    randomise(made, 1)
    return made


def text(batch: int = 2, length: int = TEXT, seed: int = 0) -> Tensor:
    return random_ids(batch, length, SIZES["vocab_size"], seed=seed)


def memory_layer(made: Any, layer: int = 1) -> MemoryAttention:
    return made.trunk.blocks[layer]["attention"]


@torch.no_grad()
def read(made: Any, ids: Tensor, cuts: list[int], state: Any = None) -> tuple[Tensor, Any]:
    """Logits of `ids` in calls of these lengths, and the state after them."""
    state, found, start = state or made.init_state(len(ids), ids.shape[1]), [], 0
    for length in cuts:
        out = made(ids[:, start : start + length], state=state)
        state, start = out.state.commit(), start + length
        found.append(out.logits)
    return torch.cat(found, 1), state


@pytest.mark.parametrize("cuts", [[8] * 4 + [5], [1] * TEXT, [11, 13, 7, 6]], ids=["eights", "ones", "primes"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_what_is_seen_does_not_depend_on_how_a_text_was_cut(variant: str, cuts: list[int]) -> None:
    made, ids = model(**VARIANTS[variant]), text()
    with torch.no_grad():
        whole = made(ids).logits
    assert (read(made, ids, [TEXT])[0] - whole).abs().max() < EXACT
    assert (read(made, ids, cuts)[0] - whole).abs().max() < EXACT


@pytest.mark.parametrize(("seen_twice", "behind"), [(True, 0), (False, 3)])
def test_a_query_finds_the_newest_entries_of_earlier_segments_and_none_else(seen_twice: bool, behind: int) -> None:
    made = model(memory_size=8, neighbours=1000, seen_twice=seen_twice)
    with listen(made, "*.found") as seen:
        read(made, text(), [11, 13, 7, 6])
    found = torch.cat([index[0, 0].T for index in seen["trunk.blocks.1.attention.found"]], 1).T
    for place in range(TEXT):
        stop = place // 5 * 5 - behind
        assert set(found[place].tolist()) - {-1} == set(range(max(0, stop - 8), max(0, stop)))


def test_with_the_gate_shut_it_is_the_model_without_memory_layers() -> None:
    made, without = model(), model(memory_layers=(), normalise=False)
    with torch.no_grad():
        memory_layer(made).merge.logit.fill_(-30.0)  # type: ignore[union-attr, operator]
    shared = {n: t for n, t in made.state_dict().items() if n in without.state_dict()}
    assert made.state_dict().keys() - shared.keys() == {
        "trunk.blocks.1.attention.merge.logit",
        "trunk.blocks.1.attention.turn_memory.scale",
    }
    without.load_state_dict(shared)
    memory_layer(without).score.scale = 1.0
    without.trunk.blocks[1]["attention"].turn = memory_layer(made).turn_memory
    ids = text()
    for cuts in ([TEXT], [11, 13, 7, 6]):
        assert (read(made, ids, cuts)[0] - read(without, ids, cuts)[0]).abs().max() < EXACT


def test_two_documents_in_one_row_do_not_see_each_others_entries() -> None:
    made, ids, first = model(), text(), 17
    index = torch.cat([torch.arange(first), torch.arange(TEXT - first)])[None]
    positions = Positions(index, torch.tensor([0] * first + [1] * (TEXT - first))[None])
    with torch.no_grad():
        both, alone = made(ids, positions=positions).logits, made(ids[:, first:]).logits
        state = made.init_state(2, TEXT)
        out = made(ids[:, :23], positions=positions.slice(0, 23), state=state)
        cut = made(ids[:, 23:], positions=positions.slice(23, TEXT), state=out.state.commit()).logits
    assert (both[:, first:] - alone).abs().max() < EXACT
    assert (cut - alone[:, 23 - first :]).abs().max() < EXACT


def test_a_row_that_is_reset_has_forgotten_and_the_other_has_not() -> None:
    made, ids, more = model(), text(), text(seed=1)
    _, state = read(made, ids, [20, 17], made.init_state(2, 2 * TEXT))
    logits, _ = read(made, more, [TEXT], state.reset(torch.tensor([True, False])))
    alone, _ = read(made, more[:1], [TEXT])
    going_on, _ = read(made, torch.cat([ids, more], 1)[1:], [2 * TEXT])
    assert (logits[0] - alone[0]).abs().max() < EXACT
    assert (logits[1] - going_on[0, TEXT:]).abs().max() < EXACT
    assert (logits[1] - made(more).logits[1]).abs().max() > 1e-3


def test_a_stored_state_goes_on_bit_for_bit() -> None:
    made, ids, more = model(memory_size=11), text(), text(seed=1)
    _, state = read(made, ids, [TEXT], made.init_state(2, 2 * TEXT))
    stored = {name: tensor.clone() for name, tensor in state.tensors().items()}
    wanted, end = read(made, more, [7, 30], state)
    again, same_end = read(made, more, [7, 30], made.init_state(2, 2 * TEXT).from_tensors(stored))
    assert torch.equal(wanted, again)
    ends = end.tensors(), same_end.tensors()
    assert ends[0].keys() == ends[1].keys()
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_each_state_has_a_memory_of_its_own() -> None:
    """Training, evaluation and generation interleaved: each goes on as if it were alone."""
    made, texts = model(), [text(seed=seed) for seed in range(3)]
    alone = [read(made, ids, [13, 13, 11])[0] for ids in texts]
    states, logits = [made.init_state(2, TEXT) for _ in texts], [[] for _ in texts]
    for start, stop in ((0, 13), (13, 26), (26, TEXT)):
        for i, ids in enumerate(texts):
            part, states[i] = read(made.train(i == 0), ids[:, start:stop], [stop - start], states[i])
            logits[i].append(part)
    assert all(torch.equal(torch.cat(parts, 1), whole) for parts, whole in zip(logits, alone, strict=True))


def test_what_is_remembered_does_not_grow_with_the_text() -> None:
    made = model(memory_size=11)
    assert made.init_state(1, 10**4).nbytes == made.init_state(1, 10**7, device="meta").nbytes


def test_no_gradient_reaches_what_an_earlier_call_read() -> None:
    made, ids = model(), text()
    first = made(ids[:, :10], state=made.init_state(2, TEXT))
    state = first.state.commit()
    assert not any(tensor.requires_grad for tensor in state.tensors().values())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"memory_layers": (3,)}, "wanted different ones of 0 to 2"),
        ({"memory_layers": (1, 1)}, "wanted different ones"),
        ({"merge": "gated"}, "wanted one of " + ", ".join(MERGES)),
        ({"neighbours": 0, "memory_size": -1}, "neighbours is 0, wanted at least 1; memory_size is -1"),
        ({"cache_length": -1}, "cache_length is -1"),
        ({"memory_search": "hnsw"}, "memory_search is 'hnsw', wanted one of exact, approximate"),
        ({"memory_stride": 0}, "memory_stride is 0, wanted at least 1"),
        ({"memory_scope": "world"}, "memory_scope is 'world', wanted one of row, batch"),
        ({"memory_storage": "int4"}, "memory_storage is 'int4', wanted none or one of float32, bfloat16, int8"),
        ({"num_kv_heads": 3}, "not a multiple of num_kv_heads"),
    ],
)
def test_a_config_that_cannot_be_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        MemorizingConfig(**SIZES | change)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_is_a_model(preset: str) -> None:
    with torch.device("meta"):
        made = formers.build("memorizing", preset=preset)
    assert sum(isinstance(module, MemoryAttention) for module in made.modules()) == 1


def test_the_base_is_the_papers_200m() -> None:
    with torch.device("meta"):
        made = formers.build("memorizing", preset="base")
    assert 180e6 < sum(p.numel() for p in made.parameters()) < 220e6


COMPILED = """
import torch
from tests.training import small
from formers.training import train
import formers, json, pathlib, sys

found = []
for name, compiling in (("plain", "off"), ("fast", "on")):
    sizes = dict(vocab_size=257, d_model=16, num_layers=2, num_heads=2, d_ff=32, segment_length=8, cache_length=4)
    sizes |= dict(memory_layers=(1,), memory_size=20, neighbours=5) | json.loads(sys.argv[2])
    model = formers.build("memorizing", **sizes)
    settings = small.settings(carry_state=True, compile=compiling, seq_len=16)
    view = small.streams(seq_len=16)
    found.append(train(model, settings, view, out=pathlib.Path(sys.argv[1]) / name))
plain, fast = found
print(max(float((a - b).abs().max()) for a, b in zip(plain.model.parameters(), fast.model.parameters())))
"""


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"window": 4, "memory_query_stride": 3, "positions": "fourier"}])
def test_compiled_training_is_the_same_training(changes: dict[str, Any], tmp_path: Any) -> None:
    """In a process of its own: the tests' checks of shapes cannot be compiled. 1e-4: rounding, after six steps of Adam."""
    done = subprocess.run(
        [sys.executable, "-c", COMPILED, tmp_path, json.dumps(changes)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split()[-1]) < 1e-4


@pytest.mark.parametrize(("room", "changes"), [(6, {}), (20, {}), (20, {"memory_size": 3}), (6, {"memory_layers": ()})])
def test_a_text_longer_than_its_state_was_made_for_is_refused_not_read_with_a_shorter_memory(
    room: int, changes: dict[str, Any]
) -> None:
    """A cache of 8 and memories of 1,008 and 11: those that hold less than that because the text was to be shorter say so."""
    made, ids = model(**changes), text()
    whole, _ = read(made, ids, [TEXT])
    state = made.init_state(2, room)
    if room >= 11 and "memory_size" in changes:  # all that a query can see has room
        assert (read(made, ids, [7] * 5 + [2], state)[0] - whole).abs().max() < EXACT
        return
    assert (read(made, ids[:, :room], [4, room - 4], state)[0] - whole[:, :room]).abs().max() < EXACT
    with pytest.raises(StateError, match=f"made for {room} tokens was given {room + 2}"):
        read(made, ids, [room, 2], made.init_state(2, room))


def test_a_prompt_in_eight_pieces_is_continued_with_the_same_text() -> None:
    made, prompt = model(memory_size=11), text(1, 4 * TEXT)
    wanted = formers.generate(made, prompt, max_new_tokens=20, temperature=0.0)[0, prompt.shape[1] :].tolist()
    for cuts in ([prompt.shape[1]], [19] * 7 + [15], [1] * prompt.shape[1]):
        logits, state = read(made, prompt, cuts, made.init_state(1, prompt.shape[1] + 20))
        found = [int(logits[0, -1].argmax())]
        while len(found) < 20:
            logits, state = read(made, torch.tensor([found[-1:]]), [1], state)
            found.append(int(logits[0, -1].argmax()))
        assert found == wanted


@pytest.mark.parametrize("token", [True, False])
def test_a_commit_that_is_refused_leaves_the_state_as_it_was(token: bool) -> None:
    """Keys that are NaN, or a text that is too long: the caches of all layers, too, go on as if nothing had been tried."""
    made, ids = model(memory_layers=(2,)), text(1)
    state, bad = read(made, ids[:, :20], [20], made.init_state(1, 30))[1], ids[:, :12]
    embedding = made.tokens.weight
    with torch.no_grad():
        wanted = made(ids[:, 20:27], state=state).logits
        before = embedding.clone()
        if token:
            embedding[bad[0, 4]] = torch.nan
            bad = bad[:, :5]
        out = made(bad, state=state)
        embedding.copy_(before)
        with pytest.raises(StateError, match="NaN or infinite" if token else "made for 30 tokens was given 32"):
            out.state.commit()
        assert torch.equal(made(ids[:, 20:27], state=state).logits, wanted)
        assert read(made, ids[:, 20:27], [3, 4], state)[0].isfinite().all()


def test_more_neighbours_than_a_memory_can_hold_cost_no_more_than_all_of_it() -> None:
    asked = {"memory_size": 11, "cache_length": 0}
    with torch.no_grad(), listen(many := model(**asked, neighbours=10**9), "*.found") as seen:
        logits = many(text()).logits
    assert seen["trunk.blocks.1.attention.found"][0].shape[-1] == 11 + 5  # and a segment that no query sees yet
    assert (logits - model(**asked, neighbours=16)(text()).logits).abs().max() < EXACT


def test_what_a_memory_is_held_in_is_what_it_takes() -> None:
    sizes = [model(memory_storage=kind).init_state(1, 10**4).nodes[1][0].memory for kind in (None, "bfloat16", "int8")]
    with pytest.raises(ConfigError, match="memory_storage"):
        model().init_state(1, 10, dtype=torch.int8)
    assert [memory.keys.tensors("keys")["keys"].dtype for memory in sizes] == [
        torch.float64,
        torch.bfloat16,
        torch.int8,
    ]
    assert sizes[0].nbytes > 2 * sizes[1].nbytes > 2 * sizes[2].nbytes


def test_approximate_look_ups_of_a_model_are_nearly_the_exact_ones_and_say_how_nearly() -> None:
    pytest.importorskip("faiss", reason="the extra `search` is not installed")
    made, ids = {}, text(1, 5120 + 128)
    for way in ("exact", "approximate"):
        one = model(segment_length=128, cache_length=0, memory_size=8000, memory_search=way)
        with listen(one, "*.found") as seen:
            _, state = read(one, ids, [128] * 41)
        made[way] = seen["trunk.blocks.1.attention.found"][-1], recall_of(state)
    (true, none), (found, share) = made["exact"], made["approximate"]
    assert none is None
    assert share is not None
    assert share > 0.9
    assert (found[..., None] == true[..., None, :]).any(-1).float().mean() > 0.85
    assert not torch.equal(found, true)
