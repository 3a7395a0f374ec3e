"""Seeded defects that models of several families can have, each a mistake that people make, in the second block."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from formers.parts.embeddings import LearnedPositions
from formers.parts.positions import Positions


class OffByOne(LearnedPositions):
    def forward(self, positions: Positions) -> Tensor:
        return self.table(positions.table_index + 1) * positions.present[..., None]


def swap_norms(model: Any) -> None:
    norms = model.trunk.norms[1]
    norms["attention"], norms["feed_forward"] = norms["feed_forward"], norms["attention"]


def drop_a_bias(model: Any) -> None:
    torch.nn.init.zeros_(model.trunk.blocks[1]["attention"].mix.linear.bias)


@torch.no_grad()
def swap_q_and_k(model: Any) -> None:
    linear = model.trunk.blocks[1]["attention"].project.linear
    for tensor in (t for t in (linear.weight, linear.bias) if t is not None):
        q, k, v = tensor.chunk(3)
        tensor.copy_(torch.cat([k, q, v]))


def forget_the_scale(model: Any) -> None:
    model.trunk.blocks[1]["attention"].score.scale = 1.0


@torch.no_grad()
def transpose_a_square_map(model: Any) -> None:
    weight = model.trunk.blocks[1]["attention"].mix.linear.weight
    weight.copy_(weight.T.clone())
