"""A training step of 14 M parameters against transformers GPT-2 and x-transformers.

Batch 8, length 512, d 384, 6 layers, 6 heads, vocabulary 8,192, dropout 0; forward, backward, AdamW. Peers run at their
best setting (bf16 autocast, compiled, fused AdamW; x-transformers with fused attention) and as they come (float32, eager,
plain AdamW), each in a process of its own, in turns. `formers train` keeps freed memory (training/precision.py), which no
peer does by itself; "memory kept" gives the peers' best that setting too. Peak memory is the largest resident set of the
process in its first seven steps less that after its imports.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.measure import (
    Worker,
    alternate,
    environment,
    finish,
    parser,
    peak_resident,
    ratios,
    resident,
    seconds,
    serve,
    span,
)

BATCH, LENGTH, D_MODEL, LAYERS, HEADS, VOCABULARY = 8, 512, 384, 6, 6, 8192
STEPS_A_ROUND = 3
KEPT = "memory kept"
NAMES = (
    "formers",
    "transformers best",
    "x-transformers best",
    f"transformers best, {KEPT}",
    f"x-transformers best, {KEPT}",
    "transformers default",
    "x-transformers default",
)


@dataclass
class Contestant:
    """One step of training, and how many parameters it trains."""

    step: Callable[[], Any]
    parameters: int


def make(name: str) -> Contestant:
    """The contestant, built but not yet run."""
    import torch

    torch.manual_seed(0)
    text = torch.randint(0, VOCABULARY, (BATCH, LENGTH + 1))
    builder = {"formers": ours, "transformers": huggingface, "x-transformers": x_transformers}[name.split()[0]]
    return builder(text[:, :-1].contiguous(), text[:, 1:].contiguous(), best="default" not in name)


def ours(ids: Any, targets: Any, best: bool) -> Contestant:
    """What `formers train` runs on this machine: the Objective, compiled."""
    import formers
    from formers.training.objective import Objective
    from formers.training.optimizer import decay_names, make_optimizer
    from formers.training.precision import compile_module
    from formers.training.settings import TrainSettings

    off = {"dropout": 0.0, "attention_dropout": 0.0, "embedding_dropout": 0.0}
    model = formers.build("gpt2", preset="mini", **off)
    assert (model.config.d_model, model.config.num_layers, model.config.vocab_size) == (D_MODEL, LAYERS, VOCABULARY)
    objective = Objective(model, precision="bf16")
    compile_module(objective)
    optimizer = make_optimizer(model.named_parameters(), decay_names(model), TrainSettings(lr=1e-4))

    def step() -> None:
        total, count, _ = objective(ids, targets)
        (total / count).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return Contestant(step, sum(p.numel() for p in model.parameters()))


def huggingface(ids: Any, targets: Any, best: bool) -> Contestant:
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"n_embd": D_MODEL, "n_layer": LAYERS, "n_head": HEADS, "vocab_size": VOCABULARY, "n_positions": LENGTH}
    off = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    model = GPT2LMHeadModel(GPT2Config(**sizes, **off)).train()
    return peer(model, model, lambda run: run(input_ids=ids, labels=ids, use_cache=False).loss, best)


def x_transformers(ids: Any, targets: Any, best: bool) -> Contestant:
    import torch
    import torch.nn.functional as F
    from x_transformers import Decoder, TransformerWrapper

    layers = Decoder(dim=D_MODEL, depth=LAYERS, heads=HEADS, attn_dim_head=D_MODEL // HEADS, attn_flash=best)
    model = TransformerWrapper(num_tokens=VOCABULARY, max_seq_len=LENGTH, attn_layers=layers)

    class WithLoss(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: Any, y: Any) -> Any:
            return F.cross_entropy(self.model(x).transpose(1, 2), y)

    return peer(model, WithLoss(), lambda run: run(ids, targets), best)


def peer(model: Any, module: Any, loss_of: Callable[[Any], Any], best: bool) -> Contestant:
    """A peer's step: bf16, compiled and fused where `best`, float32 and eager otherwise."""
    import torch

    run = torch.compile(module, dynamic=False) if best else module
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.1, fused=best or None)

    def step() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=best):
            loss = loss_of(run)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return Contestant(step, sum(p.numel() for p in model.parameters()))


def serve_steps(name: str) -> None:
    """This process's part: the peak of memory after some steps, then the speed of each round it is asked for."""
    import torch  # noqa: F401
    import transformers  # noqa: F401
    import x_transformers  # noqa: F401

    from formers.training.precision import freed_memory_kept, give_back_freed_memory

    imported, kept = resident(), name == "formers" or KEPT in name
    with freed_memory_kept("cpu") if kept else contextlib.nullcontext():
        contestant = make(name)
        contestant.step()
        if kept:
            give_back_freed_memory("cpu")
        for _ in range(6):
            contestant.step()
        peak = peak_resident() - imported

        def answer() -> dict[str, float]:
            taken = seconds(lambda: [contestant.step() for _ in range(STEPS_A_ROUND)])
            speed = BATCH * LENGTH * STEPS_A_ROUND / taken
            return {"tokens_per_second": speed, "peak_bytes": peak, "parameters": contestant.parameters}

        serve(answer)


def main() -> None:
    arguments = parser(__doc__ or "")
    arguments.add_argument("--serve", help="be one contestant: a round for every line on the standard input")
    options = arguments.parse_args()
    if options.serve:
        serve_steps(options.serve)
        return
    about, workers, facts = environment(), {}, {}
    for name in NAMES:
        print(f"warming up {name}", file=sys.stderr, flush=True)
        workers[name] = Worker("benchmarks.train", "--serve", name)
        facts[name] = workers[name].round()
    rounds = {name: lambda worker=worker: worker.round()["tokens_per_second"] for name, worker in workers.items()}
    speeds = alternate(rounds, options.rounds)
    for worker in workers.values():
        worker.close()
    memory = {name: fact["peak_bytes"] for name, fact in facts.items()}
    result = {
        "environment": about,
        "parameters": {name: fact["parameters"] for name, fact in facts.items()},
        "tokens_per_second": speeds,
        "speed_ratio": {name: ratios(speeds["formers"], speeds[name]) for name in NAMES[1:]},
        "peak_bytes": memory,
        "memory_ratio": {name: memory["formers"] / memory[name] for name in NAMES[1:]},
    }
    parts = [
        f"{name} {span(ratio, 'x')}, memory {result['memory_ratio'][name]:.2f}x"
        for name, ratio in result["speed_ratio"].items()
    ]
    finish("train", result, "a training step of 14 M parameters: " + "; ".join(parts), options.json)


if __name__ == "__main__":
    main()
