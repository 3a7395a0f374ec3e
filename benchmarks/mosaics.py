"""A training step of Memory Mosaics against the authors' nanoMosaics, and against our GPT-2 of as many parameters.

Batch 8, length 512, d 384, 6 layers, 6 heads, 2,688 learned pairs a head, vocabulary 8,192, dropout 0; forward, backward,
AdamW. Ours is what `formers train` runs here: the Objective, compiled, bf16 where the machine has units for it. The peer is
facebookresearch/MemoryMosaics, nanoMosaics/mosaic_model.py, as its train.py runs it on a CPU (float32, compiled) and at its
best setting (bf16 autocast, compiled, fused AdamW). It is no package: MOSAICS_PEER or --peer names the folder of its
mosaic_model.py; without, there is no peer. Each runs in a process of its own, in turns. Memory: the largest resident set in
steps of length 1,024, 2,048 and 4,096 (batch 1), less that after the imports. Decoding: milliseconds a token of a
model of persistent memories alone (their averages are all that it carries), after 64 and after 4,096 tokens.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
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

BATCH, LENGTH, D_MODEL, LAYERS, HEADS, SLOTS, VOCABULARY = 8, 512, 384, 6, 6, 2688, 8192
STEPS_A_ROUND = 2
LENGTHS = (1024, 2048, 4096)
OURS, GPT, PEER, PEER_BEST = "formers mosaic", "formers gpt2", "nanoMosaics default", "nanoMosaics best"
Step = Callable[[], Any]


def text(batch: int, length: int) -> tuple[Any, Any]:
    import torch

    ids = torch.randint(0, VOCABULARY, (batch, length + 1), generator=torch.Generator().manual_seed(0))
    return ids[:, :-1].contiguous(), ids[:, 1:].contiguous()


def build(name: str) -> Any:
    """Our mosaic, or a GPT-2 whose feed-forwards make it as large: 2 d x d_ff beside attention's 4 d^2."""
    import formers

    sizes = {"d_model": D_MODEL, "num_layers": LAYERS, "num_heads": HEADS, "vocab_size": VOCABULARY, "dropout": 0.0}
    if name == OURS:
        return formers.build("memory_mosaics", **sizes, memory_size=SLOTS)
    off = {"attention_dropout": 0.0, "embedding_dropout": 0.0, "max_length": LENGTH}
    return formers.build("gpt2", **sizes, **off, d_ff=SLOTS + D_MODEL // 2)


def ours(name: str, batch: int, length: int, *, compiled: bool = True) -> tuple[Step, int]:
    from formers.training.objective import Objective
    from formers.training.optimizer import decay_names, make_optimizer
    from formers.training.precision import choose_precision, compile_module
    from formers.training.settings import TrainSettings

    model = build(name).train()
    objective = Objective(model, precision=choose_precision("auto", "cpu"))
    if compiled:
        compile_module(objective)
    optimizer = make_optimizer(model.named_parameters(), decay_names(model), TrainSettings(lr=1e-4))
    ids, targets = text(batch, length)

    def step() -> None:
        total, count, _ = objective(ids, targets)
        (total / count).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step, sum(p.numel() for p in model.parameters())


def peer(folder: str, best: bool) -> tuple[Step, int]:
    """The authors' step. Raises SystemExit where their file is not in `folder`."""
    import torch

    file = Path(folder) / "mosaic_model.py"
    if not file.is_file():
        raise SystemExit(
            f"no {file.name} in {folder}: the peer is the folder nanoMosaics of facebookresearch/MemoryMosaics"
        )
    spec = importlib.util.spec_from_file_location("mosaic_model", file)
    assert spec is not None
    assert spec.loader is not None
    theirs = importlib.util.module_from_spec(spec)
    sys.modules["mosaic_model"] = theirs
    spec.loader.exec_module(theirs)
    sizes = {"n_layer": LAYERS, "n_head": HEADS, "n_embd": D_MODEL, "pmem_size": SLOTS}
    with contextlib.redirect_stdout(io.StringIO()):
        model = theirs.MemoryMosaic(
            theirs.MemoryMosaicConfig(block_size=LENGTH, vocab_size=VOCABULARY, **sizes)
        ).train()
        optimizer = model.configure_optimizers(0.1, 1e-4, (0.9, 0.95), "cuda" if best else "cpu")
    run, (ids, targets) = torch.compile(model), text(BATCH, LENGTH)

    def step() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=best):
            _, loss = run(ids, targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step, sum(p.numel() for p in model.parameters())


def serve_steps(name: str, folder: str) -> None:
    """This process's part: how long its steps take, on the clock and of its cores, each round it is asked."""
    from formers.training.precision import freed_memory_kept

    with freed_memory_kept("cpu") if name in (OURS, GPT) else contextlib.nullcontext():
        step, parameters = ours(name, BATCH, LENGTH) if name in (OURS, GPT) else peer(folder, name == PEER_BEST)
        step()
        step()

        def answer() -> dict[str, float]:
            cores = time.process_time()
            taken = seconds(lambda: [step() for _ in range(STEPS_A_ROUND)])
            busy = time.process_time() - cores
            speed = BATCH * LENGTH * STEPS_A_ROUND
            return {"per_second": speed / taken, "per_core_second": speed / busy, "parameters": parameters}

        serve(answer)


def serve_memory() -> None:
    """Peak bytes of a step, a length a round."""
    imported, lengths = resident(), iter(LENGTHS)

    def answer() -> dict[str, float]:
        step, _ = ours(OURS, 1, next(lengths), compiled=False)
        resident()
        step()
        return {"bytes": peak_resident() - imported}

    serve(answer)


def decoding() -> dict[str, float]:
    """Milliseconds a token after so many tokens, of a model that carries nothing but averages."""
    import torch

    import formers

    model = formers.build("memory_mosaics", preset="tiny", block=("persistent_memory",)).eval()
    found = {}
    with torch.no_grad():
        for before in (64, 4096):
            ids = torch.randint(0, 4096, (1, before))
            state = model(ids, state=model.init_state(1, 8192)).state.commit()
            taken = []
            for _ in range(60):
                began = time.perf_counter()
                state = model(ids[:, :1], state=state).state.commit()
                taken.append(time.perf_counter() - began)
            found[str(before)] = 1000 * sorted(taken)[len(taken) // 2]
    return found


def main() -> None:
    arguments = parser(__doc__ or "")
    arguments.add_argument("--serve", help="be one contestant: a round for every line on the standard input")
    arguments.add_argument("--peer", default=os.environ.get("MOSAICS_PEER", ""), help="folder of their mosaic_model.py")
    options = arguments.parse_args()
    if options.serve:
        serve_memory() if options.serve == "memory" else serve_steps(options.serve, options.peer)
        return
    names = (OURS, GPT, *((PEER, PEER_BEST) if options.peer else ()))
    about, workers, facts = environment(), {}, {}
    for name in names:
        print(f"warming up {name}", file=sys.stderr, flush=True)
        workers[name] = Worker("benchmarks.mosaics", "--serve", name, "--peer", options.peer)
        facts[name] = workers[name].round()
    rounds = {name: lambda worker=worker: worker.round() for name, worker in workers.items()}
    answers: dict[str, list[Any]] = {name: [] for name in names}
    alternate(
        {name: lambda n=name: answers[n].append(rounds[n]()) or answers[n][-1]["per_second"] for name in names},
        options.rounds,
    )
    for worker in workers.values():
        worker.close()
    memory = Worker("benchmarks.mosaics", "--serve", "memory")
    peaks = {str(length): memory.round()["bytes"] for length in LENGTHS}
    memory.close()
    finish_with(answers, facts, peaks, about, options.json)


def finish_with(answers: dict[str, list[Any]], facts: Any, peaks: dict[str, float], about: Any, as_json: bool) -> None:
    speeds = {name: [answer["per_second"] for answer in given] for name, given in answers.items()}
    busy = {name: [answer["per_core_second"] for answer in given] for name, given in answers.items()}
    others = [name for name in speeds if name != OURS]
    token = decoding()
    result = {
        "environment": about,
        "parameters": {name: fact["parameters"] for name, fact in facts.items()},
        "tokens_per_second": speeds,
        "tokens_per_core_second": busy,
        "speed_ratio": {name: ratios(speeds[OURS], speeds[name]) for name in others},
        "core_ratio": {name: ratios(busy[OURS], busy[name]) for name in others},
        "peak_bytes_by_length": peaks,
        "decoding_ms_after_tokens": token,
    }
    parts = [f"{n} {span(r, 'x')}" for n, r in result["speed_ratio"].items()]
    growth = peaks[str(LENGTHS[-1])] / peaks[str(LENGTHS[0])]
    parts.append(f"memory of {LENGTHS[-1]:,} tokens {growth:.1f}x that of {LENGTHS[0]:,}")
    parts.append("ms a token decoded after " + ", ".join(f"{n}: {ms:.1f}" for n, ms in token.items()))
    finish("mosaics", result, "a training step of a mosaic of 20 M parameters: " + "; ".join(parts), as_json)


if __name__ == "__main__":
    main()
