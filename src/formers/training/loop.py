"""The training loop.

One step is one update of the weights. Its batch is dealt out in rows to micro-batches ("lanes"); each adds its share of the
gradient of the mean loss over all scored tokens of the step, whichever process holds them, so the update is that of the
whole batch. Nothing is changed (weights, optimizer, carried states, records) before the step is known to be good.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from formers.training.batches import lane_rows, number_present, number_scored, step_batch, to_tensors
from formers.training.compiling import make_anew
from formers.training.optimizer import set_lr
from formers.training.randomness import seed_torch

if TYPE_CHECKING:
    from formers.training.trainer import Trainer


def run_steps(run: Trainer) -> None:
    """Train until the last step, the last minute, or a signal to stop."""
    settings, optimizer = run.settings, run.parts.optimizer
    while run.goes_on():
        began, step = time.perf_counter(), run.step + 1
        batch = step_batch(run.train_view, step, settings)
        try:
            loss = accumulate(run, batch, step)
        except RuntimeError as error:
            if not run.numerics.compile:
                raise
            run.event("warning", make_anew(error, run.parts.wrapped))
            continue  # nothing has changed: the same step again
        run.pictures.see_gradients(step)
        norm = clip(optimizer, settings.clip)
        run.stop_where_not_finite(step, batch, loss, norm)
        run.watch.look(step)
        lr = run.learning_rate(step)
        set_lr(optimizer, lr)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        run.parts.states.commit()
        run.advance(step, number_present(batch), time.perf_counter() - began, loss=loss, lr=lr, grad_norm=norm)
        if run.due(settings.eval_every):
            run.evaluate()
        if run.due(settings.sample_every):
            run.sample()
        if run.due(settings.pictures_every):
            run.pictures.take()
        if run.due(settings.checkpoint_every):
            run.save_checkpoint()


def accumulate(run: Trainer, batch: Any, step: int) -> float:
    """Add up the gradients of a step's micro-batches. Returns the mean loss over all scored tokens of all processes."""
    wrapped, lanes, world = run.parts.wrapped, run.parts.lanes, run.team.world
    scored, losses = max(1, number_scored(batch)), []
    for lane in lanes:
        with run.team.synchronising(wrapped, on=lane == lanes[-1]):
            loss = lane_loss(run, batch, step, lane, wrapped)
            (loss * (world / scored)).backward()  # torch takes the mean over processes, so their number is put back
        losses.append(loss.detach())
    return run.team.total(torch.stack(losses).sum()).item() / scored


def lane_loss(run: Trainer, batch: Any, step: int, lane: int, module: nn.Module) -> Tensor:
    """The loss sum of one micro-batch. What its state would become is staged, and committed when the step is done."""
    rows = lane_rows(batch, lane, run.parts.num_lanes)
    micro = to_tensors(rows, run.device, apart=run.settings.documents_apart, carried=run.settings.carry_state)
    state = run.parts.states.before(lane, micro.fresh)
    seed_torch(run.settings.seed, step, lane)
    weights = run.parts.objective.weights(batch, run.device)
    loss, _, staged = module(*micro.arguments(), state, **micro.given, **weights)
    run.parts.states.after(lane, staged)
    return loss


def clip(optimizer: torch.optim.Optimizer, largest: float | None) -> float:
    """Scale the gradient down to the largest norm allowed. Returns the norm it had."""
    parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    norm = get_total_norm([p.grad for p in parameters if p.grad is not None])
    if largest is not None:
        clip_grads_with_norm_(parameters, largest, norm)
    return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)
