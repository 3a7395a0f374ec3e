"""What the machine is, read from where the system says it, and what follows from it for training."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

CPU_FEATURES = ("avx2", "avx512f", "avx512_bf16", "amx_tile", "amx_bf16", "sve", "asimd", "bf16")
"""What decides how fast a matrix product is: the names in /proc/cpuinfo of x86 and Arm."""

OPTIONAL = {
    "transformers": "comparing with, and wrapping, its models",
    "pyarrow": "reading .parquet files",
    "datasets": "reading hf:NAME",
}
ADAMW_BYTES = 16  # a parameter, its gradient and two averages in float32
FREE_DISK_WANTED = 5e9


@dataclass(frozen=True)
class Device:
    """An accelerator, or the processor itself."""

    name: str
    what: str
    memory_bytes: int


@dataclass(frozen=True)
class Machine:
    """Facts, no judgement. Sizes in bytes; `cores` are physical, `usable_cores` those this process may run on."""

    versions: dict[str, str | None]
    system: str
    cpu: str
    cpu_features: tuple[str, ...]
    cores: int
    usable_cores: int
    threads: int
    omp_num_threads: str | None
    memory_bytes: int
    memory_limit_bytes: int | None
    memory_free_bytes: int
    disk_free_bytes: int
    compiler: str | None
    compiler_version: str | None
    python_headers: bool
    devices: tuple[Device, ...]
    fast_bf16: bool
    products_per_second: dict[str, float]
    """Measured on the processor with all its threads: float32 and bf16 operations of a matrix product, a second."""

    def lines(self) -> list[tuple[str, str]]:
        """(label, value) pairs to print."""
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items() if version)
        limit = "" if self.memory_limit_bytes is None else f", this process may use {_gb(self.memory_limit_bytes)}"
        return [
            ("versions", versions),
            ("system", self.system),
            (
                "processor",
                f"{self.cpu}: {self.cores} cores, {self.usable_cores} usable here, {self.threads} torch threads",
            ),
            ("features", " ".join(self.cpu_features) or "none of " + " ".join(CPU_FEATURES)),
            ("memory", f"{_gb(self.memory_bytes)}, {_gb(self.memory_free_bytes)} free{limit}"),
            ("disk here", f"{_gb(self.disk_free_bytes)} free"),
            ("compiler", self.compiler_version or "none found"),
            (
                "products",
                ", ".join(f"{kind} {speed / 1e9:,.0f} G a second" for kind, speed in self.products_per_second.items()),
            ),
            *(("device", f"{d.name}: {d.what}, {_gb(d.memory_bytes)}") for d in self.devices),
        ]


@dataclass(frozen=True)
class Finding:
    """One line of judgement and, unless all is well, what to do."""

    level: Literal["good", "slow", "missing", "bad"]
    what: str
    advice: str = ""


def examine() -> Machine:
    """Look at the machine. Imports torch; starts the compiler once to ask its version."""
    import psutil
    import torch

    from formers.processors import has_fast_bf16

    memory, compiler = psutil.virtual_memory(), _compiler()
    names = ("formers", "torch", "numpy", "tokenizers", *OPTIONAL)
    return Machine(
        versions={"python": platform.python_version()} | {name: _version(name) for name in names},
        system=platform.platform(),
        cpu=cpu_name(),
        cpu_features=_cpu_features(),
        cores=psutil.cpu_count(logical=False) or os.cpu_count() or 1,
        usable_cores=_usable_cores(),
        threads=torch.get_num_threads(),
        omp_num_threads=os.environ.get("OMP_NUM_THREADS"),
        memory_bytes=memory.total,
        memory_limit_bytes=_memory_limit(memory.total),
        memory_free_bytes=memory.available,
        disk_free_bytes=shutil.disk_usage(Path.cwd()).free,
        compiler=compiler,
        compiler_version=_first_line([compiler, "--version"]) if compiler else None,
        python_headers=(Path(sysconfig.get_paths()["include"]) / "Python.h").exists(),
        devices=tuple(_devices(memory.total)),
        fast_bf16=has_fast_bf16("cpu"),
        products_per_second={"float32": _speed(torch.float32), "bf16": _speed(torch.bfloat16)},
    )


def findings(machine: Machine) -> list[Finding]:
    """What follows from the facts, the device first."""
    return [
        _device(machine),
        _precision(machine),
        _compiling(machine),
        _threads(machine),
        _memory(machine),
        _disk(machine),
        *_packages(machine),
    ]


def _device(machine: Machine) -> Finding:
    accelerators = [device for device in machine.devices if device.name != "cpu"]
    if accelerators:
        return Finding("good", f"trains on {accelerators[0].name} ({accelerators[0].what})")
    return Finding(
        "slow",
        "no accelerator: trains on the processor, which suits models up to about 20 million parameters",
        "stay with the nano, tiny and mini recipes, or use a machine with a CUDA or Apple GPU",
    )


def _precision(machine: Machine) -> Finding:
    features = set(machine.cpu_features)
    if any(device.name.startswith("cuda") for device in machine.devices):
        return Finding("good", "bf16 matrix products where the GPU has them")
    speed = machine.products_per_second
    times = f"{speed['bf16'] / speed['float32']:.1f} x float32 just now"
    if machine.fast_bf16:
        unit = "AMX" if "amx_bf16" in features else "AVX512-bf16" if "avx512_bf16" in features else "its own units"
        return Finding(
            "good", f"bf16 matrix products have units of their own ({unit}; {times}): precision auto takes bf16"
        )
    return Finding(
        "slow",
        f"the processor has no bf16 units ({times}): precision auto stays with float32",
        "nothing to do: bf16 would be emulated",
    )


def _compiling(machine: Machine) -> Finding:
    if machine.compiler is None:
        return Finding(
            "slow",
            "no C++ compiler: torch.compile cannot be used, steps take about a third longer",
            "install g++ or clang++",
        )
    if not machine.python_headers:
        return Finding(
            "slow",
            "a compiler is here, but Python.h is not: torch.compile would fail",
            "install Python's headers (python3-dev), or train with --train.compile off",
        )
    return Finding(
        "good", f"torch.compile can be used ({Path(machine.compiler).name}); long runs take it by themselves"
    )


def _threads(machine: Machine) -> Finding:
    best = min(machine.cores, machine.usable_cores)
    if machine.threads < best:
        why = f"OMP_NUM_THREADS={machine.omp_num_threads}" if machine.omp_num_threads else "torch chose so"
        return Finding(
            "slow",
            f"{machine.threads} of {best} usable cores are used ({why})",
            f"set OMP_NUM_THREADS={best}, or --train.threads {best}",
        )
    if machine.threads > machine.usable_cores:
        return Finding(
            "slow",
            f"{machine.threads} threads on {machine.usable_cores} usable cores get in each other's way",
            f"set OMP_NUM_THREADS={machine.usable_cores}",
        )
    return Finding("good", f"all {best} usable cores are used")


def _memory(machine: Machine) -> Finding:
    limits = (machine.memory_free_bytes, machine.memory_limit_bytes or machine.memory_free_bytes)
    free = min(limits)
    largest = free * 0.5 / ADAMW_BYTES / 1e6  # half is left to activations
    line = (
        f"{_gb(free)} of memory are free: room to train about {largest:,.0f} million parameters with AdamW in float32"
    )
    if free < 2e9:
        return Finding("bad", line, "close other programs, or train nano recipes")
    return Finding("good", line)


def _disk(machine: Machine) -> Finding:
    line = f"{_gb(machine.disk_free_bytes)} of disk are free in this folder"
    if machine.disk_free_bytes < FREE_DISK_WANTED:
        return Finding(
            "bad", line, "a run keeps two checkpoints of 12 bytes a parameter: make room, or use --out elsewhere"
        )
    return Finding("good", line)


def _packages(machine: Machine) -> Iterator[Finding]:
    for name, use in OPTIONAL.items():
        if machine.versions.get(name) is None:
            yield Finding("missing", f"{name} is not installed: no {use}", f"pip install {name}, if you want that")


# --- where the system says it ---------------------------------------------------------------------------------------


def cpu_name() -> str:
    """The processor's name as the system gives it."""
    for line in _cpuinfo():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    if sys.platform == "darwin":
        return _first_line(["sysctl", "-n", "machdep.cpu.brand_string"]) or platform.machine()
    return platform.processor() or platform.machine()


def _cpu_features() -> tuple[str, ...]:
    words = {word for line in _cpuinfo() if line.lower().startswith(("flags", "features")) for word in line.split()}
    return tuple(feature for feature in CPU_FEATURES if feature in words)


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text(errors="replace").splitlines() if path.exists() else []


def _usable_cores() -> int:
    """Those that this process may run on, and whose time its container grants."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = Path("/sys/fs/cgroup/cpu.max")
    if quota.exists():
        granted, period = quota.read_text().split()[:2]
        if granted.isdigit():
            return max(1, min(allowed, round(int(granted) / int(period))))
    return allowed


def _speed(dtype: torch.dtype, size: int = 1024, times: int = 3) -> float:
    """Operations a second of the fastest of some matrix products; the first one only warms up. Takes under a second."""
    import time

    import torch

    a, b = torch.ones(size, size, dtype=dtype), torch.ones(size, size, dtype=dtype)
    took = []
    for _ in range(times + 1):
        began = time.perf_counter()
        torch.mm(a, b)
        took.append(time.perf_counter() - began)
    return 2.0 * size**3 / min(took[1:])


def _memory_limit(total: int) -> int | None:
    """What a container allows, where that is less than the machine has."""
    for name in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        path = Path(name)
        if path.exists() and (text := path.read_text().strip()).isdigit():
            return int(text) if int(text) < total else None
    return None


def _compiler() -> str | None:
    found = (shutil.which(name) for name in (os.environ.get("CXX", ""), "g++", "clang++", "c++") if name)
    return next((path for path in found if path), None)


def _first_line(command: list[str]) -> str | None:
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = result.stdout.strip().splitlines()
    return lines[0] if result.returncode == 0 and lines else None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _devices(memory: int) -> Iterator[Device]:
    import torch

    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        yield Device(f"cuda:{index}", properties.name, properties.total_memory)
    if torch.backends.mps.is_available():
        yield Device("mps", "Apple GPU", memory)
    yield Device("cpu", platform.machine(), memory)


def _gb(count: float) -> str:
    return f"{count / 1e9:,.1f} GB"
