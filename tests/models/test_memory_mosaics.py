"""Memory Mosaics: what the equations promise, decoding with a half-made pair, and blocks of four kinds."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

import formers
from formers.config import replace
from formers.errors import ConfigError, StateError
from formers.hub.differences import randomise
from formers.models.memory_mosaics import PRESETS, MemoryMosaicsConfig, weights
from formers.parts import leaky
from formers.parts.positions import Positions
from formers.parts.taps import listen
from formers.training.optimizer import decay_names

SIZES: dict[str, Any] = {
    "vocab_size": 31, "d_model": 24, "num_layers": 2, "num_heads": 3, "memory_size": 17, "d_ff": 29,
}  # fmt: skip
BLOCKS = [
    tuple(pair) for pair in itertools.product(("context_memory", "attention"), ("persistent_memory", "feed_forward"))
]
EXACT = 1e-9
"""The same sums in another order, float64; measured 1e-13."""


def model(seed: int = 1, **changes: Any) -> Any:
    made = formers.build("memory_mosaics", **SIZES | changes).double().eval()
    randomise(made, seed)
    return made


def text(batch: int, length: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 31, (batch, length), generator=torch.Generator().manual_seed(seed))


def in_calls(made: Any, ids: Tensor, *lengths: int, positions: Positions | None = None) -> Tensor:
    """Logits of `ids` read in calls of these lengths, the last of them repeated to the end."""
    lengths += (lengths[-1],) * (ids.shape[1] // lengths[-1] + 1)
    state, found, start = made.init_state(*ids.shape), [], 0
    for length in lengths:
        if start >= ids.shape[1]:
            break
        stop = min(start + length, ids.shape[1])
        out = made(ids[:, start:stop], positions=positions and positions.slice(start, stop), state=state)
        found.append(out.logits)
        state, start = out.state.commit(), stop
    return torch.cat(found, 1)


# --- what the equations promise -----------------------------------------------------------------------------------------


def test_the_first_token_finds_nothing_and_its_answer_is_0() -> None:
    made = model()
    for length in (1, 2, 9):
        with torch.no_grad(), listen(made, "*.context_memory.heads") as seen:
            made(text(2, length))
        assert all(float(heads[0][:, :, 0].abs().max()) == 0.0 for heads in seen.values())
        assert length == 1 or all(float(heads[0][:, :, 1:].abs().min()) > 0.0 for heads in seen.values())


@pytest.mark.parametrize("factor", [1e-3, 7.0, 1e3])
def test_the_size_of_the_key_map_changes_nothing(factor: float) -> None:
    made, ids = model(), text(2, 19)
    whole = made(ids).logits
    for name, parameter in made.named_parameters():
        if ".key.linear." in name:
            parameter.data.mul_(factor)
    assert (made(ids).logits - whole).abs().max() <= EXACT / min(factor, 1.0)  # 1e-10 beside a smaller norm


def test_keys_are_as_long_as_their_scale_says_and_values_as_theirs() -> None:
    made = model()
    scales = {n: 10 * p for n, p in made.named_parameters() if n.endswith(("key.scale", "value.scale"))}
    with listen(made, "*.queries", "*.context_memory.values") as seen:
        made(text(2, 19))
    for name, (vectors,) in seen.items():
        place, _, tap = name.rpartition(".")
        exponent = scales[f"{place}.{'value' if tap == 'values' else 'key'}.scale"]
        exponent = 2 * exponent if "persistent" in place else exponent
        length = vectors.norm(dim=-1)
        assert (length - exponent.exp()[None, :, None]).abs().max() <= 1e-8, name


def test_a_scale_beyond_what_half_precision_holds_is_cut() -> None:
    made = model(max_key_exponent=2.0, max_persistent_exponent=3.0)
    for name, parameter in made.named_parameters():
        if name.endswith("key.scale"):
            parameter.data.fill_(0.4)
    with torch.no_grad(), listen(made, "*.queries") as seen:
        made(text(1, 7))
    assert {round(float(q[0].norm(dim=-1).log().mean()), 6) for q in seen.values()} == {2.0, 3.0}


def test_a_token_changes_nothing_before_it_though_values_peek() -> None:
    made, ids = model(), text(1, 17)
    whole = made(ids).logits
    for changed in range(17):
        other = ids.clone()
        other[0, changed] = (other[0, changed] + 1) % 31
        moved = (made(other).logits - whole)[0].abs().amax(-1) > 0
        assert moved.nonzero().flatten().tolist() == list(range(changed, 17))


def test_no_gradient_comes_from_later_tokens() -> None:
    made, ids = model(), text(1, 13)
    x = made.tokens(ids).detach().requires_grad_()
    logits = made.head(made.trunk(x, Positions.whole(13))[0])
    for t in range(13):
        (gradient,) = torch.autograd.grad(logits[0, t].square().sum(), x, retain_graph=True)
        assert float(gradient[0, t + 1 :].abs().sum()) == 0.0
        assert (gradient[0, : t + 1].abs().sum(-1) > 0).all()


def test_every_scalar_learns() -> None:
    made = model()
    made(text(2, 19)).logits.square().sum().backward()
    scalars = {n: p for n, p in made.named_parameters() if p.ndim == 1 and n.endswith((".scale", ".rate", ".peek"))}
    assert len(scalars) == 2 * 7
    assert all((p.grad.abs() > 0).all() for p in scalars.values())


def test_weight_decay_pulls_on_learned_pairs_and_maps_and_on_no_scalar() -> None:
    made = model()
    free = {name.rpartition(".")[2] for name, _ in made.named_parameters() if name not in decay_names(made)}
    assert free == {"rate", "scale", "peek", "bias", "weight"}  # weight: of norms
    decayed = decay_names(made)
    assert sum("slot_" in name for name in decayed) == 4
    assert not any("norm" in name for name in decayed)


# --- states -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", BLOCKS, ids="+".join)
def test_any_cut_into_calls_gives_the_same_logits(block: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaky, "CHUNK", 5)
    made, ids = model(block=block), text(2, 29)
    whole = made(ids).logits
    for lengths in ((1,), (2, 1), (1, 28), (8,), (7, 3, 11), (29,)):
        for gradients in (True, False):  # with and without gradients the ring goes other ways
            with torch.set_grad_enabled(gradients):
                assert (in_calls(made, ids, *lengths) - whole).abs().max() <= EXACT, lengths


@pytest.mark.parametrize("cut", [(1,), (6, 1, 9), (19,)])
def test_documents_and_padding_in_any_cut_change_nothing(cut: tuple[int, ...]) -> None:
    made = model()
    a, b, c = text(1, 9), text(1, 7, 1), text(1, 14, 2)
    alone = [made(ids).logits[0] for ids in (a, b, c)]
    rest, pad = -torch.ones(1, 2, dtype=torch.long), torch.zeros(1, 2, dtype=torch.long)
    index = torch.cat(
        [torch.cat([rest, torch.arange(9)[None], torch.arange(7)[None], rest[:, :1]], 1),
         torch.cat([torch.arange(5)[None], rest, torch.arange(5, 14)[None], rest, rest[:, :1]], 1)]
    )  # fmt: skip
    ids = torch.cat([torch.cat([pad, a, b, pad[:, :1]], 1), torch.cat([c[:, :5], pad, c[:, 5:], pad, pad[:, :1]], 1)])
    document = torch.tensor([[3] * 11 + [8] * 8, [3] * 19])
    logits = in_calls(made, ids, *cut, positions=Positions(index, document))
    for found, wanted in zip((logits[0, 2:11], logits[0, 11:18], logits[1][index[1] >= 0]), alone, strict=True):
        assert (found - wanted).abs().max() <= EXACT


def test_rows_are_chosen_forked_reset_stored_and_moved() -> None:
    made, ids, more = model(), text(3, 11), text(3, 5, 1)
    whole = made(torch.cat([ids, more], 1)).logits[:, 11:]
    state = made(ids, state=made.init_state(3, 40)).state.commit()

    def goes_on(kept: Any, rows: list[int], ids: Tensor = more) -> None:
        assert (made(ids[rows], state=kept).logits - whole[rows]).abs().max() <= EXACT

    rows = [2, 0, 2]
    goes_on(state.select(torch.tensor(rows)), rows)
    goes_on(state.fork(2), [0, 0, 1, 1, 2, 2])
    goes_on(state.detach(), [0, 1, 2])
    goes_on(state.to(torch.float64), [0, 1, 2])
    stored = {name: tensor.clone() for name, tensor in state.tensors().items()}
    assert sum(t.numel() * t.element_size() for t in stored.values()) == state.nbytes
    goes_on(made.init_state(3, 40).from_tensors(stored), [0, 1, 2])
    goes_on(state.dynamic(), [0, 1, 2])
    state = made(ids, state=made.init_state(3, 40)).state.commit()
    anew = state.reset(torch.tensor([False, True, False]))
    assert (made(ids, state=anew).logits[1] - made(ids).logits[1]).abs().max() <= EXACT
    assert (made(more, state=anew).logits[[0, 2]] - whole[[0, 2]]).abs().max() <= EXACT


def test_a_state_is_cut_back_to_nothing_or_not_at_all() -> None:
    made, ids = model(), text(1, 11)
    with torch.no_grad():
        state = made(ids, state=made.init_state(1, 40)).state.commit()
        with pytest.raises(StateError, match="does not know what it was after 5"):
            state.keep(5)
        state = state.keep(11)
        anew = made(ids, state=state.keep(0)).logits
        assert (anew - made(ids).logits).abs().max() <= EXACT


def test_a_text_longer_than_its_state_is_refused() -> None:
    made = model()
    state = made(text(1, 8), state=made.init_state(1, 8)).state.commit()
    staged = made(text(1, 1), state=state).state
    with pytest.raises(StateError, match="made for 8 tokens was given more"):
        staged.commit()


def test_the_averages_of_a_state_are_as_many_bytes_however_long_the_text() -> None:
    made = model(block=("persistent_memory",))
    assert made.init_state(1, 10).nbytes == made.init_state(1, 10_000).nbytes


def test_a_state_of_bf16_weights_averages_in_single_precision() -> None:
    made, ids = formers.build("memory_mosaics", **SIZES).bfloat16().eval(), text(1, 40)
    state = made.init_state(1, 64)
    assert {n: t.dtype for n, t in state.tensors().items() if n.endswith("average")} == dict.fromkeys(
        (f"{i}.{j}.{what}" for i in range(2) for j, what in ((0, "half.average"), (1, "average"))), torch.float32
    )
    with torch.no_grad():
        stepped, whole = in_calls(made, ids, 1), made(ids).logits
    assert (stepped - whole).abs().max() <= 0.05


# --- blocks -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", BLOCKS, ids="+".join)
def test_each_of_the_four_blocks_keeps_every_law(block: tuple[str, ...]) -> None:
    report = formers.certify(formers.build("memory_mosaics", **SIZES, block=block), length=13)
    assert report.ok, report.failed
    silent = {v.name for v in report.laws.values() if v.status != "pass"}
    assert silent == {"the tokenizer fits", "segments equal whole"}


@pytest.mark.parametrize("size", ["nano", "tiny"])
def test_presets_of_the_four_blocks_have_as_many_parameters(size: str) -> None:
    kinds = [preset for preset in PRESETS if preset.partition("_")[0] == size]
    assert {formers.models.registry.configure("memory_mosaics", kind).block for kind in kinds} == set(BLOCKS)
    counts = [sum(p.numel() for p in formers.build("memory_mosaics", kind).parameters()) for kind in kinds]
    assert max(counts) <= 1.01 * min(counts)


@pytest.mark.parametrize("block", BLOCKS, ids="+".join)
def test_names_of_the_authors_go_both_ways_for_every_block(block: tuple[str, ...]) -> None:
    made = model(block=block, bias=False)
    table, mine = weights(made.config), made.state_dict()
    read = table.read(table.write(mine), {name: tensor.shape for name, tensor in mine.items()})
    assert read.keys() == mine.keys()
    assert all(torch.equal(read[name], tensor) for name, tensor in mine.items())


def test_the_other_program_of_the_authors_keeps_the_laws_too() -> None:
    settings = {k: v for k, v in PRESETS["babistories"].items() if k != "vocab_size"}
    report = formers.certify(formers.build("memory_mosaics", **SIZES | settings), length=13)
    assert report.ok, report.failed


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_heads": 5}, "not a multiple"),
        ({"memory_size": 0}, "memory_size is 0"),
        ({"block": ("context_memory", "feedforward")}, "block has 'feedforward'"),
        ({"block": ()}, "one or more different"),
        ({"block": ("attention", "attention")}, "one or more different"),
        ({"block": ("attention",), "num_heads": 8}, "an even number"),
        ({"d_ff": 0}, "d_ff is 0"),
        ({"activation": "swish"}, "activation 'swish'"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        replace(MemoryMosaicsConfig(), **SIZES | changes)
