"""Feed-forward sublayers. Like every sublayer they take (x, positions, state, source) and return (y, staged state)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from formers.axes import Hidden
from formers.errors import ConfigError, suggest
from formers.parts.positions import Positions
from formers.parts.replay import recomputing
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


class Chunked(nn.Module):
    """A feed-forward computed for `chunks` stretches of the sequence, one after another, so that its d_ff activations are never
    whole: in the backward pass each stretch is computed again (Kitaev et al., 2001.04451, section 3).

    The same function as the feed-forward within, and the same gradients; only dropout of neurons falls elsewhere.
    """

    def __init__(self, within: nn.Module, chunks: int) -> None:
        super().__init__()
        if chunks < 1:
            raise ConfigError(f"{chunks} chunks", "at least 1")
        if hasattr(within, "init_state"):
            raise ConfigError(f"{type(within).__name__} in chunks, which remembers", "a sublayer of single positions")
        self.within, self.chunks = within, chunks

    def forward(self, x: Hidden, positions: Positions, state: None = None, source: Any = None) -> tuple[Hidden, None]:
        stretches = x.tensor_split(min(self.chunks, x.shape[1]), dim=1)
        run = self._recomputed if torch.is_grad_enabled() else self._run
        return torch.cat([run(stretch, positions) for stretch in stretches], dim=1), None

    def _run(self, x: Hidden, positions: Positions) -> Hidden:
        return self.within(x, positions)[0]

    def _recomputed(self, x: Hidden, positions: Positions) -> Hidden:
        return checkpoint(self._run, x, positions, **recomputing(x.device))  # type: ignore[return-value]


def in_chunks(feed_forward: nn.Module, chunks: int) -> nn.Module:
    """`feed_forward` in so many chunks; itself where that is one."""
    return feed_forward if chunks == 1 else Chunked(feed_forward, chunks)


def name_in_chunks(name: str, chunks: int) -> str:
    """What a feed-forward that is called `name` is called then, as tables of weights have to know."""
    return name if chunks == 1 else f"{name}.within"
