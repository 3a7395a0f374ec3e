"""States: read-only forwards, commit, roll-back, and positions that decide what is seen however the text was cut."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from formers.errors import ConfigError, StateError
from formers.models.gpt2 import GPT2, GPT2Config
from formers.models.llama import Llama, LlamaConfig
from formers.parts.attend import Case, dense
from formers.parts.attention import KeyValueWindow
from formers.parts.masks import Causal, SameDocument, Window
from formers.parts.positions import EMPTY, Positions
from formers.parts.states import KeyValueRing
from formers.parts.trunk import set_recompute

ACROSS_SHAPES = 1e-9
SIZES = {"vocab_size": 31, "d_model": 24, "num_layers": 2, "num_heads": 4, "max_length": 64}


def gpt2(**changes) -> GPT2:
    off = {"dropout": 0.0, "attention_dropout": 0.0, "embedding_dropout": 0.0}
    return GPT2(GPT2Config(**SIZES | off | changes)).double()


def llama() -> Llama:
    return Llama(LlamaConfig(**SIZES, d_ff=29, num_kv_heads=2)).double()


def ids(batch: int, length: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 31, (batch, length), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("make", [gpt2, llama])
@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("cuts", [(1,) * 13, (13,), (5, 1, 7), (1, 12)])
def test_step_by_step_equals_whole(make, dynamic: bool, grad: bool, cuts: tuple[int, ...]) -> None:
    model, text = make(), ids(3, 13)
    whole = model(text).logits
    state = model.init_state(3, 13)
    state = state.dynamic() if dynamic else state
    pieces = []
    with torch.set_grad_enabled(grad):
        for piece in text.split(cuts, 1):
            out = model(piece, state=state)
            state = out.state.commit()
            pieces.append(out.logits)
    assert (torch.cat(pieces, 1) - whole).abs().max() <= ACROSS_SHAPES
    assert state.next_index.tolist() == [13] * 3


@pytest.mark.parametrize("grad", [False, True])
def test_a_forward_run_twice_from_one_state_gives_the_same(grad: bool) -> None:
    model, text = gpt2(), ids(2, 9)
    state = model(text[:, :4], state=model.init_state(2, 20)).state.commit()
    with torch.set_grad_enabled(grad):
        first = model(text[:, 4:], state=state)
        model(text[:, 2:4], state=state)  # something else in between, not committed
        second = model(text[:, 4:], state=state)
    assert first.logits.equal(second.logits)
    if grad:
        names, parameters = zip(*model.named_parameters(), strict=True)
        gradients = [torch.autograd.grad(o.logits.sum(), parameters) for o in (first, second)]
        assert all(a.equal(b) for a, b in zip(*gradients, strict=True)), names


def test_committing_an_earlier_forward_after_a_later_one_remembers_the_earlier() -> None:
    model, text = gpt2(), ids(2, 9)
    with torch.no_grad():
        state = model(text[:, :4], state=model.init_state(2, 20)).state.commit()
        wanted = model(text[:, 4:6], state=state)
        model(ids(2, 3, seed=5), state=state)  # written ahead over the same free slots
        state = wanted.state.commit()
        last = model(text[:, 6:], state=state).logits
    assert (last - model(text).logits[:, 6:]).abs().max() <= ACROSS_SHAPES


def test_gradients_are_the_same_under_recomputation() -> None:
    model, text = gpt2(), ids(2, 9)
    state = model(text[:, :4], state=model.init_state(2, 20)).state.commit()
    gradients = []
    for recompute in (False, True):
        set_recompute(model, recompute)
        loss = model(text[:, 4:], state=state).logits.square().sum()
        gradients.append(torch.autograd.grad(loss, list(model.parameters())))
    assert all(a.equal(b) for a, b in zip(*gradients, strict=True))


def test_a_superseded_state_raises_and_shows_the_mistake() -> None:
    model, text = gpt2(), ids(2, 9)
    state = model.init_state(2, 20)
    out = model(text, state=state)
    out.state.commit()
    with pytest.raises(StateError, match=r"state = out\.state\.commit\(\)"):
        model(text, state=state)
    with pytest.raises(StateError, match="superseded"):
        out.state.commit()
    with pytest.raises(StateError, match="superseded"):
        state.select(torch.tensor([0]))


def test_a_staged_state_is_no_state() -> None:
    model, text = gpt2(), ids(2, 4)
    out = model(text, state=model.init_state(2, 20))
    with pytest.raises(StateError, match="staged"):
        model(text, state=out.state)


def test_not_committing_is_rolling_back() -> None:
    model, text = gpt2(), ids(2, 9)
    state = model(text[:, :4], state=model.init_state(2, 20)).state.commit()
    before = {
        name: tensor.clone() for name, tensor in state.tensors().items() if "keys" not in name and "values" not in name
    }
    model(text[:, 4:], state=state)
    assert all(state.tensors()[name].equal(tensor) for name, tensor in before.items())
    assert state.start == 4


def test_padding_takes_no_slot_and_changes_nothing() -> None:
    model, text = gpt2(), ids(2, 9)
    state = model.init_state(2, 9)
    index = torch.tensor([[EMPTY, EMPTY, 0, 1], [0, 1, EMPTY, 2]])
    padded = torch.tensor([[0, 0, *text[0, :2]], [*text[1, :2], 0, text[1, 2]]])
    out = model(padded, positions=Positions(index), state=state)
    state = out.state.commit()
    assert state.next_index.tolist() == [2, 3]
    assert state.nodes[0][0].written.tolist() == [2, 3]
    tail = torch.stack([text[0, 2:8], text[1, 3:9]])
    out = model(tail, state=state)
    whole = model(text).logits
    assert (out.logits[0] - whole[0, 2:8]).abs().max() <= ACROSS_SHAPES
    assert (out.logits[1] - whole[1, 3:9]).abs().max() <= ACROSS_SHAPES


def test_a_call_of_padding_alone_changes_nothing() -> None:
    model, text = gpt2(), ids(2, 5)
    state = model(text, state=model.init_state(2, 20)).state.commit()
    before = {name: tensor.clone() for name, tensor in state.tensors().items()}
    out = model(text, positions=Positions(torch.full((2, 5), EMPTY)), state=state)
    after = out.state.commit().tensors()
    assert all(after[name].equal(tensor) for name, tensor in before.items())


def test_select_fork_and_reset_act_on_rows() -> None:
    model, text = gpt2(), ids(3, 9)
    state = model(text[:, :5], state=model.init_state(3, 20)).state.commit()
    whole = model(text).logits[:, 5:]
    chosen = model(text[[2, 0], 5:], state=state.select(torch.tensor([2, 0]))).logits
    forked = model(text[:, 5:].repeat_interleave(2, 0), state=state.fork(2)).logits
    assert (chosen - whole[[2, 0]]).abs().max() <= ACROSS_SHAPES
    assert (forked - whole.repeat_interleave(2, 0)).abs().max() <= ACROSS_SHAPES
    state = state.reset(torch.tensor([False, True, False]))
    out = model(text[:, 5:], state=state).logits
    assert (out[[0, 2]] - whole[[0, 2]]).abs().max() <= ACROSS_SHAPES
    assert (out[1] - model(text[1:2, 5:]).logits[0]).abs().max() <= ACROSS_SHAPES


def test_a_state_survives_storing_its_tensors() -> None:
    model, text = gpt2(), ids(2, 9)
    state = model(text[:, :5], state=model.init_state(2, 20)).state.commit()
    stored = {name: tensor.clone() for name, tensor in state.tensors().items()}
    loaded = model.init_state(2, 20).from_tensors(stored)
    assert (
        model(text[:, 5:], state=loaded).logits - model(text[:, 5:], state=state).logits
    ).abs().max() <= ACROSS_SHAPES
    with pytest.raises(StateError, match="does not fit"):
        model.init_state(3, 20).from_tensors(stored)


def test_documents_in_a_state_do_not_see_each_other() -> None:
    model, text = gpt2(), ids(1, 12)
    first, second = torch.zeros(1, 6, dtype=torch.long), torch.ones(1, 6, dtype=torch.long)
    state = model.init_state(1, 20)
    state = model(text[:, :6], positions=Positions(torch.arange(6)[None], first), state=state).state.commit()
    out = model(text[:, 6:9], positions=Positions(torch.arange(3)[None], second[:, :3]), state=state)
    state = out.state.commit()
    went_on = model(text[:, 9:], state=state).logits  # no positions: the second document goes on
    alone = model(text[:, 6:]).logits
    assert (torch.cat([out.logits, went_on], 1) - alone).abs().max() <= ACROSS_SHAPES


def test_more_than_max_length_is_refused_and_nothing_is_lost() -> None:
    model, text = llama(), ids(2, 9)
    state = model(text, state=model.init_state(2, 10)).state.commit()
    out = model(text[:, :3], state=state)
    with pytest.raises(StateError, match="10 tokens was given 12"):
        out.state.commit()
    assert model(text[:, :1], state=state).logits.isfinite().all()


def test_positions_beyond_the_table_are_refused() -> None:
    with pytest.raises(ConfigError, match="65 tokens, but the model has positions for 64"):
        gpt2()(ids(1, 65))


@pytest.mark.parametrize("w", [1, 3, 8])
@given(cuts=st.lists(st.integers(1, 5), min_size=1, max_size=6))
def test_a_ring_of_w_slots_is_a_window_of_w(w: int, cuts: list[int]) -> None:
    length = sum(cuts)
    generator = torch.Generator().manual_seed(length)
    q, k, v = (torch.randn(2, 2, length, 3, generator=generator, dtype=torch.float64) for _ in range(3))
    mask = Causal() & Window(w) & SameDocument()
    whole = dense(Case(q, k, v, Positions.whole(length), Positions.whole(length), mask))
    ring = KeyValueWindow(2, 3, w).init_state(2, 99, dtype=torch.float64)
    done = 0
    for n in cuts:
        positions = Positions.offset(done, n)
        now = slice(done, done + n)
        keys, values, k_positions, staged = ring.extend(k[:, :, now], v[:, :, now], positions)
        out = dense(Case(q[:, :, now], keys, values, positions, k_positions, mask))
        assert (out - whole[:, :, now]).abs().max() <= ACROSS_SHAPES
        ring = staged.commit()
        done += n
    assert ring.index.shape[1] == w


@given(st.integers(1, 6), st.lists(st.lists(st.booleans(), min_size=1, max_size=7), min_size=1, max_size=6))
def test_a_ring_keeps_the_newest_as_a_list_would(capacity: int, calls: list[list[bool]]) -> None:
    """Two rows: the first without padding, the second with padding wherever the list says so."""
    ring = KeyValueRing.empty(2, 1, capacity, 1, 1)
    kept: list[list[int]] = [[], []]
    stamp = 0
    for present in calls:
        n = len(present)
        stamps = torch.arange(stamp, stamp + n)
        stamp += n
        index = torch.stack([stamps, torch.where(torch.tensor(present), stamps, EMPTY)])
        payload = stamps.float()[None, None, :, None].expand(2, 1, n, 1)
        ring = ring.extend(payload, -payload, Positions(index))[3].commit()
        for row in range(2):
            kept[row] = (kept[row] + [i for i in index[row].tolist() if i >= 0])[-capacity:]
        for row in range(2):
            slots = ring.index[row] >= 0
            assert sorted(ring.index[row, slots].tolist()) == kept[row]
            assert ring.keys[row, 0, slots, 0].long().equal(ring.index[row, slots])
            assert ring.values[row, 0, slots, 0].long().equal(-ring.index[row, slots])


def test_bytes_of_a_state_follow_the_formula() -> None:
    config = GPT2Config(**SIZES)
    state = GPT2(config).init_state(3, 50)
    ring = 3 * 50 * (2 * config.d_model * 4 + 2 * 8) + 3 * 8
    assert state.nbytes == config.num_layers * ring + 3 * 8


def test_a_state_moves_to_another_type_and_keeps_its_positions() -> None:
    model, text = gpt2(), ids(2, 5)
    state = model(text, state=model.init_state(2, 9)).state.commit().to(torch.float32)
    assert state.nodes[0][0].keys.dtype == torch.float32
    assert state.nodes[0][0].index[0].tolist() == [0, 1, 2, 3, 4, *[EMPTY] * 4]


def test_a_state_of_another_batch_size_is_refused() -> None:
    model = gpt2()
    with pytest.raises(StateError, match="2 rows was used with a batch of 3"):
        model(ids(3, 2), state=model.init_state(2, 9))


def test_an_input_the_model_does_not_take_is_refused() -> None:
    with pytest.raises(ConfigError, match="token_types"):
        gpt2()(ids(1, 2), token_types=ids(1, 2))
