"""Trains streams with carried states and recomputation, compiled and not; prints both losses and the largest difference.

A process of its own, because the tests' checks of shapes cannot be compiled.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"


def main(out: Path) -> None:
    from formers.training import train
    from tests.training import small

    found = []
    for name, changes in (("plain", {}), ("fast", {"compile": "on", "recompute": True})):
        settings = small.settings(carry_state=True, **changes)
        found.append(train(small.gpt2(), settings, small.streams(), small.validation(stride=None), out=out / name))
    plain, fast = found
    pairs = zip(plain.model.parameters(), fast.model.parameters(), strict=True)
    print("losses", plain.loss, fast.loss, "apart", max(float((a - b).detach().abs().max()) for a, b in pairs))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
