"""Peak memory of a training step against depth: an ordinary GPT-2, the same recomputed, reversible, and reversible in chunks.

Batch 4, length 512, d 384, 6 heads, vocabulary 1,024, float32, eager, 4 to 32 layers; forward, backward and AdamW. Each point
is a process of its own, with malloc as `formers train` sets it. What is counted is the largest resident set in three steps
less that before the first, and less the gradients and averages that depth brings with it: what activations take.
`with weights` is the whole.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from benchmarks.measure import environment, finish, parser, peak_resident, resident, seconds

BATCH, LENGTH, VOCABULARY = 4, 512, 1024
DEPTHS = (4, 8, 16, 32)
KINDS: dict[str, dict[str, Any]] = {
    "ordinary": {},
    "recomputed": {},
    "reversible": {"trunk": "reversible"},
    "reversible in chunks": {"trunk": "reversible", "ff_chunks": 4},
}
STEPS = 3


def measure(kind: str, num_layers: int) -> dict[str, float]:
    """Bytes and seconds of a step, in this process."""
    import torch
    import torch._dynamo  # an optimizer's first step loads it

    import formers
    from formers.parts.trunk import set_recompute
    from formers.training.objective import Objective
    from formers.training.optimizer import decay_names, make_optimizer
    from formers.training.precision import give_back_freed_memory
    from formers.training.settings import TrainSettings
    from formers.training.setup import freed_memory

    off = {"dropout": 0.0, "attention_dropout": 0.0, "embedding_dropout": 0.0}
    model = formers.build("gpt2", "mini", vocab_size=VOCABULARY, num_layers=num_layers, **off, **KINDS[kind]).train()
    set_recompute(model, kind == "recomputed")
    objective = Objective(model)
    optimizer = make_optimizer(model.named_parameters(), decay_names(model), TrainSettings(lr=1e-4))
    ids = torch.randint(0, VOCABULARY, (BATCH, LENGTH))
    weights = sum(p.numel() * p.element_size() for p in model.parameters())

    def step() -> None:
        total, count, _ = objective(ids, ids.roll(-1, 1))
        (total / count).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    with freed_memory(model, TrainSettings(recompute=kind == "recomputed"), "cpu"):
        before = resident()
        step()
        give_back_freed_memory("cpu")
        taken = [seconds(step) for _ in range(STEPS - 1)]
        peak = peak_resident() - before
    return {"activations": peak - 3 * weights, "with weights": peak + weights, "seconds": min(taken)}


def main() -> None:
    arguments = parser(__doc__ or "")
    arguments.add_argument("--measure", nargs=2, metavar=("KIND", "LAYERS"), help="be one point")
    arguments.add_argument("--depths", type=int, nargs="+", default=DEPTHS)
    options = arguments.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure[0], int(options.measure[1]))))
        return
    points: dict[str, dict[str, dict[str, float]]] = {kind: {} for kind in KINDS}
    for num_layers in options.depths:
        for kind in KINDS:
            command = [sys.executable, "-m", "benchmarks.reversible", "--measure", kind, str(num_layers)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found = points[kind][str(num_layers)] = json.loads(done.stdout)
            print(f"  {num_layers} layers, {kind}: {found['activations'] / 1e6:,.0f} MB", file=sys.stderr, flush=True)
    result = {"environment": environment(), "points": points}
    if tuple(options.depths) == DEPTHS:
        finish("reversible", result, summary(points), options.json)
    else:
        print(summary(points))


def summary(points: dict[str, dict[str, dict[str, float]]]) -> str:
    parts = []
    for kind, found in points.items():
        sizes = ", ".join(f"{depth}: {point['activations'] / 1e6:,.0f}" for depth, point in found.items())
        first, *_, last = found.values()
        parts.append(f"{kind} {sizes} MB ({last['activations'] / first['activations']:.2f}x)")
    return "activations of a step by layers: " + "; ".join(parts)


if __name__ == "__main__":
    main()
