"""A training step of a reversible model, compiled and as it comes; prints the largest relative difference of the loss and
of any gradient. Takes `inductor`, as training compiles, or `aot_eager`, which takes a tenth of the time.

A process of its own: the tests' checks of shapes cannot be compiled.
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


def step(model: Any, ids: Tensor, backend: str | None) -> list[Tensor]:
    """Loss and gradients of the second of two steps."""
    model = copy.deepcopy(model)
    objective, found = Objective(model), []
    if backend == "inductor":
        compile_module(objective)
    elif backend is not None:
        objective.compile(backend=backend, dynamic=False)
    for seed in (0, 1):
        torch.manual_seed(seed)
        model.zero_grad()
        loss, count, _ = objective(ids, ids.roll(-1, 1))
        (loss / count).backward()
        found = [loss.detach() / count, *(parameter.grad for parameter in model.parameters())]
    return found


def main(backend: str) -> None:
    dropped = {"dropout": 0.1, "attention_dropout": 0.0, "embedding_dropout": 0.0}
    model = formers.build("gpt2", "nano", trunk="reversible", ff_chunks=2, **dropped).train()
    ids = torch.randint(0, 512, (4, 32), generator=torch.Generator().manual_seed(1))
    both = (step(model, ids, name) for name in (backend, None))
    gaps = [(found - wanted).abs().max() / wanted.abs().max() for found, wanted in zip(*both, strict=True)]
    print(float(torch.stack(gaps).max()))  # not-a-number stays that


if __name__ == "__main__":
    main(sys.argv[1])
