"""One-layer induction: a random sequence comes twice, and what followed a token the first time follows it again.

Attention needs two layers for it (Olsson et al., 2209.11895): one that writes to each token what came before it, and one
that looks for a token whose predecessor is like this one. A context memory's key is an average of what came before and its
value is what came next, so one does (Memory Mosaics, 2405.06394, section 5).

Three contestants of equal parameters: a mosaic of one block, a GPT-2 of one block, and a GPT-2 of two. What is asked is the
task as it stands (tasks/synthetic): 32 random tokens, others between, and the 32 again. What is trained on are rows of the
task and, three for each, sequences of 4 to 32 tokens that come again and again: on the task alone GPT-2 of two blocks had
learnt nothing after 1,000 steps, and beside such sequences its loss falls from about step 250 (at 1,000 it is right every
second time).
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from formers.config import below_one, require, to_dict
from formers.data.batch import Batch
from formers.experiments.claims import Verdict
from formers.hub import save
from formers.hub.targets import load
from formers.models import registry
from formers.tasks.synthetic import Induction, Row, Settings
from formers.tasks.synthetic.base import as_batch
from formers.training import TrainSettings, train

MOSAIC, ONE, TWO = "mosaic, 1 block", "GPT-2, 1 block", "GPT-2, 2 blocks"
SOLVED, AT_CHANCE = 0.95, 0.1
"""Share of right answers that counts as solved, and the most that counts as chance: of 64 tokens, of which a half have been
seen, one that remembers nothing but what was there is right one time in thirty."""


@dataclass(frozen=True)
class InductionSettings:
    """Sizes of the experiment.

    seeds    of weights and rows: each contestant is trained once for each
    steps    of a training, with `rows` rows a step
    asked    rows that are asked in the end, the same for all
    shortest of the sequences that are trained on
    """

    seeds: int = 3
    steps: int = 3000
    rows: int = 32
    asked: int = 256
    shortest: int = 4
    lr: float = 3e-3
    init_std: float = 0.05
    d_model: int = 64
    num_heads: int = 4

    def __post_init__(self) -> None:
        problems = below_one(self, ("seeds", "steps", "rows", "asked", "shortest", "d_model", "num_heads"))
        if self.shortest > Induction().length:
            problems.append(f"shortest is {self.shortest}, wanted at most {Induction().length}")
        if self.d_model % 4:
            problems.append(f"d_model is {self.d_model}, wanted a multiple of 4")
        require("InductionSettings", problems)


@dataclass(frozen=True)
class Rehearsal:
    """A view of what is trained on: every fourth row is one of the task, and in the others a sequence of `shortest` tokens or
    more comes again and again to the row's end. Batch number n is a pure function of (task, shortest, n)."""

    task: Induction
    shortest: int

    def batch(self, step: int) -> Batch:
        generator = np.random.default_rng([self.task.settings.seed, step])
        rows = range(self.task.settings.batch_size)
        return as_batch([self._row(generator) if i % 4 else self.task.row(generator) for i in rows])

    def _row(self, generator: np.random.Generator) -> Row:
        places = self.task.seq_len + 1
        length = int(generator.integers(self.shortest, self.task.length + 1))
        once = generator.integers(0, self.task.symbols, length)
        return Row.of(np.resize(once, places), np.arange(places) > length)


def configs(settings: InductionSettings) -> dict[str, tuple[str, dict[str, Any]]]:
    """Architecture and sizes of each contestant. The feed-forwards of GPT-2 make up what it lacks in parameters."""
    task, d, heads = Induction(), settings.d_model, settings.num_heads
    shared = {"num_heads": heads, "dropout": 0.0, "init_std": settings.init_std}
    mosaic = {"d_model": d, "num_layers": 1, "memory_size": 7 * d // 2, **shared}
    off = {**shared, "attention_dropout": 0.0, "embedding_dropout": 0.0, "max_length": task.seq_len}
    wanted = _parameters("memory_mosaics", mosaic | {"vocab_size": task.vocab_size})
    found: dict[str, tuple[str, dict[str, Any]]] = {MOSAIC: ("memory_mosaics", mosaic)}
    for name, layers, width in ((ONE, 1, d), (TWO, 2, 3 * d // 4)):
        sizes = {"d_model": width, "num_layers": layers, **off}
        spare = wanted - _parameters("gpt2", sizes | {"d_ff": 1, "vocab_size": task.vocab_size})
        found[name] = "gpt2", sizes | {"d_ff": 1 + round(spare / (layers * (2 * width + 1)))}
    return {name: (kind, sizes | {"vocab_size": task.vocab_size}) for name, (kind, sizes) in found.items()}


def _parameters(architecture: str, sizes: dict[str, Any]) -> int:
    return sum(p.numel() for p in registry.build(architecture, **sizes).parameters())


def run(out: Path, settings: InductionSettings | None = None, *, progress: bool | None = None) -> dict[str, Any] | None:
    """Train and ask all, and give the table. What stands in `out` already is gone on with. None: stopped by a signal."""
    settings = settings or InductionSettings()
    scores: dict[str, list[dict[str, float]]] = {name: [] for name in configs(settings)}
    for seed in range(settings.seeds):
        for name, (kind, sizes) in configs(settings).items():
            task = Induction(Settings(batch_size=settings.rows, seed=seed, rows=settings.asked))
            folder = out / name.replace(", ", "-").replace(" ", "-") / f"seed-{seed}"
            model = trained(registry.build(kind, seed=seed, **sizes), task, settings, folder, progress)
            if model is None:
                return None
            scores[name].append(task.score(model))
    parameters = {name: _parameters(kind, sizes) for name, (kind, sizes) in configs(settings).items()}
    return {"chance": Induction().chance, "parameters": parameters, "scores": scores, "settings": to_dict(settings)}


def trained(
    model: nn.Module, task: Induction, settings: InductionSettings, folder: Path, progress: bool | None
) -> nn.Module | None:
    """The model after its training, a run folder; loaded where the training is over. None: stopped by a signal."""
    if (folder / "model").is_dir():
        return load(folder / "model")
    seed = task.settings.seed
    asked = TrainSettings(
        steps=settings.steps, batch_size=settings.rows, seq_len=task.seq_len, lr=settings.lr, warmup=50, min_lr_ratio=0.1,
        weight_decay=0.0, betas=(0.9, 0.98), precision="float32", compile="off", eval_every=0, checkpoint_every=200,
        seed=seed,
    )  # fmt: skip
    result = train(
        model,
        asked,
        Rehearsal(task, settings.shortest),
        out=folder,
        recipe={"name": "induction", "data": {"task": task.name, "seed": seed}},
        resume=(folder / "recipe.json").is_file(),
        save_model=_save,
        progress=progress,
        resume_command="the same command",
        fresh=False,
    )
    return None if result.interrupted else model


def _save(model: nn.Module, folder: Path) -> None:
    save(model, folder)


def verdict(result: dict[str, Any]) -> Verdict:
    """Whether the mosaic and two blocks solve it with every seed, and one block of GPT-2 with none."""
    accuracy = {name: [score["accuracy"] for score in scores] for name, scores in result["scores"].items()}
    solved = min(accuracy[MOSAIC] + accuracy[TWO]) >= SOLVED
    apart = max(accuracy[ONE]) <= AT_CHANCE
    ahead = statistics.mean(accuracy[MOSAIC]) > 3 * statistics.mean(accuracy[ONE])
    word = "reproduced" if solved and apart else "smaller effect" if ahead else "not reproduced"
    claim = "one block of a mosaic repeats a random sequence; GPT-2 needs two"
    return Verdict(claim, word, {name: statistics.mean(values) for name, values in accuracy.items()})
