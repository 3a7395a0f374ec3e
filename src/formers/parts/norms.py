"""Normalisations over the last axis. All compute in at least float32 and return the type they were given."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

Wide = Float[Tensor, "*axes d_model"]


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


class LayerNorm(nn.Module):
    """(x - mean) / sqrt(variance + eps) * weight + bias, with the biased variance (Ba et al., 1607.06450)."""

    def __init__(self, d_model: int, eps: float, *, bias: bool = True) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(d_model))
        self.bias = nn.Parameter(torch.zeros(d_model)) if bias else None

    def forward(self, x: Wide) -> Wide:
        # the kernel accumulates in float32 for narrower inputs; weights of another type than x widen both
        if x.dtype == self.weight.dtype:
            return F.layer_norm(x, x.shape[-1:], self.weight, self.bias, self.eps)
        bias = None if self.bias is None else _wide(self.bias)
        return F.layer_norm(_wide(x), x.shape[-1:], _wide(self.weight), bias, self.eps).to(x.dtype)


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight: no mean, no bias (Zhang and Sennrich, 1910.07467)."""

    def __init__(self, d_model: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(d_model))

    def forward(self, x: Wide) -> Wide:
        wide = _wide(x)
        normed = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return (self.weight * normed).to(x.dtype)


class CosineNorm(nn.Module):
    """sqrt(d_model) * x / max(|x|, eps): the direction alone, no parameters."""

    def __init__(self, d_model: int, eps: float) -> None:
        super().__init__()
        self.eps, self.scale = eps, d_model**0.5

    def forward(self, x: Wide) -> Wide:
        wide = _wide(x)
        return (self.scale * wide / wide.norm(dim=-1, keepdim=True).clamp(min=self.eps)).to(x.dtype)
