"""Rings: rows of different lengths step through slots of their own as they would by concatenation, and keep() cuts back."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from formers.errors import StateError
from formers.models.gpt2 import GPT2, GPT2Config
from formers.parts.positions import Positions
from formers.parts.rings import KeyValueRing
from formers.parts.states import State

ACROSS_SHAPES = 1e-9
LENGTH = 24


def model() -> GPT2:
    config = GPT2Config(vocab_size=31, d_model=24, num_layers=2, num_heads=4, max_length=64, init_std=0.3)
    return GPT2(config).double().eval()


def ids(batch: int, length: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 31, (batch, length), generator=torch.Generator().manual_seed(seed))


def ragged(m: GPT2) -> State:
    keep = torch.tensor([[0, 0, 0, 1, 1], [1, 1, 1, 1, 1], [0, 1, 1, 0, 1]])
    return m(ids(3, 5), positions=Positions.from_attention_mask(keep), state=m.init_state(3, LENGTH)).state.commit()


@pytest.mark.parametrize("gaps", [False, True])
def test_rows_of_different_lengths_step_in_their_own_slots_as_by_concatenation(gaps: bool) -> None:
    m, logits = model(), []
    for grad in (False, True):  # with autograd keys are concatenated, without they are written ahead
        with torch.set_grad_enabled(grad):
            state = ragged(m)
            for step in range(9):
                positions = None
                if gaps:
                    there = torch.tensor([[step % 2 == 0, True], [True, False], [False, step % 3 == 0]])
                    index = state.next_index[:, None] + there.cumsum(-1) - 1
                    positions = Positions(torch.where(there, index, -1))
                out = m(ids(3, 2, step), positions=positions, state=state)
                state = out.state.commit()
                logits.append(out.logits)
        assert int(state.nodes[0][0].written.max()) == int(state.next_index.max())
    for ahead, concatenated in zip(logits[:9], logits[9:], strict=True):
        assert (ahead - concatenated).abs().max() <= ACROSS_SHAPES


def test_what_was_written_ahead_is_seen_by_nobody_before_it_is_committed() -> None:
    m = model()
    with torch.no_grad():
        state = ragged(m)
        first = m(ids(3, 1, 1), state=state)
        second = m(ids(3, 1, 2), state=state)
        again = m(ids(3, 1, 1), state=state)
        assert torch.equal(first.logits, again.logits)
        assert not torch.equal(first.logits, second.logits)
        after_second = m(
            ids(3, 1, 3), state=second.state.commit()
        ).logits  # committed after `again` was written over it
        twin = m(ids(3, 1, 2), state=ragged(m)).state.commit()
        assert torch.equal(m(ids(3, 1, 3), state=twin).logits, after_second)


def test_a_full_ring_is_refused_also_where_rows_were_written_ahead() -> None:
    m = model()
    with torch.no_grad():
        state = ragged(m)
        while int(state.next_index.max()) < LENGTH:
            state = m(ids(3, 1), state=state).state.commit()
        with pytest.raises(StateError, match="24 tokens was given 25"):
            m(ids(3, 1), state=state).state.commit()


@pytest.mark.parametrize("grad", [False, True])
def test_keep_takes_back_all_but_the_beginning(grad: bool) -> None:
    m, text, more = model(), ids(2, 9), ids(2, 4, 1)
    with torch.set_grad_enabled(grad):
        state = m(text, state=m.init_state(2, LENGTH)).state.commit()
        kept = state.keep(5)
        short = m(text[:, :5], state=m.init_state(2, LENGTH)).state.commit()
        assert kept.next_index.tolist() == [5, 5]
        assert (m(more, state=kept).logits - m(more, state=short).logits).abs().max() <= ACROSS_SHAPES
        with pytest.raises(StateError, match="superseded"):
            m(more, state=state)


def test_what_was_forgotten_cannot_be_kept() -> None:
    m = model()
    state = m(ids(2, 9), state=m.init_state(2, LENGTH)).state.commit()
    with pytest.raises(StateError, match="has read 9 tokens"):
        state.keep(10)
    with pytest.raises(StateError, match="different lengths"):
        ragged(m).keep(2)
    window = KeyValueRing.empty(1, 1, 4, 2, 2)
    window.start = 5
    with pytest.raises(StateError, match="window of 4 tokens has forgotten"):
        window.keep(3)
