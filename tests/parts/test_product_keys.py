"""Product-key memories: the search is exact, the look-up is the formula, and queries are normed as they say."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from formers.errors import ConfigError
from formers.parts.positions import Positions
from formers.parts.product_keys import (
    NORMS,
    BatchNorm,
    EachNorm,
    ProductKeyMemory,
    best_slots,
    dense,
    pairs,
    scores_of,
    usage,
)
from formers.parts.replay import Record
from formers.parts.taps import listen

EQUAL = 1e-9
"""Of float64, forward and backward, whatever order sums are taken in."""
WIDTH = 7


def memory(*, keys: int = 5, heads: int = 3, d_key: int = 6, best: int = 4, norm: str = "layer") -> ProductKeyMemory:
    torch.manual_seed(1)
    made = ProductKeyMemory(WIDTH, keys=keys, heads=heads, d_key=d_key, best=best, norm=NORMS[norm])
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, 0, 0.6)
    return made.double()


def text(n: int, *, batch: int = 2, seed: int = 0) -> Tensor:
    return torch.randn(batch, n, WIDTH, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- the search ---------------------------------------------------------------------------------------------------------


def every_sum(scores: Tensor) -> Tensor:
    """Of every key [.., keys^2]."""
    return (scores[..., 0, :, None] + scores[..., 1, None, :]).flatten(-2)


@settings(max_examples=300, deadline=None)
@given(st.integers(2, 9), st.data())
def test_what_is_found_are_the_best_of_all_keys(keys: int, data: st.DataObject) -> None:
    best = data.draw(st.integers(2, keys**2))
    ties = data.draw(st.booleans())
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**31)))
    scores = torch.randn(3, 2, keys, generator=generator, dtype=torch.float64)
    scores = (3 * scores).round() if ties else scores
    slots = best_slots(scores, best)
    wanted = every_sum(scores).topk(best, -1)
    assert all(len(set(row)) == best for row in slots.tolist())
    assert torch.equal(every_sum(scores).gather(-1, slots), wanted.values)
    assert torch.equal(scores_of(scores, slots), wanted.values)
    if not ties:
        assert torch.equal(slots, wanted.indices)


def test_of_a_thousand_pairs_of_ranks_a_hundred_are_looked_at() -> None:
    assert len(pairs(32, 32)) == 119
    assert len(pairs(5, 25)) == 25


# --- the look-up --------------------------------------------------------------------------------------------------------


def with_gradients(made: ProductKeyMemory, x: Tensor, *, densely: bool) -> list[Tensor]:
    x, positions = x.clone().requires_grad_(), Positions.whole(x.shape[1])
    if densely:
        q = made.norm(made.query(x).unflatten(-1, (made.num_heads, -1)), positions)
        y = dense(q, made.half_keys, made.values, made.best)
    else:
        y, state = made(x, positions)
        assert state is None
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(9), dtype=y.dtype)
    return [y.detach(), *torch.autograd.grad((y * weights).sum(), [x, *made.parameters()])]


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 6), st.integers(1, 3), st.sampled_from([2, 6]), st.sampled_from(list(NORMS)), st.data())
def test_it_is_the_formula_with_every_key_made_forward_and_backward(
    keys: int, heads: int, d_key: int, norm: str, data: st.DataObject
) -> None:
    best, n = data.draw(st.integers(2, keys**2)), data.draw(st.integers(1, 9))
    made = memory(keys=keys, heads=heads, d_key=d_key, best=best, norm=norm).train()
    found, wanted = (with_gradients(made, text(n), densely=d) for d in (False, True))
    assert max(float((f - w).abs().max()) for f, w in zip(found, wanted, strict=True)) <= EQUAL


class Largest(TorchDispatchMode):
    """The most numbers that any operation gave."""

    most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.most = max([self.most, *(t.numel() for t in tree_leaves(out) if isinstance(t, Tensor))])
        return out


@pytest.mark.parametrize("densely", [False, True])
def test_nothing_as_large_as_tokens_by_values_exists(densely: bool) -> None:
    made, x = memory(keys=40, heads=2, best=4), text(150)
    with Largest() as seen:
        with_gradients(made, x, densely=densely)
    tokens, values = 300, 40**2
    assert (seen.most >= tokens * values) == densely
    assert densely or seen.most <= max(tokens * 2 * 2 * 40, values * WIDTH)


def test_in_bfloat16_it_is_finite_and_stays_bfloat16() -> None:
    made, x = memory().bfloat16(), text(9).bfloat16().requires_grad_()
    y, _ = made(x, Positions.whole(9))
    assert y.dtype is torch.bfloat16
    assert all(g.isfinite().all() for g in torch.autograd.grad(y.sum(), [x, *made.parameters()]))


def test_a_recomputation_looks_up_what_the_forward_did() -> None:
    made, x, record = memory(), text(9), Record(torch.device("cpu"))
    with torch.no_grad(), listen(made, "slots") as seen:
        with record.recording():
            made(x, Positions.whole(9))
        with record.replaying():
            made(text(9, seed=5), Positions.whole(9))
        made(text(9, seed=5), Positions.whole(9))
    first, again, anew = seen["slots"]
    assert torch.equal(first, again)
    assert not torch.equal(first, anew)


# --- norms of queries ---------------------------------------------------------------------------------------------------


def test_the_norm_of_a_batch_is_torchs_with_its_gradients_and_running_averages() -> None:
    ours, theirs = BatchNorm(3, 6).double().train(), nn.BatchNorm1d(18).double().train()
    for parameter, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        nn.init.normal_(parameter)
        other.data.copy_(parameter.detach().flatten())
    for seed in (0, 1):
        q = torch.randn(2, 5, 3, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).requires_grad_()
        mine, other = ours(q, Positions.whole(5)), theirs(q.flatten(2).flatten(0, 1)).view_as(q)
        assert float((mine - other).detach().abs().max()) <= EQUAL
        weights = torch.randn(q.shape, dtype=torch.float64)
        found, wanted = (torch.autograd.grad((t * weights).sum(), q)[0] for t in (mine, other))
        assert float((found - wanted).abs().max()) <= EQUAL
    assert float((ours.running_mean.flatten() - theirs.running_mean).abs().max()) <= EQUAL
    assert float((ours.running_variance.flatten() - theirs.running_var).abs().max()) <= EQUAL
    q = torch.randn(2, 5, 3, 6, dtype=torch.float64)
    mine, other = ours.eval()(q, Positions.whole(5)), theirs.eval()(q.flatten(2).flatten(0, 1))
    assert float((mine - other.view_as(q)).detach().abs().max()) <= EQUAL


@torch.no_grad()
def test_padding_counts_in_no_average() -> None:
    made, q = BatchNorm(2, 4).double().train(), torch.randn(2, 6, 2, 4, dtype=torch.float64)
    present = torch.arange(6) < torch.tensor([6, 4])[:, None]
    found = made(q, Positions(torch.where(present, torch.arange(6), -1)))[present]
    alone = BatchNorm(2, 4).double().train()
    wanted = alone(q[present][None], Positions.whole(10))[0]
    assert float((found - wanted).abs().max()) <= EQUAL
    assert float((made.running_variance - alone.running_variance).abs().max()) <= EQUAL
    assert made(q[:1, :1], Positions(torch.tensor([[-1]]))).isfinite().all()


@torch.no_grad()
def test_what_a_forward_only_makes_again_moves_no_average() -> None:
    made, x, record = memory(norm="batch").train(), text(9), Record(torch.device("cpu"))
    with record.recording():
        first, _ = made(x, Positions.whole(9))
    before = made.norm.running_mean.clone()
    with record.replaying():
        again, _ = made(x, Positions.whole(9))
    assert torch.equal(first, again)
    assert torch.equal(before, made.norm.running_mean)
    made(x, Positions.whole(9))
    assert not torch.equal(before, made.norm.running_mean)


@torch.no_grad()
@pytest.mark.parametrize(("norm", "apart"), [("layer", True), ("none", True), ("batch", False)])
def test_by_itself_a_token_looks_up_the_same_whatever_stands_beside_it(norm: str, apart: bool) -> None:
    made, x = memory(norm=norm).train(), text(9)
    other = torch.cat([x[:, :4], text(9, seed=3)[:, 4:]], 1)
    found, wanted = (made(t, Positions.whole(9))[0][:, :4] for t in (other, x))
    assert torch.equal(found, wanted) == apart


def test_a_norm_makes_a_query_as_long_as_it_is_wide() -> None:
    q = 9 * torch.randn(2, 5, 3, 8, dtype=torch.float64)
    assert torch.allclose(
        EachNorm(3, 8).double()(q, Positions.whole(5)).norm(dim=-1), torch.tensor(8.0).sqrt().double()
    )


# --- beginning, use, refusals -------------------------------------------------------------------------------------------


def test_a_seed_draws_what_the_authors_draw() -> None:
    made = ProductKeyMemory(64, keys=64, heads=4, d_key=32, best=8)
    made.initialise(torch.Generator().manual_seed(3))
    bound = 16**-0.5
    assert float(made.half_keys.detach().abs().max()) <= bound
    assert abs(float(made.half_keys.detach().std()) - bound / 3**0.5) < 0.01
    assert abs(float(made.values.detach().std()) - 64**-0.5) < 1e-3
    again = ProductKeyMemory(64, keys=64, heads=4, d_key=32, best=8)
    again.initialise(torch.Generator().manual_seed(3))
    assert torch.equal(made.values, again.values)


def test_use_is_even_or_all_of_one() -> None:
    even = usage(torch.arange(25).view(1, 5, 1, 5), torch.full((1, 5, 1, 5), 0.2), 25)
    assert (even.share, round(even.divergence, 9)) == (1.0, 0.0)
    one = usage(torch.full((2, 5, 1, 3), 7), torch.rand(2, 5, 1, 3), 25)
    assert one.share == 1 / 25
    assert one.divergence == pytest.approx(math.log(25))


def test_it_learns_what_each_of_many_vectors_stands_for() -> None:
    torch.manual_seed(0)
    made = ProductKeyMemory(WIDTH, keys=12, heads=2, d_key=8, best=4)
    made.initialise(torch.Generator().manual_seed(0))
    x, wanted = text(48, batch=1).float(), text(48, batch=1, seed=1).float()
    nn.init.normal_(made.query.weight, 0, 0.5)
    optimizer, losses = torch.optim.Adam(made.parameters(), lr=3e-2), []
    for _ in range(120):
        loss = (made(x, Positions.whole(48))[0] - wanted).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] / 20, losses[::20]


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ({"keys": 0}, "keys is 0, wanted at least 1"),
        ({"heads": 0}, "heads is 0"),
        ({"d_key": 7}, "d_key is 7, wanted an even number"),
        ({"best": 1}, "best is 1 of keys.* = 25 values, wanted at least 2"),
        ({"best": 26}, "best is 26 of keys.* = 25 values"),
    ],
)
def test_sizes_that_make_no_memory_are_one_clear_error(sizes: dict[str, int], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        memory(**sizes)
