"""A training step with a memory: batch 2, length 512, d 384, 6 layers, 6 heads, vocabulary 8,192, one memory layer, k = 32.

Memorizing Transformers here, with a full memory of 8k and 65k entries a head (exact search) and with none, against
memorizing-transformers-pytorch 0.4.1 with as many (HNSW by faiss, one key for all heads): a training step (forward, backward,
AdamW, writing the segment into the memory) and an evaluation step. Both keep a cache of 512. Ours runs as `formers train` runs
it here (bf16, compiled, with `--model.memory-storage bfloat16`, since what is computed in bf16 is no more) and eager in
float32; theirs in float32, eager: its search takes no bf16, and it does not compile. Memories are filled with random vectors,
of which an exact search takes as long as of any.

The peer: pip install --no-deps memorizing-transformers-pytorch==0.4.1 einops-exts joblib cloudpickle, and faiss-cpu einops
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.measure import alternate, environment, finish, parser, ratios, seconds, span

BATCH, LENGTH, D_MODEL, LAYERS, HEADS, VOCABULARY, K = 2, 512, 384, 6, 6, 8192, 32
SIZES = (8192, 65_536)
STEPS = 3
NO_MEMORY = "formers, no memory"


def text() -> tuple[Any, Any]:
    import torch

    ids = torch.randint(1, VOCABULARY, (BATCH, LENGTH + 1))
    return ids[:, :-1].contiguous(), ids[:, 1:].contiguous()


def ours(size: int | None, *, best: bool, training: bool = True) -> Callable[[], Any]:
    """A step with a full memory of `size` entries, or without any memory layer."""
    import torch

    import formers
    from formers.parts.positions import Positions
    from formers.training.objective import Objective
    from formers.training.optimizer import decay_names, make_optimizer
    from formers.training.precision import compile_module
    from formers.training.settings import TrainSettings

    changes: dict[str, Any] = {"memory_layers": ()} if size is None else {"memory_size": size}
    if size is not None and best:
        changes["memory_storage"] = "bfloat16"
    model = formers.build("memorizing", preset="mini", **changes)
    config = model.config
    assert (config.d_model, config.num_layers, config.vocab_size, config.neighbours) == (D_MODEL, LAYERS, VOCABULARY, K)
    objective = Objective(model.train(training), precision="bf16" if best else "float32")
    if best and training:
        compile_module(objective)
    optimizer = make_optimizer(model.named_parameters(), decay_names(model), TrainSettings(lr=1e-4))
    ids, targets = text()
    start = size or LENGTH
    held = [filled(model.init_state(BATCH, start + 10**6).dynamic(), start)]
    document = torch.zeros_like(ids)

    def step() -> None:
        index = Positions.going_on(held[0].next_index, LENGTH).index
        with torch.set_grad_enabled(training):
            total, count, staged = objective(ids, targets, index, document, held[0], aligned=LENGTH)
            if training:
                (total / count).backward()
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
        held[0] = staged.commit().dynamic()

    return step


def filled(state: Any, entries: int) -> Any:
    """The state after `entries` tokens of which the memory holds random unit keys."""
    import dataclasses

    import torch

    from formers.parts.positions import Positions
    from formers.parts.recollection import MemoryNode
    from formers.parts.states import map_tree

    def fill(node: Any) -> Any:
        if not isinstance(node, MemoryNode):
            return node
        shape = (BATCH, node.memory.keys.shape[1], entries, node.memory.keys.shape[3])
        k, v = torch.nn.functional.normalize(torch.randn(shape), dim=-1), torch.randn(shape)
        places = torch.arange(entries).expand(BATCH, -1)
        memory = node.memory.add(k, v, Positions(places, torch.zeros_like(places)))
        return dataclasses.replace(node, memory=memory)

    return dataclasses.replace(
        state, nodes=map_tree(state.nodes, fill), next_index=torch.full_like(state.next_index, entries)
    )


def theirs(size: int, folder: Path, *, training: bool = True) -> Callable[[], Any]:
    import torch
    from memorizing_transformers_pytorch import MemorizingTransformer
    from memorizing_transformers_pytorch.knn_memory import KNNMemoryList

    model = MemorizingTransformer(
        num_tokens=VOCABULARY, dim=D_MODEL, depth=LAYERS, heads=HEADS, dim_head=D_MODEL // HEADS, memorizing_layers=5,
        max_knn_memories=size, num_retrieved_memories=K, xl_max_memories=LENGTH,
    ).train(training)  # fmt: skip
    memories = KNNMemoryList.create_memories(
        batch_size=BATCH, num_memory_layers=1, memories_directory=str(folder / f"{size}-{training}")
    )(**model.knn_mem_kwargs)
    room = size - 64 * LENGTH if size > 64 * LENGTH else size // 2  # it empties itself once it is full
    for _ in range(room // 4096):
        vectors = torch.randn(BATCH, 4096, 2, D_MODEL // HEADS)
        memories[0].add(torch.nn.functional.normalize(vectors, dim=-1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    ids, targets = text()
    held: list[Any] = [None]

    def step() -> None:
        with torch.set_grad_enabled(training):
            result = model(ids, knn_memories=memories, xl_memories=held[0], labels=targets)
            loss, held[0] = result[0], result[1]
            if training:
                loss.backward()
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)

    return step


def timed(step: Callable[[], Any]) -> Callable[[], float]:
    """Milliseconds of a step, the mean of a few."""

    def run() -> float:
        return seconds(lambda: [step() for _ in range(STEPS)]) * 1000 / STEPS

    step()
    step()
    return run


def main() -> None:
    options = parser(__doc__ or "").parse_args()
    import torch

    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        runs = {NO_MEMORY: timed(ours(None, best=True))}
        for size in SIZES:
            print(f"  {size:,} entries", file=sys.stderr)
            runs[f"formers, {size}"] = timed(ours(size, best=True))
            runs[f"formers float32, {size}"] = timed(ours(size, best=False))
            runs[f"formers evaluates, {size}"] = timed(ours(size, best=True, training=False))
            runs |= peers(size, Path(folder))
        figures = alternate(runs, options.rounds)
    result: dict[str, Any] = {"environment": environment(), "milliseconds": figures, "ratios": {}}
    for size in SIZES:
        mine = figures[f"formers, {size}"]
        result["ratios"][f"{size}, with / without"] = ratios(mine, figures[NO_MEMORY])
        for name, ours_name in (("trains", "formers"), ("evaluates", "formers evaluates")):
            if f"peer {name}, {size}" in figures:
                key = f"{size}, peer {name} / formers"
                result["ratios"][key] = ratios(figures[f"peer {name}, {size}"], figures[f"{ours_name}, {size}"])
                if name == "trains":
                    eager = figures[f"formers float32, {size}"]
                    result["ratios"][f"{key} float32"] = ratios(figures[f"peer trains, {size}"], eager)
    finish("memory_step", result, summary(result), options.json)


def peers(size: int, folder: Path) -> dict[str, Callable[[], float]]:
    try:
        return {
            f"peer trains, {size}": timed(theirs(size, folder)),
            f"peer evaluates, {size}": timed(theirs(size, folder, training=False)),
        }
    except ImportError as error:
        print(f"  without the peer: {error}", file=sys.stderr)
        return {}


def summary(result: dict[str, Any]) -> str:
    lines = [f"{name} {span(r, 'x')}" for name, r in result["ratios"].items()]
    return "a step with a memory: " + "; ".join(lines)


if __name__ == "__main__":
    main()
