"""A training in a process of its own, to be killed: ``python killed_run.py OUT STEPS compile|eager``.

It trains, or resumes where OUT holds a run. Prints ``step N`` after each step, ``resumed N`` first where it resumed, and
``weights DIGEST`` at the end.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"


def main(out: Path, steps: int, compiled: bool) -> None:
    from formers.training import train
    from tests.training import small

    def tell(row: dict) -> None:
        if row["kind"] == "train":
            print("step", row["step"], flush=True)
        elif row["kind"] == "event" and "esume" in row["message"]:
            print("event", row["message"], flush=True)

    result = train(
        small.gpt2(dropout=0.1),
        small.settings(
            steps=steps,
            compile="on" if compiled else "off",
            precision="bf16" if compiled else "float32",
            eval_every=7,
            checkpoint_every=5,
            sample_every=6,
            accumulate=2,
        ),
        small.windows(),
        small.validation(),
        out=out,
        resume=out.exists(),
        sample=lambda model: [("the ", "end")],
        on_event=tell,
        progress=False,
    )
    print("weights", small.digest(result.model), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "compile")
