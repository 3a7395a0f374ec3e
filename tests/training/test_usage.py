"""What a process takes, and the most it took."""

from __future__ import annotations

import sys

import pytest
import torch

from formers.training.usage import peak_bytes, resident_bytes, watch_peak

SIZE = 200 << 20


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the peak counts from the beginning of the process")
def test_the_peak_counts_from_when_it_is_watched() -> None:
    watch_peak("cpu")
    before = resident_bytes()
    held = torch.ones(SIZE // 4)
    assert resident_bytes() >= before + 0.9 * SIZE
    del held
    most = peak_bytes("cpu")
    assert most is not None
    assert 0.9 * SIZE <= most - before <= 1.5 * SIZE
    watch_peak("cpu")
    again = peak_bytes("cpu")
    assert again is not None
    assert again <= most - 0.5 * SIZE


def test_a_device_that_does_not_say_is_not_guessed_at() -> None:
    assert peak_bytes("mps") is None
