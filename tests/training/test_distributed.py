"""Two processes are as good as one: gradients, records, checkpoints."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from formers.training import checkpoints
from tests.training.team_run import gradients

ROOT = Path(__file__).parents[2]
TOLERANCE = 2e-6  # relative norm of a tensor in float32: sums in another order


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def run_team(module: str, *arguments: str, world: int = 2) -> list[str]:
    """Start `world` processes as torchrun does; returns what each printed."""
    shared = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": str(world),
        "GLOO_SOCKET_IFNAME": "lo",
    }
    team = [
        subprocess.Popen(
            [sys.executable, "-W", "error::FutureWarning", "-m", module, *arguments],
            cwd=ROOT,
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]
    said = []
    try:
        for process in team:
            out, err = process.communicate(timeout=240)
            assert process.returncode == 0, err
            said.append(out)
    finally:
        for process in team:
            process.kill()
    return said


@pytest.mark.parametrize(("parallel", "kind"), [("ddp", "DistributedDataParallel"), ("fsdp", "FSDPObjective")])
def test_two_processes_give_the_gradients_of_one_with_carried_states(tmp_path, parallel, kind):
    run_team("tests.training.team_run", parallel, str(tmp_path / "gradients"))
    with safe_open(tmp_path / "gradients", "pt") as file:
        assert file.metadata() == {"kind": kind}
    found = load_file(tmp_path / "gradients")
    losses, expected, alone = gradients(parallel)
    assert alone == "Objective"
    assert torch.allclose(found.pop("losses"), torch.tensor(losses, dtype=torch.float64), rtol=TOLERANCE, atol=0)
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        assert (gradient - expected[name]).norm() / expected[name].norm() < TOLERANCE, name


@pytest.mark.parametrize("parallel", ["ddp", pytest.param("fsdp", marks=pytest.mark.slow)])
def test_a_team_trains_resumes_and_ends_with_the_bits_of_a_team_never_stopped(tmp_path, parallel):
    """One folder trained through; another stopped by SIGTERM to one process, then resumed by both."""
    whole = run_team("tests.training.team_train", parallel, str(tmp_path / "whole"), "0")
    stopped = run_team("tests.training.team_train", parallel, str(tmp_path / "parts"), "3")
    resumed = run_team("tests.training.team_train", parallel, str(tmp_path / "parts"), "0")
    assert "steps 3 interrupted SIGTERM" in stopped[0]
    assert "resumed 3" in resumed[0]
    last = [line for line in whole[0].splitlines() if line.startswith("weights")]
    assert len(last) == 1
    assert last[0] in resumed[0]
    assert last[0] not in stopped[0]
    rows = [json.loads(line) for line in (tmp_path / "parts" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row["kind"] == "train"] == list(range(1, 7))
    names = {path.name for path in (tmp_path / "parts" / "checkpoints" / "step-6").iterdir()}
    assert names >= {"rank-0.safetensors", "rank-1.safetensors"}
    for path in (tmp_path / "whole", tmp_path / "parts"):
        checkpoints.verify(path / "checkpoints" / "step-6")
    one = load_file(tmp_path / "whole" / "checkpoints" / "step-6" / "model.safetensors")
    other = load_file(tmp_path / "parts" / "checkpoints" / "step-6" / "model.safetensors")
    assert all(torch.equal(one[name], other[name]) for name in one)
