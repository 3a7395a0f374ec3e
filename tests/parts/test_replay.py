"""Recomputation does what the forward did: random numbers, choices, autocast."""

from __future__ import annotations

import subprocess
import sys

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from formers.parts.replay import Record, chosen, recomputing

CPU = torch.device("cpu")


def stubborn(calls: list[int]) -> Tensor:
    """A choice that falls another way when it is made again."""
    calls.append(len(calls))
    return torch.tensor([min(calls[-1], 1), 0])


def drops_and_chooses(x: Tensor, calls: list[int]) -> Tensor:
    """Dropout, a choice that draws, dropout again, and a product that saves what it was given."""
    x = F.dropout(x, 0.5)
    x = x[chosen(lambda: torch.randint(0, 2, (2,)) * 0 + stubborn(calls))]
    return F.dropout(x, 0.5) ** 2


def test_a_choice_is_what_was_made_where_nothing_is_recorded():
    calls: list[int] = []
    assert chosen(lambda: stubborn(calls)).tolist() == [0, 0]
    assert chosen(lambda: stubborn(calls)).tolist() == [1, 0]


def test_a_replay_gives_the_same_numbers_as_often_as_it_is_asked_for():
    torch.manual_seed(0)
    x, calls, record = torch.randn(2, 64, dtype=torch.float64), [7], Record(CPU)
    with record.recording():
        first = drops_and_chooses(x, calls)
    went_on = torch.rand(3)
    for _ in range(2):
        torch.rand(5)  # the generator has moved on
        before = torch.get_rng_state()
        with record.replaying():
            assert torch.equal(drops_and_chooses(x, calls), first)
        assert torch.equal(torch.get_rng_state(), before), "a replay moved the generator"
    assert calls == [7, 1], "a replay made the choice anew"
    assert not torch.equal(torch.rand(3), went_on)


def test_a_replay_runs_under_the_autocast_of_its_forward():
    x, record = torch.randn(4, 4), Record(CPU)
    with torch.autocast("cpu", dtype=torch.bfloat16), record.recording():
        assert (x @ x).dtype == torch.bfloat16
    with record.replaying():
        assert (x @ x).dtype == torch.bfloat16
    assert (x @ x).dtype == torch.float32


def test_a_choice_of_an_inner_forward_that_an_outer_recomputation_runs_is_the_outer_records():
    calls: list[int] = []
    outer, inner = Record(CPU), Record(CPU)
    with outer.recording():
        first = chosen(lambda: stubborn(calls))
    with outer.replaying(), inner.recording():
        assert torch.equal(chosen(lambda: stubborn(calls)), first)
    with inner.replaying():
        assert torch.equal(chosen(lambda: stubborn(calls)), first)
    assert len(calls) == 1


def gradient(x: Tensor, *, recompute: bool, seed: int = 3) -> Tensor:
    calls: list[int] = []
    torch.manual_seed(seed)
    leaf = x.clone().requires_grad_()
    if recompute:
        y = checkpoint(drops_and_chooses, leaf, calls, **recomputing(CPU))
        y = drops_and_chooses(y, calls)
    else:
        y = drops_and_chooses(drops_and_chooses(leaf, calls), calls)
    (found,) = torch.autograd.grad(y.sum(), leaf)
    assert len(calls) == 2
    return found


def test_a_checkpoint_replays_choices_and_dropout():
    x = torch.randn(2, 64, dtype=torch.float64)
    assert torch.equal(gradient(x, recompute=True), gradient(x, recompute=False))


def test_a_checkpoint_without_a_record_would_choose_again():
    """What the record is for: torch's checkpoint by itself makes the stubborn choice anew."""
    x, calls = torch.randn(2, 64, dtype=torch.float64, requires_grad=True), []
    torch.manual_seed(3)
    y = checkpoint(drops_and_chooses, x, calls, use_reentrant=False)
    (found,) = torch.autograd.grad(drops_and_chooses(y, calls).sum(), x)
    assert len(calls) == 3
    assert not torch.equal(found, gradient(x.detach(), recompute=False))


def test_a_checkpoint_can_be_run_backward_twice():
    x, calls = torch.randn(2, 64, dtype=torch.float64, requires_grad=True), []
    y = checkpoint(drops_and_chooses, x, calls, **recomputing(CPU)).sum()
    (first,) = torch.autograd.grad(y, x, retain_graph=True)
    (second,) = torch.autograd.grad(y, x)
    assert torch.equal(first, second)


def test_compiled_code_keeps_a_choice_through_a_checkpoint():
    command = [sys.executable, "-W", "error", "-m", "tests.parts.compiled_replay"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert (done.stdout.strip(), done.stderr) == ("equal", "")
