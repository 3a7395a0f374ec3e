"""Feed-forward sublayers. Like every sublayer they take (x, positions, state, source) and return (y, staged state)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from formers.axes import Hidden
from formers.errors import ConfigError, suggest
from formers.parts.positions import Positions
from formers.parts.taps import Tap


def gelu_tanh(x: Tensor) -> Tensor:
    """x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) / 2, GPT-2's own.

    A compiler is given the same function written with a sigmoid, (1 + tanh u) / 2 = sigmoid(2 u): on a CPU its tanh
    costs twice what its exponential does (14 million parameters, 4,096 tokens: 84 ms of a step, and then 40).
    """
    if not torch.compiler.is_compiling():
        return F.gelu(x, approximate="tanh")
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return (wide * torch.sigmoid(wide * (SQRT_8_PI + SQRT_8_PI * 0.044715 * wide * wide))).to(x.dtype)


SQRT_8_PI = math.sqrt(8 / math.pi)


def quick_gelu(x: Tensor) -> Tensor:
    """x * sigmoid(1.702 x): the approximation of Sparse Transformers and CLIP."""
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": gelu_tanh,
    "quick_gelu": quick_gelu,
    "relu": F.relu,
    "silu": F.silu,
}
"""By the field's names. `gelu` is the exact form x Phi(x); GPT-2's own is `gelu_tanh`."""


def activation(name: str) -> Callable[[Tensor], Tensor]:
    if name not in ACTIVATIONS:
        raise ConfigError(f"activation {name!r}", "one of " + ", ".join(ACTIVATIONS), suggest(name, ACTIVATIONS))
    return ACTIVATIONS[name]


class FeedForward(nn.Module):
    """contract(f(expand(x))), position by position. `dropout` is of the neurons f(..)."""

    def __init__(
        self, d_model: int, d_ff: int, *, activation_name: str, bias: bool = True, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.dropout = dropout
        self.expand = nn.Linear(d_model, d_ff, bias=bias)
        self.contract = nn.Linear(d_ff, d_model, bias=bias)
        self.activation = activation(activation_name)
        self.neurons = Tap()

    def forward(self, x: Hidden, positions: Positions, state: None = None, source: Any = None) -> tuple[Hidden, None]:
        neurons = self.neurons(self.activation(self.expand(x)))
        if self.training and self.dropout:
            neurons = F.dropout(neurons, self.dropout)
        return self.contract(neurons), None


class GatedFeedForward(nn.Module):
    """contract(f(gate(x)) * expand(x)) (Shazeer, 2002.05202: GEGLU, SwiGLU). `dropout` is of what contract is given."""

    def __init__(
        self, d_model: int, d_ff: int, *, activation_name: str, bias: bool = False, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.dropout = dropout
        self.gate = nn.Linear(d_model, d_ff, bias=bias)
        self.expand = nn.Linear(d_model, d_ff, bias=bias)
        self.contract = nn.Linear(d_ff, d_model, bias=bias)
        self.activation = activation(activation_name)
        self.neurons = Tap()

    def forward(self, x: Hidden, positions: Positions, state: None = None, source: Any = None) -> tuple[Hidden, None]:
        neurons = self.neurons(self.activation(self.gate(x)) * self.expand(x))
        if self.training and self.dropout:
            neurons = F.dropout(neurons, self.dropout)
        return self.contract(neurons), None
