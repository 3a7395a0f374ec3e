"""Associative memories against the paper's sums written as loops, and the triangle that a strict mask is."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from formers.parts import kernels
from formers.parts.attend import Case, attend, choose, dense, sdpa
from formers.parts.attention import Mix, Score
from formers.parts.masks import SameDocument, StrictlyPast
from formers.parts.mosaic import ContextMemory, Keys, PersistentMemory, Values
from formers.parts.positions import Positions

EXACT = 1e-9
"""The same sums in another order, float64; measured 1e-14. 1e-10 stands beside norms of about 1 in ours."""

D, H, W = 12, 3, 4


def keys(power: int) -> Keys:
    return Keys(D, H, W, bias=True, power=power, max_exponent=9.0)


def randomised(module: Any, seed: int = 0) -> Any:
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.double().parameters():
        parameter.data.copy_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return module


def inputs(length: int) -> Tensor:
    return torch.randn(2, length, D, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


def unit(v: Tensor) -> Tensor:
    return v / v.norm()


def keys_by_hand(made: Keys, x: Tensor, h: int) -> list[Tensor]:
    """Keys of head h of one row, by the formula."""
    u = made.linear(x)[:, W * h : W * h + W]
    beta = 10 * made.rate[h].abs()
    scale = torch.exp(made.power * 10 * made.scale[h])
    sums = [sum(torch.exp(-beta * (t - j)) * u[j] for j in range(t + 1)) for t in range(len(x))]
    return [scale * unit(s) for s in sums]  # type: ignore[arg-type]


@pytest.mark.parametrize("length", [1, 2, 9])
@torch.no_grad()
def test_a_context_memory_is_its_formula(length: int) -> None:
    mix = Mix(H, W, D, bias=True)
    memory = randomised(
        ContextMemory(keys(1), Values(D, H, W, bias=True), Score(StrictlyPast() & SameDocument(), 1.0), mix)
    )
    x, value = inputs(length), memory.value
    for row in range(2):
        heads = []
        for h in range(H):
            k = keys_by_hand(memory.key, x[row], h)
            u, c = value.linear(x[row])[:, W * h : W * h + W], value.peek[h]
            v = [torch.exp(10 * value.scale[h]) * unit((1 - c) * u[t + 1] + c * u[t]) for t in range(length - 1)]
            y = [torch.zeros(W, dtype=torch.float64)]
            for t in range(1, length):
                weights = torch.stack([k[t] @ k[j] for j in range(t)]).softmax(0)
                y.append(sum(w * v[j] for j, w in enumerate(weights)))  # type: ignore[arg-type]
            heads.append(torch.stack(y))
        wanted = mix.linear(torch.cat(heads, -1))
        found = memory(x, Positions.whole(length))[0][row]
        assert (found - wanted).abs().max() <= EXACT


@pytest.mark.parametrize("sets", [1, 3])
@torch.no_grad()
def test_a_persistent_memory_is_its_formula_and_the_mean_of_its_sets(sets: int) -> None:
    memory = randomised(PersistentMemory(keys(2), Mix(H, W, D, bias=True), size=7, sets=sets))
    x = inputs(6)
    for row in range(2):
        heads = []
        for h in range(H):
            k = torch.stack(keys_by_hand(memory.key, x[row], h))
            answers = [(k @ memory.slot_keys[s, h].T).softmax(-1) @ memory.slot_values[s, h] for s in range(sets)]
            heads.append(torch.exp(10 * memory.scale[h]) * sum(answers) / sets)
        wanted = memory.mix.linear(torch.cat(heads, -1))
        assert (memory(x, Positions.whole(6))[0][row] - wanted).abs().max() <= EXACT


def test_who_watches_the_pattern_of_a_persistent_memory_sees_every_row_and_changes_nothing() -> None:
    memory, x, seen = randomised(PersistentMemory(keys(2), Mix(H, W, D, bias=True), size=7)), inputs(6), []
    plain = memory(x, Positions.whole(6))[0]
    memory.pattern.listeners.append(seen.append)
    watched = memory(x, Positions.whole(6))[0]
    assert seen[0].shape == (2, H, 6, 7)
    assert (watched - plain).abs().max() <= EXACT


# --- the strict triangle ------------------------------------------------------------------------------------------------


def case(t: int, s: int, start: int = 0) -> Case:
    generator = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(2, 3, n, 5, generator=generator, dtype=torch.float64).requires_grad_() for n in (t, s, s))
    mask = StrictlyPast() & SameDocument()
    return Case(q, k, v, Positions.offset(start, t), Positions.whole(s), mask)


@pytest.mark.parametrize(("t", "s"), [(2, 1), (2, 2), (3, 2), (17, 16), (17, 17)])
def test_a_strict_triangle_takes_the_kernels_triangle_and_holds_no_mask(
    t: int, s: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, weights = case(t, s), torch.randn(2, 3, t, 5, dtype=torch.float64)
    wanted = dense(asked)
    wanted_gradients = torch.autograd.grad((wanted * weights).sum(), [asked.q, asked.k, asked.v])
    monkeypatch.setattr(kernels.Case, "visible", None)
    assert choose(asked) == "sdpa"
    found = sdpa(asked)
    gradients = torch.autograd.grad((found * weights).sum(), [asked.q, asked.k, asked.v])
    assert (found - wanted).abs().max() <= EXACT
    assert float(found.detach()[:, :, 0].abs().max()) == 0.0
    for ours, theirs in zip(gradients, wanted_gradients, strict=True):
        assert (ours - theirs).abs().max() <= EXACT


@pytest.mark.parametrize(("t", "s", "start"), [(5, 6, 0), (5, 9, 5), (3, 1, 0)])
def test_what_is_no_triangle_is_not_taken_for_one(t: int, s: int, start: int) -> None:
    asked = case(t, s, start)
    assert not asked.is_strict_triangle or (t, s, start) == (5, 6, 9)
    assert (sdpa(asked) - dense(asked)).abs().max() <= EXACT


@pytest.mark.parametrize("pairs", [0, 1])
def test_the_first_token_alone_finds_nothing(pairs: int) -> None:
    asked = case(1, pairs)
    found = attend(asked.q, asked.k, asked.v, asked.q_positions, asked.k_positions, mask=asked.mask)
    assert found.shape == (2, 3, 1, 5)
    assert float(found.detach().abs().sum()) == 0.0
