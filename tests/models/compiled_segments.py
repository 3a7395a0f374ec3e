"""Two segments of a Transformer-XL, compiled as training compiles it and as it comes; prints the largest relative
difference of the loss and of any gradient. Takes `inputs`, `keys` or `same_layer`, and `float32` or `bf16`.

A process of its own, because the tests' checks of shapes cannot be compiled.
"""

from __future__ import annotations

import copy
import sys
from typing import Any

import torch
from torch import Tensor

import formers
from formers.training.objective import Objective
from formers.training.precision import compile_module


def second_segment(model: Any, ids: Tensor, precision: str, compiled: bool) -> list[Tensor]:
    """Loss and gradients of a segment that goes on from another; one row ends in it, one takes no part."""
    model, index = copy.deepcopy(model), torch.arange(64).expand(32, -1)
    objective = Objective(model, precision=precision)
    if compiled:
        compile_module(objective)
    state, found = model.init_state(32, 1000).dynamic(), []
    for start in (0, 64):
        there = index + start
        if start:
            there[0, 40:] = there[1, :] = -1
        targets = torch.where(there < 0, -100, ids.roll(-1, 1))
        promised = {"aligned": 64} if model.config.recurrence == "same_layer" else {}  # as streams do; no graph breaks
        loss, count, staged = objective(ids, targets, there, torch.zeros_like(there), state, **promised)
        model.zero_grad()
        (loss / count).backward()
        state = staged.commit()
        found = [loss.detach() / count, *(parameter.grad for parameter in model.parameters())]
    return found


def main(remembered: str, precision: str) -> None:
    way: dict[str, Any] = {"recurrence": remembered} if remembered == "same_layer" else {"remember": remembered}
    model = formers.build("transformer_xl", "nano", dropout=0.0, **way).train()
    ids = torch.randint(0, 512, (32, 64), generator=torch.Generator().manual_seed(1))
    both = (second_segment(model, ids, precision, compiled) for compiled in (True, False))
    gaps = [(found - wanted).abs().max() / wanted.abs().max() for found, wanted in zip(*both, strict=True)]
    print(float(torch.stack(gaps).max()))  # not-a-number stays that


if __name__ == "__main__":
    main(*sys.argv[1:])
