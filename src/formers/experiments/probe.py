"""What a training step costs here: a few of them are made and thrown away."""

from __future__ import annotations

import ctypes
import dataclasses
import gc
import time
from pathlib import Path
from typing import Any

import torch

from formers import recipes
from formers.data import Shards
from formers.experiments.contest import operations
from formers.experiments.text import training_view
from formers.recipes import Recipe
from formers.training.batches import CarriedStates, number_present, state_length, to_tensors
from formers.training.objective import Objective
from formers.training.optimizer import decay_names, make_optimizer
from formers.training.precision import choose_device, choose_precision

WARM, TIMED = 1, 3
"""Steps: the first is slower."""


def probe(recipe: Recipe[Any], shards: Shards) -> dict[str, Any]:
    """Seconds of a step (not compiled), tokens in it, parameters, operations a training token, and the memory that a step
    takes at most, beyond what the process held before the model was made (None where the system does not say)."""
    device = choose_device(recipe.train.device)
    _set_up(device, shards)
    held = Memory(device)
    model = recipe.build(vocab_size=shards.vocab_size).to(device).train()
    tokens, seconds = _steps(model, recipe, shards, device)
    peak = held.peak()
    model = model.cpu()
    counted = operations(model, recipe.train.seq_len, carried=recipe.train.carry_state)
    return {
        "seconds": seconds,
        "tokens": tokens,
        "parameters": sum(p.numel() for p in model.parameters()),
        "operations": counted,
        "peak_bytes": peak,
    }


_READY: set[str] = set()


def _set_up(device: str, shards: Shards) -> None:
    """What a process sets up at its first steps (threads, kernels, the pages of a text) it holds from then on, and is no
    recipe's: on a CPU some 25 MB were counted for whoever came first, seven times what a small model takes."""
    if device not in _READY:
        _READY.add(device)
        small = recipes.get("gpt2.nano")
        small = dataclasses.replace(small, train=dataclasses.replace(small.train, batch_size=2, seq_len=32))
        _steps(small.build(vocab_size=shards.vocab_size).to(device).train(), small, shards, device)


def _steps(model: Any, recipe: Recipe[Any], shards: Shards, device: str) -> tuple[float, float]:
    """Tokens of a step and its median time."""
    train = recipe.train
    split = "validation" if "train" in shards.left_out else "train"  # a step takes as long with any text
    view = training_view(shards, recipe.data, train, split=split)
    objective = Objective(model, precision=choose_precision(train.precision, device))
    optimizer = make_optimizer(model.named_parameters(), decay_names(model), train)
    rows = train.batch_size // train.accumulate
    states = CarriedStates(model, rows, state_length(model, view, train)) if train.carry_state else CarriedStates()
    took, present = [], []
    for step in range(WARM + TIMED):
        batch, began = view.batch(step), time.perf_counter()
        for lane in range(train.accumulate):
            part = {f: getattr(batch, f)[lane * rows : (lane + 1) * rows] for f in _FIELDS}
            micro = to_tensors(
                dataclasses.replace(batch, **part), device, apart=train.documents_apart, carried=train.carry_state
            )
            loss, _, staged = objective(*micro.arguments(), states.before(lane, micro.fresh))
            (loss / max(1, batch.scored)).backward()
            states.after(lane, staged)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        states.commit()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        took.append(time.perf_counter() - began)
        present.append(number_present(batch))
    return sum(present) / len(present), sorted(took[WARM:])[TIMED // 2]


_FIELDS = ("input_ids", "targets", "index", "document", "fresh")


class Memory:
    """The most memory that is held from now on, beyond what is held now: of a CUDA device, or of this process (Linux)."""

    def __init__(self, device: str) -> None:
        gc.collect()
        self.device = device
        self.known = _forget(device)
        self.before = _now(device, "VmRSS") if self.known else 0

    def peak(self) -> int | None:
        """Bytes."""
        return max(0, _now(self.device, "VmHWM") - self.before) if self.known else None


def _forget(device: str) -> bool:
    """Begin anew with the highest mark. False where there is none."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        return True
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # what was freed before does not hide what is taken now
        Path("/proc/self/clear_refs").write_text("5")
        return device == "cpu"
    except OSError:
        return False


def _now(device: str, field: str) -> int:
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated() if field == "VmHWM" else torch.cuda.memory_allocated()
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))
