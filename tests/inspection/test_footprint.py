"""What a step takes is counted without taking it: as the storages of a real step are, and as formulas say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import formers
from formers.inspection.footprint import Footprint, Ledger, Settings, Step, footprint
from formers.parts.trunk import set_recompute
from formers.training.objective import Objective
from formers.training.optimizer import make_optimizer
from formers.training.settings import TrainSettings
from formers.training.usage import resident_bytes

OFF = {"dropout": 0.0, "attention_dropout": 0.0, "embedding_dropout": 0.0}


def making(rows: int = 2, length: int = 64, recompute: bool = False, **changes: Any) -> Callable[[], Step]:
    def make() -> Step:
        model = formers.build("gpt2", "nano", **OFF | changes).train()
        set_recompute(model, recompute)
        objective, ids = Objective(model), torch.zeros(rows, length, dtype=torch.long)
        return Step(objective, lambda: objective(ids, ids)[0])

    return make


def taken(**settings: Any) -> Footprint:
    return footprint(making(**settings), Settings())


@pytest.mark.parametrize(
    "changes", [{}, {"recompute": True}, {"trunk": "reversible", "ff_chunks": 3}, {"dropout": 0.1}]
)
def test_a_step_without_numbers_counts_as_a_step_with_them(changes: dict[str, Any]) -> None:
    """The storages of a real step, counted by the same ledger."""
    with Ledger({}) as ledger:
        made = making(**changes)()
        resting = sum(p.numel() * 4 for p in made.module.parameters())
        made.run().backward()
        real = ledger.most - ledger.live
        assert ledger.live >= 2 * resting
    found = taken(**changes)
    assert found.activations == pytest.approx(real, rel=0.02)


def test_a_product_and_its_backward_are_counted_by_hand() -> None:
    rows, width, out = 128, 32, 8

    def make() -> Step:
        layer, x = nn.Linear(width, out, bias=False), torch.zeros(rows, width)
        return Step(layer, lambda: layer(x).sum())

    found = footprint(make, Settings())
    assert (found.weights, found.gradients, found.optimizer) == (4 * width * out, 4 * width * out, 8 * width * out)
    assert found.traffic.products == 2 * 2 * rows * width * out  # forward, and the gradient of the weight
    assert found.step - found.optimizer == found.weights + 4 * (rows * out + 1)  # what comes out, and its sum


@pytest.mark.parametrize("name", ["adamw", "adafactor"])
def test_what_an_optimizer_keeps_is_what_it_really_keeps(name: str) -> None:
    made = making()()
    optimizer = make_optimizer(made.module.named_parameters(), set(), TrainSettings(optimizer=name))
    made.run().backward()
    optimizer.step()
    kept = [t for state in optimizer.state.values() for key, t in state.items() if key != "step"]
    assert footprint(making(), Settings(optimizer=name)).optimizer == sum(t.numel() * t.element_size() for t in kept)


def test_what_an_operator_takes_for_itself_is_added() -> None:
    def make() -> Step:
        layer, x = nn.Linear(4, 4), torch.zeros(2, 4)
        return Step(layer, lambda: layer(x).sum())

    found = footprint(make, Settings(within={torch.ops.aten.addmm.default: lambda *_: 10**6}))
    assert found.step - found.optimizer == found.weights + 4 * 2 * 4 + 10**6


def test_depth_costs_an_ordinary_model_activations_and_a_reversible_one_none() -> None:
    ordinary = [taken(num_layers=n, length=128).activations for n in (4, 12)]
    reversible = [taken(num_layers=n, length=128, trunk="reversible").activations for n in (4, 12)]
    assert ordinary[1] > 2.4 * ordinary[0]
    assert reversible[1] <= 1.02 * reversible[0]
    assert reversible[0] < ordinary[0]


def test_chunks_take_less_than_a_whole_feed_forward() -> None:
    one, four = (taken(length=128, trunk="reversible", ff_chunks=n).activations for n in (1, 4))
    assert four < one


def test_a_second_micro_batch_meets_the_gradients_of_the_first() -> None:
    one, two = (footprint(making(), Settings(accumulate=n)) for n in (1, 2))
    assert two.activations >= one.activations
    assert (two.gradients, two.weights) == (one.gradients, one.weights)


def test_nothing_is_allocated() -> None:
    before = resident_bytes()
    found = taken(rows=64, length=1024, d_model=8192, num_heads=64, num_layers=2, max_length=1024)
    assert found.step > 30 * 10**9
    assert resident_bytes() - before < 10**9


def test_a_checkpoint_may_take_more_than_a_step() -> None:
    found = taken(rows=1, length=1, d_model=256)
    assert found.peak == found.checkpoint > found.step


def test_tied_weights_count_once() -> None:
    tied, apart = taken(), taken(tie=False)
    assert apart.weights - tied.weights == 4 * 512 * 64


def seen(tensor: Tensor) -> int:
    return tensor.untyped_storage().nbytes()


def test_views_take_nothing_and_what_is_dropped_is_given_back() -> None:
    with Ledger({}) as ledger:
        x = torch.zeros(100)
        assert ledger.live == seen(x) == 400
        y = x[10:].view(9, 10).t()
        assert ledger.live == 400
        z = y + 1
        assert ledger.live == 400 + seen(z)
        del z
        assert (ledger.live, ledger.most) == (400, 760)
        del x
        assert ledger.live == 400  # the view holds it
