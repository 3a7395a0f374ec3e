"""Compiled as training compiles it, with a state carried, it is what it is. The product u.k once was not: NaN in bf16."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-5), ("bf16", 0.1)])
@pytest.mark.parametrize("remember", ["inputs", "keys", "same_layer"])
def test_compiled_the_loss_and_every_gradient_are_the_same(remember: str, precision: str, tolerance: float) -> None:
    command = [sys.executable, "-m", "tests.models.compiled_segments", remember, precision]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) <= tolerance
