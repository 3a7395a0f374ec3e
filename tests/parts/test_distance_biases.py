"""Learned functions of the distance: each is its formula, and the same in every form in which a runner asks for it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from formers.errors import ConfigError
from formers.parts.distance_biases import DistanceBias, FourierBias, NetworkBias, OrthogonalBias
from formers.parts.positions import Positions

EXACT = 1e-9
HEADS, REACH = 3, 29
KINDS = (FourierBias, NetworkBias, OrthogonalBias)


def random(kind: type[DistanceBias]) -> DistanceBias:
    made, generator = kind(HEADS, REACH).double(), torch.Generator().manual_seed(0)  # type: ignore[arg-type]
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, generator=generator)
    return made


def curve(made: DistanceBias, count: int = REACH + 1) -> Tensor:
    return made.curve(torch.arange(count, dtype=torch.float64))


@pytest.mark.parametrize("kind", KINDS)
def test_a_pair_is_given_the_number_of_its_distance(kind: type[DistanceBias]) -> None:
    """Keys ahead count as the nearest, those beyond the reach as the furthest; a line of distances says the same."""
    made, q, k = random(kind), Positions.offset(35, 5), Positions.offset(0, 40)
    term = made.prepare(torch.nn.Identity(), q)
    added = term(torch.zeros(1, HEADS, 5, 2), torch.zeros(1, HEADS, 40, 2), q, k)
    for i in range(5):
        for j in range(40):
            distance = min(max(35 + i - j, 0), REACH)
            assert (added[0, :, i, j] - curve(made)[distance]).abs().max() < EXACT
    relative = torch.arange(-39, 5)
    assert torch.equal(term.line(relative).T, curve(made)[(-relative).clamp(0, REACH)])  # type: ignore[attr-defined]


def test_a_fourier_bias_is_the_product_of_a_keys_sinusoid_with_a_turned_one_of_the_query() -> None:
    """As meliad writes it: pairs (x, y) of the query become (a x - b y, b x + a y)."""
    made = random(FourierBias)
    assert isinstance(made, FourierBias)
    place = torch.arange(REACH + 1, dtype=torch.float64)
    angle = math.pi * place[:, None] / (2.0 * REACH) ** (torch.arange(64, dtype=torch.float64) / 64)
    x, y = angle.cos(), angle.sin()
    for head in range(HEADS):
        a, b = made.cosines[:, head], made.sines[:, head]
        products = (a * x + b * y) @ x.T + (a * y - b * x) @ y.T  # [query, key]
        for query, key in ((0, 0), (29, 0), (17, 4)):
            assert (products[query, key] - curve(made)[query - key, head]).abs() < EXACT


def test_a_network_bias_is_a_hidden_layer_of_asinh() -> None:
    made = random(NetworkBias)
    assert isinstance(made, NetworkBias)
    for m in (0, 1, 29):
        wanted = made.linear(torch.asinh(made.weight * m + made.bias))
        assert (curve(made)[m] - wanted).abs().max() < EXACT


@pytest.mark.parametrize("reach", [0, 1, 3, 29, 1023])
def test_the_functions_of_an_orthogonal_bias_are_orthogonal_of_mean_square_one_and_span_the_bent_ones(
    reach: int,
) -> None:
    made, distance = OrthogonalBias(HEADS, reach).double(), torch.arange(reach + 1, dtype=torch.float64)
    basis = made.basis(distance)
    assert (basis.T @ basis / (reach + 1) - torch.eye(basis.shape[1])).abs().max() < 1e-6
    bent = (
        torch.asinh(distance[:, None] - torch.tensor(made.bends, dtype=torch.float64))
        if reach
        else torch.ones(1, 1).double()
    )
    assert (basis @ torch.linalg.lstsq(basis, bent).solution - bent).abs().max() < 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_autocast_leaves_it_as_precise_as_its_weights(kind: type[DistanceBias]) -> None:
    made = random(kind).float()
    plain = curve(made)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(curve(made), plain)


def test_a_reach_below_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="reach=-1"):
        FourierBias(HEADS, -1)
