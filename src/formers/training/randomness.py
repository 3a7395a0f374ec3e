"""Random numbers of a training: a function of (seed, step, lane), and all generators' states as tensors.

Before each micro-batch torch's generator is set by (seed, step, lane), so dropout does not depend on what ran before:
an evaluation, a sample, or a training that was killed. The generators' states are in the checkpoint all the same, for
models that draw from Python's or numpy's.
"""

from __future__ import annotations

import hashlib
import random

import numpy as np
import torch
from torch import Tensor


def seed_torch(seed: int, step: int, lane: int) -> None:
    """Set torch's generators (CPU and accelerators) for one micro-batch."""
    mixed = hashlib.sha256(f"formers dropout {seed} {step} {lane}".encode()).digest()
    torch.manual_seed(int.from_bytes(mixed[:8], "little") >> 1)


def random_tensors() -> dict[str, Tensor]:
    """States of Python's, numpy's and torch's generators."""
    _, words, gauss = random.getstate()
    _, keys, position, has_gauss, cached = np.random.get_state(legacy=True)  # type: ignore[misc]
    tensors = {
        "random.python": torch.tensor(words, dtype=torch.int64),
        "random.python_gauss": torch.tensor([] if gauss is None else [gauss], dtype=torch.float64),
        "random.numpy": torch.tensor(np.asarray(keys, dtype=np.int64)),
        "random.numpy_rest": torch.tensor([position, has_gauss, cached], dtype=torch.float64),
        "random.torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        tensors["random.cuda"] = torch.cuda.get_rng_state()
    return tensors


def restore_random(tensors: dict[str, Tensor]) -> None:
    """Put back what `random_tensors` gave."""
    gauss = tensors["random.python_gauss"].tolist()
    random.setstate((3, tuple(tensors["random.python"].tolist()), gauss[0] if gauss else None))
    position, has_gauss, cached = tensors["random.numpy_rest"].tolist()
    keys = tensors["random.numpy"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", keys, int(position), int(has_gauss), cached))
    torch.set_rng_state(tensors["random.torch"])
    if "random.cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["random.cuda"])
