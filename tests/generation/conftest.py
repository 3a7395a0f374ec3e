"""Small models with weights large enough that they say something, in float64 so that equal means equal."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from formers.models.registry import build

NAMES = ("gpt2", "llama")


def small(name: str) -> nn.Module:
    sizes = {"num_layers": 2, "d_model": 32, "num_heads": 4, "vocab_size": 61, "max_length": 97}
    return build(name, **sizes, init_std=0.4, seed=1).double()


@pytest.fixture(params=NAMES)
def model(request: pytest.FixtureRequest) -> nn.Module:
    return small(request.param)


@pytest.fixture
def gpt2() -> nn.Module:
    return small("gpt2")


class Plain(nn.Module):
    """What a user may bring: forward(input_ids) -> .logits, and nothing else."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, input_ids: torch.Tensor) -> object:
        return self.inner(input_ids)


@pytest.fixture
def plain(gpt2: nn.Module) -> nn.Module:
    return Plain(gpt2)
