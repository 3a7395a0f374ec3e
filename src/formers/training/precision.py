"""How numbers are computed: precision, compiling, threads and device, chosen by what the machine does fast."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch._functorch.config as partitioner
from torch import nn

from formers.errors import ConfigError
from formers.processors import has_fast_bf16
from formers.training.settings import TrainSettings

DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16}

WORTH_COMPILING = 1e14
"""Floating-point operations of a run that is worth compiling for. Compiling takes 30 to 60 seconds on two cores and saves
about a third of a step; two cores do some 5e11 operations a second, so it pays after three minutes, with some in hand."""

ACTIVATIONS_KEPT = 0.8
"""Share of the activations that compiled code may keep for its backward pass: all but norms and activation functions."""


@dataclass(frozen=True)
class Numerics:
    """What was chosen, and a line for each choice that the machine forced. A resumed run computes with the same."""

    device: str
    precision: str
    compile: bool
    threads: int
    notes: tuple[str, ...] = ()

    def plain(self) -> dict[str, Any]:
        """As a checkpoint and environment.json store it."""
        return {name: getattr(self, name) for name in ("device", "precision", "compile", "threads")}


def choose(settings: TrainSettings, *, operations: float, float64: bool = False) -> Numerics:
    """Choose for a run of about `operations` floating-point operations. float64 weights are trained as they are.

    Raises ConfigError where what was asked for cannot be had.
    """
    device = choose_device(settings.device)
    precision = "float64" if float64 else choose_precision(settings.precision, device)
    compiled, note = choose_compile(settings.compile, device, operations)
    return Numerics(device, precision, compiled, settings.threads or torch.get_num_threads(), (note,) if note else ())


def choose_device(asked: str) -> str:
    """The device's name, with this process's index under torchrun."""
    if asked == "auto":
        asked = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    kind = asked.partition(":")[0]
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not available.get(kind, False):
        there = ", ".join(name for name, is_there in available.items() if is_there)
        raise ConfigError(f"device {asked!r} is not there", f"one of {there}", "leave it out, or name another")
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if asked == "cuda" else asked


def choose_precision(asked: str, device: str) -> str:
    """``bf16`` where it was asked for or, for ``auto``, where the machine has units for it; else ``float32``."""
    if asked != "auto":
        return asked
    return "bf16" if has_fast_bf16(device) else "float32"


def choose_compile(asked: str, device: str, operations: float) -> tuple[bool, str | None]:
    """Whether to compile, and a line for whoever asked where the answer is not the one they may expect."""
    missing = missing_compiler(device)
    if asked == "on" and missing:
        raise ConfigError(f"compile is on, but {missing}", "a compiler", "install one, or set compile to off")
    if asked != "auto":
        return asked == "on", None
    if missing:
        return False, f"Not compiled: {missing}. Compiling would have made a step about a quarter faster."
    return operations >= WORTH_COMPILING, None


def missing_compiler(device: str) -> str | None:
    """What is missing to compile for this device; None where all is there."""
    if device.startswith("cuda"):
        return None if importlib.util.find_spec("triton") else "triton is not installed"
    if device != "cpu":
        return f"torch.compile is not tried on {device}"
    compilers = (os.environ.get("CXX", ""), "g++", "clang++", "c++")
    return (
        None if any(name and shutil.which(name) for name in compilers) else "there is no C++ compiler (g++ or clang++)"
    )


def compile_module(module: nn.Module) -> None:
    """Compile the forward of `module` in place, for the shapes it meets.

    Of the activations that a backward pass reads the cheapest to make again are: at 14 million parameters and 4,096 tokens
    239 MB are kept in place of 369, in the same time.
    """
    partitioner.activation_memory_budget = ACTIVATIONS_KEPT
    module.compile(dynamic=False)


def autocast(device: str, precision: str) -> contextlib.AbstractContextManager[Any]:
    """bf16 for the matrix products; weights, norms, softmax and the optimizer stay as they are."""
    if precision != "bf16":
        return contextlib.nullcontext()
    return torch.autocast(device.partition(":")[0], dtype=torch.bfloat16)


@contextlib.contextmanager
def freed_memory_kept(device: str) -> Iterator[None]:
    """On a CPU, under glibc: what a step frees stays with the process for the next step, and goes back at the end.

    As it comes, malloc returns the activations to the system after every step, and taking them again page by page costs
    about a tenth of the next one (14 million parameters, 4,096 tokens: 30,000 page faults). Elsewhere nothing is done.
    """
    with _malloc(device, trim=2**31 - 1, mmap=2**30):
        yield


@contextlib.contextmanager
def freed_memory_returned(device: str) -> Iterator[None]:
    """On a CPU, under glibc: blocks of 128 kB and more come from the system and go back to it at once. For models that
    were asked to spare memory: what malloc keeps lies in pieces between the gradients, and few of them are used again
    (a reversible GPT-2 of 4 layers, 4,096 tokens: 412 MB of activations kept, 133 MB returned)."""
    with _malloc(device, trim=1 << 17, mmap=1 << 17):
        yield


@contextlib.contextmanager
def _malloc(device: str, *, trim: int, mmap: int) -> Iterator[None]:
    """Both thresholds in bytes; at the end as they are by default."""
    libc = _glibc(device)
    if libc is None:
        yield
        return
    libc.mallopt(M_TRIM_THRESHOLD, trim)
    libc.mallopt(M_MMAP_THRESHOLD, mmap)
    try:
        yield
    finally:
        libc.mallopt(M_TRIM_THRESHOLD, 2 * LARGEST_DYNAMIC)
        libc.mallopt(M_MMAP_THRESHOLD, LARGEST_DYNAMIC)
        libc.malloc_trim(0)


def give_back_freed_memory(device: str) -> None:
    """What compiling left behind, which lies between the activations of a first step: 70 MB of a peak of 745.

    Called once, after the first step.
    """
    libc = _glibc(device)
    if libc is not None:
        gc.collect()
        libc.malloc_trim(0)


def _glibc(device: str) -> Any:
    libc = ctypes.CDLL(None) if sys.platform == "linux" and device == "cpu" else None
    return libc if libc is not None and hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Names of malloc.h."""

LARGEST_DYNAMIC = 32 << 20
"""Bytes: how far malloc by itself raises the size from which it asks the system for a block of its own."""


@contextlib.contextmanager
def deterministic(threads: int) -> Iterator[None]:
    """Every run the same bits: deterministic kernels and a fixed number of threads. All is put back at the end.

    Fresh memory is not filled with NaN, which torch would do to find reads of it and which costs time.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    switches: Any = torch.utils.deterministic
    filled = switches.fill_uninitialized_memory
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    threads_before = torch.get_num_threads()
    try:
        torch.use_deterministic_algorithms(True)
        switches.fill_uninitialized_memory = False
        torch.set_num_threads(threads)
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        switches.fill_uninitialized_memory = filled
        torch.set_num_threads(threads_before)
