"""T5 with a window in its encoder: nothing of it grows with the square of the source, eager, compiled or padded."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

import formers
from formers.errors import ConfigError
from formers.laws import certify
from formers.parts.positions import Positions
from formers.parts.sources import Source
from tests.parts.test_blocks import Largest

SIZES: dict[str, Any] = {
    "vocab_size": 97, "d_model": 26, "num_layers": 2, "num_decoder_layers": 1, "num_heads": 3, "d_head": 7, "d_ff": 53,
    "num_buckets": 10, "max_distance": 17, "dropout": 0.0,
}  # fmt: skip
SAME = 1e-9
"""The same sums in another order, float64."""


def made(**changes: Any) -> Any:
    return formers.build("t5", **SIZES | {"local_radius": 13} | changes, seed=3).double()


def ids(batch: int, length: int, seed: int = 0) -> Tensor:
    return torch.randint(97, (batch, length), generator=torch.Generator().manual_seed(seed))


def source(length: int, padding: int) -> Source:
    """Two texts, the second with so much padding behind it."""
    index = torch.arange(length).repeat(2, 1)
    index[1, length - padding :] = -1
    return Source(ids(2, length, 1), Positions(index) if padding else None)


def largest(model: Any, length: int, padding: int, *, learns: bool) -> int:
    """Numbers in the largest tensor of a forward, and of its backward where it learns."""
    read, text = source(length, padding), ids(2, 7)
    with torch.set_grad_enabled(learns), Largest() as seen:
        loss = model(text, source=read).logits.square().sum()
        if learns:
            loss.backward()
    return seen.numbers


@pytest.mark.parametrize("learns", [True, False], ids=["forward and backward", "forward"])
@pytest.mark.parametrize("padding", [0, 211])
def test_no_tensor_grows_faster_than_the_source(padding: int, learns: bool) -> None:
    model = made()
    shorter, longer = (largest(model, length, padding, learns=learns) for length in (2048, 4096))
    assert longer <= 2.2 * shorter
    assert longer < 4096 * 4096


def test_without_the_window_it_would() -> None:
    """What the comparison above rests on can fail."""
    model = made(local_radius=None)
    for block in model.encoder.blocks:
        block["attention"].runner = "dense"
    assert largest(model, 1024, 0, learns=True) >= 2 * 1024 * 1024


def test_in_blocks_it_is_what_it_is_dense() -> None:
    model, text, read = made(), ids(2, 7), source(613, 211)
    found = []
    for runner in ("auto", "dense"):
        for block in model.encoder.blocks:
            block["attention"].runner = runner
        logits = model(text, source=read).logits
        found.append([logits, *torch.autograd.grad(logits.square().sum(), list(model.parameters()))])
    assert max((a - b).abs().max() / b.abs().max().clamp(min=1) for a, b in zip(*found, strict=True)) <= SAME


@pytest.mark.slow
def test_compiled_training_runs_padded_sources_in_blocks() -> None:
    """Compiled code looks at no tensor: that padding stands behind the sources is a promise of their batches."""
    command = [sys.executable, "-m", "tests.models.compiled_sources"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    gap, largest = done.stdout.split()
    assert float(gap) <= SAME
    assert 0 < int(largest) < 1499 * 1499


def test_it_keeps_every_law() -> None:
    report = certify(formers.build("t5", **SIZES | {"local_radius": 3, "vocab_size": 2003}), length=13, fresh=True)
    assert report.ok, report.failed


def test_a_radius_below_one_is_refused() -> None:
    with pytest.raises(ConfigError, match="local_radius is 0"):
        made(local_radius=0)
