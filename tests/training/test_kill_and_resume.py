"""A training killed with SIGKILL at any moment and resumed ends with the weights of one that was never interrupted.

Each training runs in a process of its own and is killed either at a random moment, or within the few milliseconds in
which a checkpoint is written (which a random moment seldom hits).
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STEPS = 40


def start(out: Path, mode: str, steps: int = STEPS) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.training.killed_run", str(out), str(steps), mode]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def lines_of(process: subprocess.Popen[str]) -> list[str]:
    out, err = process.communicate(timeout=300)
    assert process.returncode in (0, -signal.SIGKILL), err
    return out.splitlines()


def weights(lines: list[str]) -> str:
    assert lines, "the training said nothing"
    assert lines[-1].startswith("weights "), lines[-1]
    return lines[-1]


def killed(out: Path, mode: str, rng: random.Random) -> list[str]:
    """Start (or resume) and kill: a moment after some step, or while some checkpoint is written."""
    process, told = start(out, mode), []
    assert process.stdout is not None
    step = rng.randrange(1, STEPS)
    if rng.random() < 0.5:
        for line in process.stdout:
            told.append(line.strip())
            if line.startswith("step") and int(line.split()[1]) >= step:
                break
        time.sleep(rng.uniform(0.0, 0.1))
    else:
        beginning = f".step-{max(10, step // 5 * 5)}.tmp-"
        while process.poll() is None and not any(
            path.name.startswith(beginning) for path in out.glob("checkpoints/.*")
        ):
            pass
        time.sleep(rng.uniform(0.0, 0.01))
    process.kill()
    return told + lines_of(process)


def finished(out: Path, mode: str) -> list[str]:
    return lines_of(start(out, mode))


def resumed_from(lines: list[str]) -> int | None:
    """The step of the checkpoint that a process went on from; None where it began anew or died before it could say."""
    said = [line for line in lines if line.startswith("event Resumed from step ")]
    return int(said[0].rpartition(" ")[2].rstrip(".")) if said else None


def check_metrics(out: Path, steps: int = STEPS) -> None:
    """No step twice, none missing, in order; and the same for evaluations and samples."""
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    of = {kind: [row["step"] for row in rows if row["kind"] == kind] for kind in ("train", "eval", "sample")}
    assert of["train"] == list(range(1, steps + 1))
    assert of["eval"] == [*range(7, steps, 7), steps]
    assert of["sample"] == [*range(6, steps, 6), steps]
    assert [path.name for path in sorted((out / "checkpoints").iterdir())] == [f"step-{steps - 5}", f"step-{steps}"]


def kill_and_resume(tmp_path: Path, mode: str, kills: int, seed: int, expected: str) -> list[int | None]:
    """One training killed `kills` times. Returns the steps it was resumed from."""
    rng, out, froms = random.Random(seed), tmp_path / f"run-{mode}-{seed}", []
    for _ in range(kills):
        froms.append(resumed_from(killed(out, mode, rng)))
    lines = finished(out, mode)
    froms.append(resumed_from(lines))
    assert weights(lines) == expected
    check_metrics(out)
    return froms[1:]


@pytest.mark.parametrize("mode", ["eager", "masked"])
def test_killed_twice_it_ends_with_the_same_bits(tmp_path, mode):
    expected = weights(finished(tmp_path / "whole", mode))
    froms = kill_and_resume(tmp_path, mode, kills=2, seed=3, expected=expected)
    assert any(froms), f"no resume came from a step after 0: {froms}"


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["eager", "compile", "masked"])
def test_ten_trainings_killed_at_random_moments_end_with_the_same_bits(tmp_path, mode, capsys):
    expected = weights(finished(tmp_path / "whole", mode))
    froms: list[int | None] = []
    for seed in range(10):
        froms += kill_and_resume(tmp_path, mode, kills=1, seed=seed, expected=expected)
    with capsys.disabled():
        print(f"\n{mode}: ten trainings of {STEPS} steps were resumed from steps {froms}, all with identical weights")
    assert sum(1 for step in froms if step) >= 8, froms
