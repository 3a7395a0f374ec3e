"""Attention by distance (Transformer-XL) against a double loop over its equation."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from formers.parts.attend import RUNNERS, Case, attend, run_blocks
from formers.parts.masks import Causal, Mask, SameDocument, Segments
from formers.parts.positions import Positions
from formers.parts.terms import RelativeBiases, RelativeSinusoids, _kept_sinusoids

HEADS, D_HEAD, D_MODEL = 3, 5, 14
TOLERANCE = 1e-12
"""Two orders of the same few sums in float64, of numbers up to ten."""


def term(reach: int, seed: int = 0) -> RelativeSinusoids:
    biases = RelativeBiases(HEADS, D_HEAD).double()
    made = RelativeSinusoids(D_MODEL, HEADS, D_HEAD, reach=reach, scale=D_HEAD**-0.5, biases=biases).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return made


def sinusoid_of(distance: int) -> Tensor:
    """R_m by hand: sin(m / 10000^(2t/d)) for t = 0, 1, .., and then the cosines."""
    angles = [distance / 10_000 ** (2 * t / D_MODEL) for t in range(D_MODEL // 2)]
    return torch.tensor([math.sin(a) for a in angles] + [math.cos(a) for a in angles], dtype=torch.float64)


def by_hand(
    made: RelativeSinusoids, q: Tensor, k: Tensor, v: Tensor, q_at: Tensor, k_at: Tensor, sees: Tensor
) -> Tensor:
    """Attention of unscaled q [b, h, t, d], positions [b, t] and [b, s], sees [b, t, s]: the equation, pair by pair."""
    out = torch.zeros_like(q)
    weight = made.linear.weight.view(HEADS, D_HEAD, D_MODEL)
    for b, h, i in torch.cartesian_prod(*map(torch.arange, q.shape[:3])).tolist():
        visible = sees[b, i].nonzero().flatten().tolist()
        if not visible:
            continue
        scores = []
        for j in visible:
            content = (q[b, h, i] + made.biases.content[h]) @ k[b, h, j]
            r = weight[h] @ sinusoid_of(int(q_at[b, i] - k_at[b, j]))
            scores.append((content + (q[b, h, i] + made.biases.distance[h]) @ r) / D_HEAD**0.5)
        out[b, h, i] = torch.stack(scores).softmax(0) @ v[b, h, visible]
    return out


def case(batch: int, t: int, s: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(t * 100 + s)
    shapes = ((batch, HEADS, t, D_HEAD), (batch, HEADS, s, D_HEAD), (batch, HEADS, s, D_HEAD))
    q, k, v = (torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True) for shape in shapes)
    return q, k, v


def visible(mask: Mask, q_positions: Positions, k_positions: Positions, batch: int) -> Tensor:
    sees = mask.allows(q_positions.as_queries(), k_positions.as_keys()) & k_positions.present[:, None, None]
    return (sees & q_positions.present[:, None, :, None])[:, 0].expand(batch, -1, -1)


def apart(made: RelativeSinusoids, inputs: tuple[Tensor, ...], left: Tensor, right: Tensor) -> float:
    """The largest difference of two attention outputs, and of the gradients of every input and parameter."""
    weigh = torch.randn(left.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    wanted = [*inputs, *made.parameters()]
    gradients = [torch.autograd.grad((out * weigh).sum(), wanted, retain_graph=True) for out in (left, right)]
    pairs = zip([left.detach(), *gradients[0]], [right.detach(), *gradients[1]], strict=True)
    return max(float((a - b).abs().max()) for a, b in pairs)


@pytest.mark.parametrize(
    ("memory", "length"), [(0, 1), (0, 7), (7, 7), (11, 7), (3, 5), (13, 1), (1, 9)], ids=lambda n: str(n)
)
def test_it_is_the_equation_whatever_the_memory(memory: int, length: int) -> None:
    made, (q, k, v) = term(memory + length), case(2, length, memory + length)
    q_positions, k_positions = Positions.offset(memory, length), Positions.whole(memory + length)
    mask = Causal()
    q_at, k_at = (p.index.expand(2, -1) for p in (q_positions, k_positions))
    slow = by_hand(made, q, k, v, q_at, k_at, visible(mask, q_positions, k_positions, 2))
    for promised in (True, False):
        q_places = q_positions if promised else Positions(q_positions.index)
        k_places = k_positions if promised else Positions(k_positions.index)
        terms = [made.prepare(made, q_places)]
        fast = attend(q * made.scale, k, v, q_places, k_places, mask=mask, terms=terms, runner="dense")
        assert apart(made, (q, k, v), fast, slow) <= TOLERANCE


def test_keys_may_stand_in_any_order_with_empty_slots_and_rows_at_different_places() -> None:
    made, (q, k, v) = term(12), case(2, 4, 9)
    q_positions = Positions(torch.tensor([[5, 6, 7, 8], [-1, 0, 1, 2]]), torch.tensor([[1] * 4, [3] * 4]))
    k_index = torch.tensor([[5, 2, 8, 6, -1, 4, 7, 3, 1], [0, -1, -1, 1, -1, 2, 3, 4, 5]])
    k_positions = Positions(k_index, torch.tensor([[1] * 8 + [0], [3] * 6 + [2] * 3]))
    mask = Causal() & Segments(4, 8) & SameDocument()
    sees = visible(mask, q_positions, k_positions, 2)
    slow = by_hand(made, q, k, v, q_positions.index, k_positions.index, sees)
    fast = attend(q * made.scale, k, v, q_positions, k_positions, mask=mask, terms=[made.prepare(made, q_positions)])
    assert not sees[1, 0].any()
    assert apart(made, (q, k, v), fast, slow) <= TOLERANCE


def test_both_orders_of_the_product_are_the_same() -> None:
    """Few queries are taken through W; many meet W R, which is made once."""
    made = term(31)
    generator = torch.Generator().manual_seed(2)
    q = torch.randn(1, HEADS, 40, D_HEAD, generator=generator, dtype=torch.float64)
    rows: dict[int, Tensor] = {}
    many = made._by_distance(q, 31, rows)
    assert list(rows) == [31]
    few = torch.cat([made._by_distance(q[:, :, i : i + 1], 31, rows := {}) for i in range(40)], 2)
    assert not rows
    assert (many - few).abs().max() <= TOLERANCE


@pytest.mark.parametrize("grad", [True, False])
def test_every_runner_adds_it_alike(grad: bool) -> None:
    made, (q, k, v) = term(12), case(2, 23, 23)
    positions, mask = Positions.whole(23), Causal() & Segments(5, 7) & SameDocument()
    q = (q * made.scale).detach().requires_grad_(grad)
    k, v = k.detach().requires_grad_(grad), v.detach().requires_grad_(grad)
    with torch.set_grad_enabled(grad):
        run = Case(q, k, v, positions, positions, mask, [made.prepare(made, positions)])
        outs = [RUNNERS["dense"](run), RUNNERS["sdpa"](run), run_blocks(run, 4)]
    for out in outs[1:]:
        assert (out - outs[0]).abs().max() <= TOLERANCE
        if grad:
            assert apart(made, (q, k, v), out, outs[0]) <= TOLERANCE


def test_what_is_kept_of_the_sinusoids_serves_training_after_inference() -> None:
    made, (q, k, v) = term(6), case(1, 6, 6)
    positions = Positions.whole(6)
    _kept_sinusoids.cache_clear()
    with torch.inference_mode():
        made.prepare(made, positions)(q, k, positions, positions)
    out = attend(q, k, v, positions, positions, mask=Causal(), terms=[made.prepare(made, positions)])
    out.sum().backward()
    assert made.linear.weight.grad is not None
