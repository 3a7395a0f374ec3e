"""A step's rows are the same however they are dealt out, and states are carried from step to step."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from formers.errors import ConfigError, DataError
from formers.training.batches import (
    FIELDS,
    CarriedStates,
    lane_rows,
    number_present,
    number_scored,
    state_length,
    step_batch,
    to_tensors,
)
from tests.training import small


def test_the_lanes_stacked_are_the_whole_batch():
    batch = small.windows().batch(3)
    lanes = [lane_rows(batch, lane, 4) for lane in range(4)]
    for name in FIELDS:
        stacked = np.concatenate([getattr(rows, name) for rows in lanes])
        assert np.array_equal(stacked, getattr(batch, name)), name


def test_update_one_gets_batch_zero():
    view = small.windows()
    assert np.array_equal(step_batch(view, 1, small.settings()).input_ids, view.batch(0).input_ids)


def test_overfitting_goes_round_the_same_batches():
    view, settings = small.windows(), small.settings(overfit_batches=2)
    seen = [step_batch(view, step, settings).input_ids.tobytes() for step in range(1, 7)]
    assert seen == [view.batch(number).input_ids.tobytes() for number in (0, 1, 0, 1, 0, 1)]


def test_a_view_of_another_size_is_refused():
    with pytest.raises(DataError, match="8 rows of 24 tokens"):
        step_batch(small.windows(), 1, small.settings(batch_size=4))


def test_padding_is_neither_present_nor_scored():
    batch = small.streams(epochs=1).batch(10)
    assert number_scored(batch) == (batch.targets >= 0).sum()
    assert number_present(batch) == (batch.index >= 0).sum() < batch.index.size


def test_without_documents_apart_positions_are_left_to_the_model():
    micro = to_tensors(small.windows().batch(0), "cpu", apart=False, carried=False)
    assert micro.index is None
    assert micro.document is None
    assert to_tensors(small.windows().batch(0), "cpu", apart=True, carried=False).index is not None


def test_rows_that_are_not_carried_on_count_from_where_they_take_the_document_up():
    batch = small.streams().batch(1)
    alone = to_tensors(batch, "cpu", apart=True, carried=False).index
    carried = to_tensors(batch, "cpu", apart=True, carried=True).index
    assert alone is not None
    assert carried is not None
    assert (batch.index > alone.numpy()).any()
    assert np.array_equal(carried.numpy(), batch.index)


def run(model, states, view, number):
    """One step of one lane; returns the hidden states."""
    micro = to_tensors(view.batch(number), "cpu", apart=True, carried=True)
    from formers.parts.positions import Positions

    state = states.before(0, micro.fresh)
    hidden, staged = model.body(micro.input_ids, Positions(micro.index, micro.document), state)
    states.after(0, staged)
    return hidden.detach()


def test_a_step_that_is_not_committed_can_be_run_again_from_where_it_began():
    model, view = small.gpt2(), small.streams()
    states = CarriedStates(model, small.BATCH, 128)
    run(model, states, view, 0)
    states.commit()
    first, second = run(model, states, view, 1), run(model, states, view, 1)
    assert torch.equal(first, second)
    states.commit()
    assert not torch.equal(run(model, states, view, 1), first)


def test_states_go_through_tensors_and_carry_on_alike():
    model, view = small.gpt2(), small.streams()
    states = CarriedStates(model, small.BATCH, 128)
    for number in range(2):
        run(model, states, view, number)
        states.commit()
    again = CarriedStates(model, small.BATCH, 128)
    again.restore(states.tensors() | {"random.torch": torch.zeros(3)}, "cpu")
    for number in (2, 3):
        assert torch.equal(run(model, states, view, number), run(model, again, view, number))
        states.commit(), again.commit()


def test_the_room_of_a_state_is_asked_for_or_the_models_or_the_longest_document():
    model, view = small.gpt2(), small.streams()
    assert state_length(model, view, small.settings(state_length=9)) == 9
    assert state_length(model, view, small.settings()) == 128
    assert state_length(torch.nn.Linear(1, 1), view, small.settings()) == view.lengths.max()
    with pytest.raises(ConfigError, match="state_length"):
        state_length(torch.nn.Linear(1, 1), object(), small.settings())
