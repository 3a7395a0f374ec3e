"""Learned functions of the distance, added to scores: a Fourier series, a small network, an orthogonal basis.

meliad, the code of Memorizing Transformers, defines them beside the buckets of T5 (parts/terms.py). Each gives every head a
number for each distance 0 .. reach from a key to a query behind it; the mask must hide keys that are further away or ahead,
which count as the nearest that is told apart. Features of distances are worked out in float64.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from formers.errors import ConfigError
from formers.parts.attend import ByDistance, Term
from formers.parts.positions import Positions
from formers.parts.terms import chosen, distances


class DistanceBias(nn.Module):
    """A term made of a curve for each head, worked out once a forward."""

    def __init__(self, reach: int) -> None:
        super().__init__()
        if reach < 0:
            raise ConfigError(f"{type(self).__name__}(reach={reach})", "0 or more")
        self.reach = reach

    def curve(self, distance: Float[Tensor, " places"]) -> Float[Tensor, "places heads"]:
        """What each head adds at these distances, which come in float64."""
        raise NotImplementedError

    def prepare(self, project: nn.Module, positions: Positions) -> Term:
        near_to_far = torch.arange(self.reach + 1, device=positions.index.device, dtype=torch.float64)
        by_distance = self.curve(near_to_far)

        def place(distance: Tensor) -> Tensor:
            return (-distance).clamp(0, self.reach)

        def add(q: Tensor, k: Tensor, q_positions: Positions, k_positions: Positions) -> Tensor:
            return chosen(by_distance, place(distances(q_positions, k_positions)))

        return ByDistance(add, lambda distance: by_distance[place(distance)].T)


class FourierBias(DistanceBias):
    """sum_t a_t cos(pi m / l_t) + b_t sin(pi m / l_t) at distance m, half-waves l_t growing from 1 to twice the reach.

    meliad's RelativeFourierPositions rotates and stretches pairs of the query's sinusoid and multiplies with the key's, which
    is this sum. As there, all a begin at 1 / waves and all b at 0, so that the nearest begins at 1 and what is far about 0.
    """

    def __init__(self, num_heads: int, reach: int, *, waves: int = 64) -> None:
        super().__init__(reach)
        self.waves = waves
        self.cosines = nn.Parameter(torch.full((waves, num_heads), 1.0 / waves))
        self.sines = nn.Parameter(torch.zeros(waves, num_heads))

    def curve(self, distance: Float[Tensor, " places"]) -> Float[Tensor, "places heads"]:
        part = torch.arange(self.waves, device=distance.device, dtype=distance.dtype) / self.waves
        angle = math.pi * distance[:, None] / (2.0 * max(1, self.reach)) ** part
        return _combined(angle.cos(), self.cosines) + _combined(angle.sin(), self.sines)


class NetworkBias(DistanceBias):
    """sum_i c_i asinh(w_i m + b_i) at distance m: one hidden layer, which all heads share.

    meliad's NNRelativePositionBiases draws b from N(0, 100) and bounds c. Here each unit bends at a distance of its own at
    first, from 0 to the reach, closer together where near, and c (`linear`) is drawn with the other maps.
    """

    def __init__(self, num_heads: int, reach: int, *, hidden: int = 128) -> None:
        super().__init__(reach)
        self.weight = nn.Parameter(torch.ones(hidden))
        self.bias = nn.Parameter(-torch.tensor(bends(hidden, reach), dtype=torch.get_default_dtype()))
        self.linear = nn.Linear(hidden, num_heads, bias=False)

    def curve(self, distance: Float[Tensor, " places"]) -> Float[Tensor, "places heads"]:
        hidden = torch.asinh(distance.to(self.weight.dtype)[:, None] * self.weight + self.bias)
        return _combined(hidden, self.linear.weight.T)


class OrthogonalBias(DistanceBias):
    """A combination of a few functions of the distance that are orthogonal over 0 .. reach, each of mean square 1: what
    asinh(m - s_i) become, made orthogonal one after the other, with s_i from 0 to the reach, closer together where near.

    meliad's OrthogonalBasisPositionBias, which found 7 or 8 functions the best; there each keeps the size of what it has that
    those before it have not. Coefficients begin at 0.

    scale  what they are multiplied by, as in `T5Bias`
    """

    def __init__(self, num_heads: int, reach: int, *, size: int = 8, scale: float = 1.0) -> None:
        super().__init__(reach)
        size = min(size, reach + 1)
        self.bends, self.scale = bends(size, reach), scale
        plain = self._plain(torch.arange(reach + 1, dtype=torch.float64, device="cpu"))
        _, upper = torch.linalg.qr(plain)
        self.made_of = tuple(map(tuple, (torch.linalg.inv(upper) * (reach + 1) ** 0.5).tolist()))
        self.coefficients = nn.Parameter(torch.zeros(size, num_heads))

    def curve(self, distance: Float[Tensor, " places"]) -> Float[Tensor, "places heads"]:
        return _combined(self.basis(distance), self.coefficients * self.scale)

    def basis(self, distance: Float[Tensor, " places"]) -> Float[Tensor, "places functions"]:
        return self._plain(distance) @ torch.tensor(self.made_of, device=distance.device, dtype=distance.dtype)

    def _plain(self, distance: Tensor) -> Tensor:
        bent = torch.asinh(distance[:, None] - torch.tensor(self.bends, device=distance.device, dtype=distance.dtype))
        return bent if len(self.bends) > 1 else torch.ones_like(bent)


def bends(count: int, reach: int) -> tuple[float, ...]:
    """`count` distances from 0 to `reach`, one more than each growing in equal ratios."""
    return tuple((reach + 1.0) ** (i / max(1, count - 1)) - 1.0 for i in range(count))


def _combined(features: Float[Tensor, "places n"], weight: Float[Tensor, "n heads"]) -> Float[Tensor, "places heads"]:
    """features @ weight, as a sum, which autocast leaves in the type of the weights."""
    return (features.to(weight.dtype)[:, :, None] * weight).sum(1)
