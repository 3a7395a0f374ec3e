"""A batch in parts gives the gradients of the batch as a whole."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from formers.data import Batch
from formers.training.batches import step_batch
from formers.training.distributed import Team
from formers.training.loop import accumulate
from formers.training.records import RunFolder
from formers.training.signals import StopRequest
from formers.training.trainer import Trainer
from tests.training import small

TOLERANCE = {torch.float32: 2e-6, torch.float64: 1e-12}  # relative norm of each tensor: sums in another order


class Uneven:
    """Rows of 3 to 24 tokens, the sixth without any label."""

    def __init__(self) -> None:
        self.inner = small.windows()

    def batch(self, step: int) -> Batch:
        batch = self.inner.batch(step)
        lengths = [24, 3, 11, 7, 24, 19, 5, 13]
        targets, index = batch.targets.copy(), batch.index.copy()
        for row, length in enumerate(lengths):
            targets[row, length:], index[row, length:] = -100, -1
        targets[5] = -100
        return dataclasses.replace(batch, targets=targets, index=index)


def gradients(view, dtype, steps=1, **settings):
    """Mean loss and every gradient of the last of some steps (each commits the states that it carries)."""
    job = small.job(small.gpt2(dtype=dtype), view, settings=small.settings(**settings))
    trainer = Trainer(job, Team(), RunFolder(job.out, write=False, resume=False), StopRequest())
    loss = 0.0
    for step in range(1, steps + 1):
        trainer.parts.optimizer.zero_grad()
        loss = accumulate(trainer, step_batch(view, step, job.settings), step)
        trainer.parts.states.commit()
    return loss, {name: parameter.grad for name, parameter in job.model.named_parameters()}


def assert_same(found, expected, tolerance):
    assert found[0] == pytest.approx(expected[0], rel=tolerance)
    assert found[1].keys() == expected[1].keys()
    for name, gradient in found[1].items():
        apart = (gradient - expected[1][name]).norm() / expected[1][name].norm()
        assert apart < tolerance, (name, float(apart))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_four_times_two_rows_of_unequal_lengths_are_one_batch_of_eight(dtype):
    whole = gradients(Uneven(), dtype)
    assert_same(gradients(Uneven(), dtype, accumulate=4), whole, TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_each_micro_batch_carries_its_own_state(dtype):
    """Three steps of streams, so that states have been reset, filled and filled again."""
    carried = {"carry_state": True, "steps": 3}
    whole = gradients(small.streams(), dtype, **carried)
    assert_same(gradients(small.streams(), dtype, accumulate=4, **carried), whole, TOLERANCE[dtype])
    alone = gradients(small.streams(), dtype, steps=3)
    assert abs(alone[0] / whole[0] - 1) > 1e-4, "states make no difference here"


def test_recomputation_gives_the_same_gradients_with_dropout_and_states():
    found = []
    for recompute in (False, True):
        view = small.streams()
        model = small.gpt2(dtype=torch.float64, dropout=0.2)
        job = small.job(model, view, settings=small.settings(recompute=recompute, carry_state=True, accumulate=2))
        trainer = Trainer(job, Team(), RunFolder(job.out, write=False, resume=False), StopRequest())
        for step in (1, 2):
            trainer.parts.optimizer.zero_grad()
            loss = accumulate(trainer, step_batch(view, step, job.settings), step)
            trainer.parts.states.commit()
        found.append((loss, {name: parameter.grad for name, parameter in model.named_parameters()}))
    assert_same(found[1], found[0], 1e-12)
