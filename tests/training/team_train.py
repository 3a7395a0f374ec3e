"""One process of a team that trains: ``python -m tests.training.team_train MODE OUT STOP``.

Resumes where OUT holds a run. After step STOP (0: never) the second process sends itself SIGTERM.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"


def main(parallel: str, out: Path, stop: int) -> None:
    from formers.training import train
    from tests.training import small

    class Stopping:
        """The view, and a signal as the batch of a step is asked for: it arrives while that step is worked on."""

        lengths = small.streams().lengths

        def __init__(self) -> None:
            self.inner = small.streams()

        def batch(self, step: int):
            if step + 1 == stop and os.environ["RANK"] == "1":
                os.kill(os.getpid(), signal.SIGTERM)
            return self.inner.batch(step)

    result = train(
        small.gpt2(dropout=0.1),
        small.settings(parallel=parallel, carry_state=True, accumulate=2, checkpoint_every=2),
        Stopping(),
        small.validation(stride=None),
        out=out,
        resume=(out / "recipe.json").exists(),
    )
    print(
        "steps", result.steps, "interrupted", "SIGTERM" if result.interrupted else None, "resumed", result.resumed_from
    )
    if os.environ["RANK"] == "0" and not result.interrupted:
        print("weights", small.digest(result.model), "loss", result.evaluation["loss"])


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
