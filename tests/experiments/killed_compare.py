"""A comparison killed with SIGKILL at random moments: ``python -m tests.experiments.killed_compare FOLDER KILLS SEED``.

Trainings run in children of this process, which is forked before torch computes anything, so that torch is imported once.
Prints one JSON object: the results of a comparison that was left alone and of one that was killed, how much of it was done at
each kill, and the steps that its metrics hold.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"


def compared(folder: Path, data: Path) -> None:
    """The whole comparison; its result goes to FOLDER/result.json."""
    from formers.experiments import compare, run
    from formers.experiments.entrants import Entry
    from tests.experiments.compared import recipe, settings

    run.SAMPLE_TOKENS = 1
    named = [Entry("one", recipe(lr=1e-2)), Entry("other", recipe(lr=3e-3))]
    asked = settings(
        amount=12, train={"precision": "float32", "compile": "off", "device": "cpu", "checkpoint_every": 3}
    )
    plan = compare.make_plan(named, asked, data=data)
    assert compare.train(plan, folder, progress=False) is None
    rows = compare.read(plan, folder)
    (folder / "result.json").write_text(json.dumps(sorted(rows, key=lambda row: (row["contestant"], row["document"]))))


def child(folder: Path, data: Path) -> int:
    """The comparison in a process of its own."""
    if pid := os.fork():
        return pid
    code = 1
    try:
        compared(folder, data)
        code = 0
    finally:
        sys.stderr.flush()
        os._exit(code)


def left_alone(folder: Path, data: Path) -> float:
    """Run to the end; seconds."""
    began = time.monotonic()
    assert os.waitstatus_to_exitcode(os.waitpid(child(folder, data), 0)[1]) == 0
    return time.monotonic() - began


def killed(folder: Path, data: Path, after: float) -> dict[str, Any]:
    """Kill it so many seconds after its beginning. What had been done by then."""
    pid = child(folder, data)
    time.sleep(after)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return {
        "models": len(list(folder.glob("*/model"))),
        "checkpoints": len(list(folder.glob("*/checkpoints/step-*"))),
        "done": (folder / "result.json").is_file(),
    }


def main(folder: Path, kills: int, seed: int) -> None:
    import formers.experiments.compare  # noqa: F401  imported here, so that every child has it
    from tests.experiments.compared import shards

    rng, data = random.Random(seed), shards(folder / "text").folder
    seconds = left_alone(folder / "whole", data)
    at = [killed(folder / "killed", data, rng.uniform(0.15, 0.6) * seconds) for _ in range(kills)]
    left_alone(folder / "killed", data)
    steps = {
        file.parent.name: [
            row["step"] for row in map(json.loads, file.read_text().splitlines()) if row["kind"] == "train"
        ]
        for file in (folder / "killed").glob("*/metrics.jsonl")
    }
    results = [json.loads((folder / name / "result.json").read_text()) for name in ("whole", "killed")]
    print(json.dumps({"whole": results[0], "killed": results[1], "at": at, "steps": steps}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
