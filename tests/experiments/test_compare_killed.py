"""A comparison killed five times with SIGKILL ends with the scores of one that was left alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_killed_five_times_it_ends_with_the_same_scores(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.experiments.killed_compare", str(tmp_path), "5", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["killed"] == found["whole"]  # every loss of every document, to the last bit
    assert len(found["whole"]) == 2 * 2 * 8
    assert all(steps == list(range(1, 13)) for steps in found["steps"].values())
    assert len(found["steps"]) == 4
    assert any(at["checkpoints"] > 0 and not at["done"] for at in found["at"]), found["at"]  # some kill came in between
