"""What turns queries and keys by their position before they meet: rotary embeddings."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from formers.axes import Keys, Queries
from formers.errors import ConfigError
from formers.parts.positions import Positions


@dataclass(frozen=True)
class LinearScaling:
    """Positions divided by `factor`, so that longer texts fit the angles that were trained (2306.15595)."""

    factor: float

    def __call__(self, frequencies: Tensor) -> Tensor:
        return frequencies / self.factor


@dataclass(frozen=True)
class Llama3Scaling:
    """Slow frequencies divided by `factor`, fast ones kept, those between blended (Llama 3.1, 2407.21783).

    A frequency is fast when it turns more than `high_freq_factor` times in `original_max_length` tokens, slow when fewer
    than `low_freq_factor` times.
    """

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_length: int

    def __call__(self, frequencies: Tensor) -> Tensor:
        turns = self.original_max_length * frequencies / (2 * math.pi)
        kept = (turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)
        kept = kept.clamp(0.0, 1.0)
        return kept * frequencies + (1 - kept) * frequencies / self.factor


class Rotary(nn.Module):
    """Rotate pairs of channels by position x base^(-2t/d) (Su et al., 2104.09864). No parameters.

    Pairs are (t, t + d/2), the half-split convention of GPT-NeoX, Llama and Hugging Face. `d_rotary` channels are turned
    (all by default), the rest pass. Angles are computed in at least float32. `scaling` maps the frequencies.
    """

    def __init__(
        self,
        d_head: int,
        *,
        base: float = 10_000.0,
        d_rotary: int | None = None,
        scaling: LinearScaling | Llama3Scaling | None = None,
    ) -> None:
        super().__init__()
        self.d_rotary = d_head if d_rotary is None else d_rotary
        if self.d_rotary % 2 or not 0 < self.d_rotary <= d_head:
            raise ConfigError(f"Rotary(d_rotary={self.d_rotary})", f"an even number from 2 to d_head = {d_head}")
        self.base, self.scaling = base, scaling

    def forward(self, q: Queries, k: Keys, positions: Positions) -> tuple[Queries, Keys]:
        cos, sin = self.angles(positions, torch.promote_types(q.dtype, torch.float32))
        return self._rotate(q, cos, sin), self._rotate(k, cos, sin)

    def frequencies(self, device: torch.device, dtype: torch.dtype) -> Tensor:
        """Radians a position, [d_rotary / 2], fastest first."""
        exponents = torch.arange(0, self.d_rotary, 2, device=device, dtype=dtype) / self.d_rotary
        frequencies = 1.0 / self.base**exponents
        return frequencies if self.scaling is None else self.scaling(frequencies)

    def angles(self, positions: Positions, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """cos and sin, each [1 or batch, 1, seq, d_rotary / 2]."""
        index = positions.table_index
        angle = index[:, None, :, None].to(dtype) * self.frequencies(index.device, dtype)
        return angle.cos(), angle.sin()

    def _rotate(self, t: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        turned, rest = t[..., : self.d_rotary], t[..., self.d_rotary :]
        a, b = turned.to(cos.dtype).chunk(2, -1)
        turned = torch.cat([a * cos - b * sin, b * cos + a * sin], -1).to(t.dtype)
        return torch.cat([turned, rest], -1) if rest.shape[-1] else turned
