"""Defects as people make them, each a function that seeds one into a model, and what diff found of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from formers.hub import DiffReport
from formers.models.gpt2 import GPT2
from formers.parts.attention import Mix, Project
from formers.parts.feed_forward import ACTIVATIONS
from formers.parts.masks import Mask, SameDocument

# --- the defects ----------------------------------------------------------------------------------------------------------


def exact_gelu(model: Any) -> None:
    for block in model.trunk.blocks:
        block["feed_forward"].activation = ACTIVATIONS["gelu"]


def wrong_epsilon(model: Any) -> None:
    for module in model.modules():
        if hasattr(module, "eps"):
            module.eps = 1e-12


def missing_scale(model: Any) -> None:
    for block in model.trunk.blocks:
        block["attention"].score.scale = 1.0


def masked(mask: Mask) -> Callable[[Any], None]:
    def defect(model: Any) -> None:
        for block in model.trunk.blocks:
            block["attention"].score.mask = mask & SameDocument()

    return defect


class TransposedMix(Mix):
    def forward(self, heads: Tensor) -> Tensor:
        return F.linear(heads.transpose(1, 2).flatten(2), self.linear.weight.T, self.linear.bias)


class MixWithoutBias(Mix):
    def forward(self, heads: Tensor) -> Tensor:
        return F.linear(heads.transpose(1, 2).flatten(2), self.linear.weight)


class KeyForQuery(Project):
    def forward(self, x: Tensor) -> Any:
        q, k, v = super().forward(x)
        return k, q, v


class LatePositions(GPT2):
    def run(self, input_ids: Any, positions: Any, state: Any) -> Any:
        place = positions.index + 1
        return super().run(input_ids, dataclasses.replace(positions, place=place, start=None), state)


def transposed_projection(model: Any) -> None:
    model.trunk.blocks[1]["attention"].mix.__class__ = TransposedMix


def dropped_bias(model: Any) -> None:
    model.trunk.blocks[1]["attention"].mix.__class__ = MixWithoutBias


def key_for_query(model: Any) -> None:
    model.trunk.blocks[1]["attention"].project.__class__ = KeyForQuery


def positions_off_by_one(model: Any) -> None:
    model.__class__ = LatePositions


def exchange_norms(model: Any) -> None:
    norms = model.trunk.norms[1]
    norms["attention"], norms["feed_forward"] = norms["feed_forward"], norms["attention"]


def why(report: DiffReport) -> list[str]:
    return [cause.kind for cause in report.causes]
