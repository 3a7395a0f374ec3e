"""What `formers doctor` concludes from what a machine is."""

from __future__ import annotations

import dataclasses

import pytest

from formers.cli.machine import Device, Machine, examine, findings

FINE = Machine(
    versions={"python": "3.12.1", "torch": "2.13.0", "transformers": "5.0", "pyarrow": "20", "datasets": "4"},
    system="Linux",
    cpu="a processor",
    cpu_features=("avx2", "avx512_bf16", "amx_bf16"),
    cores=8,
    usable_cores=8,
    threads=8,
    omp_num_threads=None,
    memory_bytes=64 * 10**9,
    memory_limit_bytes=None,
    memory_free_bytes=48 * 10**9,
    disk_free_bytes=10**12,
    compiler="/usr/bin/g++",
    compiler_version="g++ 12",
    python_headers=True,
    devices=(Device("cuda:0", "a GPU", 80 * 10**9), Device("cpu", "x86_64", 64 * 10**9)),
    fast_bf16=True,
    products_per_second={"float32": 1e11, "bf16": 8e11},
)


def said(**changes: object) -> dict[str, str]:
    """Level of every finding that is not good, with its words."""
    return {f.what: f.advice for f in findings(dataclasses.replace(FINE, **changes)) if f.level != "good"}


def test_a_machine_with_everything_gets_no_advice():
    assert said() == {}


@pytest.mark.parametrize(
    ("changes", "what", "advice"),
    [
        ({"devices": (Device("cpu", "x86_64", 1),)}, "no accelerator", "nano, tiny and mini"),
        ({"compiler": None}, "no C++ compiler", "install g++"),
        ({"python_headers": False}, "Python.h is not", "python3-dev"),
        (
            {"threads": 1, "omp_num_threads": "1"},
            "1 of 8 usable cores are used (OMP_NUM_THREADS=1)",
            "OMP_NUM_THREADS=8",
        ),
        ({"usable_cores": 2}, "8 threads on 2 usable cores", "OMP_NUM_THREADS=2"),
        ({"memory_free_bytes": 10**9}, "1.0 GB of memory are free", "nano"),
        ({"memory_limit_bytes": 10**9}, "1.0 GB of memory are free", "nano"),
        ({"disk_free_bytes": 10**8}, "0.1 GB of disk are free", "make room"),
        ({"versions": {"pyarrow": None}}, "pyarrow is not installed", "pip install pyarrow"),
    ],
)
def test_each_lack_is_named_with_what_helps(changes: dict, what: str, advice: str):
    found = said(**changes)
    (line,) = [line for line in found if what in line]
    assert advice in found[line]


def test_a_processor_without_bf16_units_says_how_much_slower_it_would_be():
    cpu = {
        "devices": (Device("cpu", "x86_64", 1),),
        "fast_bf16": False,
        "products_per_second": {"float32": 1e11, "bf16": 2e10},
    }
    assert any("0.2 x float32" in line for line in said(**cpu))


def test_this_machine_is_examined_as_it_is():
    machine = examine()
    assert machine.threads == 1, "the tests run with one thread"
    assert machine.cores >= 1
    assert machine.usable_cores >= 1
    assert machine.memory_free_bytes <= machine.memory_bytes
    assert all(speed > 0 for speed in machine.products_per_second.values())
    assert machine.devices[-1].name == "cpu"
