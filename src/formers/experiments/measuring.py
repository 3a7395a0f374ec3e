"""One point of the crossover map, in a process of its own: ``python -m formers.experiments.measuring`` is asked in JSON on
stdin, {"mechanism", "length", "d_model", "num_heads", "training", "seconds"}, and answers in JSON on stdout.

A process measures one mechanism at one length, so that no other's memory is counted: first the forward pass, then the forward
and backward pass. The peak is what is held at most beyond what is held before, on Linux; elsewhere it is not known.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

from formers.experiments.mechanisms import MECHANISMS, Sizes
from formers.experiments.probe import Memory
from formers.parts.positions import Positions

MOST_RUNS = 5


def measure(asked: dict[str, Any]) -> dict[str, Any]:
    """{"forward": figures, "training": figures or None}, with figures {"seconds" (median), "runs", "peak_bytes"}."""
    sizes = Sizes(asked["d_model"], asked["num_heads"], asked["length"])
    torch.manual_seed(0)
    layer, positions = MECHANISMS[asked["mechanism"]].make(sizes), Positions.whole(sizes.length)
    x = torch.randn(1, sizes.length, sizes.d_model)

    def forward() -> None:
        with torch.no_grad():
            layer.eval()(x, positions)

    def training() -> None:
        inputs = x.clone().requires_grad_()
        layer.train()(inputs, positions)[0].sum().backward()
        layer.zero_grad(set_to_none=True)

    few = min(16, sizes.length)  # what torch sets up at its first call is not the mechanism's
    layer(x[:, :few].clone().requires_grad_(), Positions.whole(few))[0].sum().backward()
    return {
        "forward": timed(forward, asked["seconds"]),
        "training": timed(training, asked["seconds"]) if asked["training"] else None,
    }


def timed(run: Callable[[], None], seconds: float) -> dict[str, Any]:
    """The median of as many runs as `seconds` allow, three at least where the first took less; memory of the first."""
    memory, began = Memory("cpu"), time.perf_counter()
    run()
    first, peak = time.perf_counter() - began, memory.peak()
    took = [first] if first >= seconds else []
    while time.perf_counter() - began < seconds and len(took) < MOST_RUNS:
        start = time.perf_counter()
        run()
        took.append(time.perf_counter() - start)
    return {"seconds": statistics.median(took or [first]), "runs": max(1, len(took)), "peak_bytes": peak}


if __name__ == "__main__":
    print(json.dumps(measure(json.load(sys.stdin))), flush=True)
