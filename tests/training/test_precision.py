"""What is chosen for a run, on the machine that runs the test and on others."""

from __future__ import annotations

import os

import pytest
import torch

from formers.errors import ConfigError
from formers.training import precision
from formers.training.precision import WORTH_COMPILING, autocast, choose, choose_compile, deterministic
from formers.training.settings import TrainSettings


def test_bf16_is_chosen_on_a_cpu_that_has_units_for_it_and_float32_on_any_other(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False, raising=False)
    assert choose(TrainSettings(device="cpu"), operations=1).precision == "float32"
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True, raising=False)
    assert choose(TrainSettings(device="cpu"), operations=1).precision == "bf16"


def test_what_is_asked_for_is_chosen_whatever_the_machine():
    chosen = choose(TrainSettings(device="cpu", precision="bf16", compile="off", threads=1), operations=1)
    assert chosen.plain() == {"device": "cpu", "precision": "bf16", "compile": False, "threads": 1}


def test_float64_weights_are_trained_in_float64():
    assert choose(TrainSettings(device="cpu", precision="bf16"), operations=1, float64=True).precision == "float64"


def test_a_short_run_is_not_compiled_and_a_long_one_is(monkeypatch):
    monkeypatch.setattr(precision, "missing_compiler", lambda device: None)
    assert choose_compile("auto", "cpu", WORTH_COMPILING / 2) == (False, None)
    assert choose_compile("auto", "cpu", WORTH_COMPILING * 2) == (True, None)
    assert choose_compile("off", "cpu", WORTH_COMPILING * 2) == (False, None)


def test_without_a_compiler_one_line_says_what_it_would_have_gained(monkeypatch):
    monkeypatch.setattr(precision.shutil, "which", lambda name: None)
    compiled, note = choose_compile("auto", "cpu", 1e18)
    assert not compiled
    assert note is not None
    assert "no C++ compiler" in note
    assert "faster" in note
    with pytest.raises(ConfigError, match="no C\\+\\+ compiler"):
        choose_compile("on", "cpu", 1.0)


def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(ConfigError, match="'tpu' is not there"):
        choose(TrainSettings(device="tpu"), operations=1)


def test_autocast_is_bf16_or_nothing():
    with autocast("cpu", "bf16"):
        assert torch.get_autocast_dtype("cpu") == torch.bfloat16
        assert torch.is_autocast_enabled("cpu")
    with autocast("cpu", "float32"):
        assert not torch.is_autocast_enabled("cpu")


def test_determinism_is_switched_on_and_put_back(monkeypatch):
    monkeypatch.setitem(os.environ, "CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    threads = torch.get_num_threads()
    before = torch.are_deterministic_algorithms_enabled()
    with deterministic(threads=1):
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.get_num_threads() == 1
        assert not torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    assert torch.are_deterministic_algorithms_enabled() == before
    assert torch.get_num_threads() == threads
