"""Key-value recall: pairs are defined at the start of a document and asked for later, further away than any window sees.

    k7 v3 k1 v9 ..  filler .. k1 filler .. k7 filler ..

A question is a key, and its answer the value that was defined with it; nothing answers it in the document, so that there
is no later copy. Keys, values and their pairing are drawn anew for every document. A model that does not see the
definition can do no better than to guess one of the values: chance.

Both models learn by the same curriculum. First pairs come again and again within one window (without that stage neither
learns to look a value up by the key before it), then they are asked for in documents that grow from one window to 32.
"""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from formers.config import require, to_dict
from formers.data.batch import NO_TARGET, Batch
from formers.experiments.claims import Verdict
from formers.hub import save
from formers.hub.targets import load
from formers.models.memorizing import Memorizing, MemorizingConfig
from formers.parts.positions import Positions
from formers.training import TrainSettings, train
from formers.training.evaluate import evaluating

KEYS, VALUES, FILLER = 64, 64, 32
TOKENS_A_STEP, FEWEST_ROWS = 2048, 2


@dataclass(frozen=True)
class Stage:
    """Steps on documents of `length` tokens with so many pairs; `questions` 0: pairs come again and again instead."""

    length: int
    pairs: int
    questions: int
    steps: int
    lr: float = 2e-3

    @property
    def rows(self) -> int:
        return max(FEWEST_ROWS, TOKENS_A_STEP // self.length)


STAGES = (
    Stage(64, 8, 0, 900),
    Stage(64, 8, 24, 200),
    Stage(128, 16, 32, 200),
    Stage(256, 24, 64, 300),
    Stage(512, 32, 64, 300),
    Stage(1024, 32, 64, 300),
    Stage(2048, 32, 128, 400, lr=1e-3),
)


@dataclass(frozen=True)
class RecallSettings:
    """Sizes of the experiment.

    stages     of the training
    documents  that are asked in the end, of the last stage's length
    seed       of the weights and of the training's documents; the documents asked have the next
    """

    stages: tuple[Stage, ...] = field(default_factory=lambda: STAGES)
    documents: int = 40
    seed: int = 0

    def __post_init__(self) -> None:
        problems = [
            f"a stage of {s.pairs} pairs and {s.questions} questions in {s.length} tokens"
            for s in self.stages
            if not 0 < s.pairs <= KEYS or 2 * (s.pairs + s.questions) > s.length
        ]
        require("RecallSettings", problems + ["there are no stages"] * (not self.stages))


def configs() -> dict[str, MemorizingConfig]:
    """The two contestants: segments of 32 and a cache of 32, so a window of 64; one has a memory in its upper layer."""
    shared: dict[str, Any] = {
        "vocab_size": KEYS + VALUES + FILLER, "d_model": 64, "num_layers": 2, "num_heads": 2, "d_ff": 256,
        "segment_length": 32, "cache_length": 32, "memory_size": 4096, "neighbours": 16, "normalised_scale": 8.0,
        "init_std": 0.05, "tie": False,
    }  # fmt: skip
    return {
        "memory": MemorizingConfig(**shared, memory_layers=(1,)),
        "no memory": MemorizingConfig(**shared, memory_layers=()),
    }


WINDOW = 64


# --- documents --------------------------------------------------------------------------------------------------------


def document(stage: Stage, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """ids, targets (-100: not asked) and distance from each question to its definition, int64 [length] each."""
    keys, values = generator.permutation(KEYS)[: stage.pairs], generator.integers(KEYS, KEYS + VALUES, stage.pairs)
    ids = generator.integers(KEYS + VALUES, KEYS + VALUES + FILLER, stage.length)
    targets, distance = np.full(stage.length, NO_TARGET), np.zeros(stage.length, dtype=np.int64)
    if not stage.questions:
        which = generator.integers(0, stage.pairs, stage.length // 2)
        place = 2 * np.arange(len(which))
        ids[place], ids[place + 1] = keys[which], values[which]
        known = np.array([w in which[:i] for i, w in enumerate(which)])
        targets[place[known]] = values[which[known]]
        return ids, targets, distance
    start = 2 * stage.pairs
    ids[0:start:2], ids[1:start:2] = keys, values
    place = start + 2 * np.sort(generator.permutation((stage.length - start) // 2)[: stage.questions])
    which = generator.integers(0, stage.pairs, stage.questions)
    ids[place], targets[place], distance[place] = keys[which], values[which], place - 2 * which
    return ids, targets, distance


@dataclass(frozen=True)
class Pairs:
    """A view of documents that are never read again: batch number n is a pure function of (stage, seed, n)."""

    stage: Stage
    seed: int

    def batch(self, step: int) -> Batch:
        return self.with_distances(step)[0]

    def with_distances(self, step: int) -> tuple[Batch, np.ndarray]:
        generator = np.random.default_rng([self.seed, self.stage.length, self.stage.questions, step])
        made = [document(self.stage, generator) for _ in range(self.stage.rows)]
        ids, targets, distances = (np.stack(part) for part in zip(*made, strict=True))
        index = np.broadcast_to(np.arange(self.stage.length), ids.shape).copy()
        rows = np.broadcast_to(np.arange(len(ids))[:, None], ids.shape).copy()
        return Batch(ids, targets, index, rows, np.ones(len(ids), dtype=bool), 0), distances


# --- the experiment -----------------------------------------------------------------------------------------------------


def run(out: Path, settings: RecallSettings | None = None, *, progress: bool | None = None) -> dict[str, Any] | None:
    """Train both, ask both, and give the table. What stands in `out` already is gone on with. None: stopped by a signal."""
    settings = settings or RecallSettings()
    accuracy = {}
    for name, config in configs().items():
        model = trained(config, settings, out / name.replace(" ", "-"), progress=progress)
        if model is None:
            return None
        accuracy[name] = ask(model, settings)
    drawn = settings.documents * settings.stages[-1].pairs
    return {"window": WINDOW, "chance": 1 / VALUES, "drawn": drawn, "accuracy": accuracy, "settings": to_dict(settings)}


def trained(
    config: MemorizingConfig, settings: RecallSettings, out: Path, *, progress: bool | None = None
) -> nn.Module | None:
    """The model after all stages, each a run folder in `out` that begins with the weights of the one before."""
    model: nn.Module = Memorizing(config, seed=settings.seed)
    for number, stage in enumerate(settings.stages, 1):
        folder = out / f"{number}-{stage.length}"
        if not (folder / "model").is_dir():
            resume = (folder / "recipe.json").is_file()
            if train_stage(model, stage, settings.seed, folder, resume=resume, progress=progress):
                return None
        model = load(folder / "model").train()
    return model


def train_stage(
    model: nn.Module, stage: Stage, seed: int, folder: Path, *, resume: bool, progress: bool | None
) -> str | None:
    """One stage; the signal that stopped it, or None."""
    asked = TrainSettings(
        steps=stage.steps, batch_size=stage.rows, seq_len=stage.length, lr=stage.lr, warmup=20, min_lr_ratio=0.3,
        weight_decay=0.0, betas=(0.9, 0.98), precision="float32", compile="off", eval_every=0, checkpoint_every=100,
    )  # fmt: skip
    result = train(
        model,
        asked,
        Pairs(stage, seed),
        out=folder,
        recipe={"name": f"recall.{stage.length}", "data": dataclasses.asdict(stage)},
        resume=resume,
        save_model=_save,
        progress=progress,
        resume_command="the same command",
        fresh=False,
    )
    return result.interrupted


def _save(model: nn.Module, folder: Path) -> None:
    save(model, folder)


@torch.no_grad()
def ask(model: nn.Module, settings: RecallSettings) -> list[dict[str, Any]]:
    """Share of right answers by distance, in windows of 64: up to 1, 2, 4, .."""
    view = Pairs(settings.stages[-1], settings.seed + 1)
    right: list[np.ndarray] = []
    away: list[np.ndarray] = []
    with evaluating(model):
        for number in range(-(-settings.documents // view.stage.rows)):
            batch, distance = view.with_distances(number)
            ids = torch.from_numpy(batch.input_ids)
            positions = Positions(torch.from_numpy(batch.index), torch.from_numpy(batch.document))
            answer = model(ids, positions=positions).logits.argmax(-1).numpy()
            asked = batch.targets != NO_TARGET
            right.append(answer[asked] == batch.targets[asked])
            away.append(distance[asked])
    return by_distance(np.concatenate(right), np.concatenate(away))


def by_distance(right: np.ndarray, distance: np.ndarray) -> list[dict[str, Any]]:
    """Buckets of distance, each reaching twice as far as the one before."""
    edges = [0, WINDOW]
    while edges[-1] <= distance.max():
        edges.append(2 * edges[-1])
    rows = []
    for low, high in itertools.pairwise(edges):
        inside = (distance > low) & (distance <= high)
        if inside.any():
            count, hits = int(inside.sum()), int(right[inside].sum())
            rows.append({"from": low, "to": high, "questions": count, "right": hits, "accuracy": hits / count})
    return rows


def verdict(result: dict[str, Any], *, windows: int = 16, wanted: float = 0.95) -> Verdict:
    """Whether the memory answers at so many windows, and the model without stays at chance there."""

    def beyond(name: str) -> tuple[int, int]:
        rows = [row for row in result["accuracy"][name] if row["from"] >= windows * WINDOW]
        return sum(row["right"] for row in rows), sum(row["questions"] for row in rows)

    (hits, count), (without, _) = beyond("memory"), beyond("no memory")
    share, other, chance = hits / max(count, 1), without / max(count, 1), result["chance"]
    by_chance = other <= chance + 3 * (chance * (1 - chance) / result["drawn"]) ** 0.5  # a pair asked twice is one draw
    figures = {"questions": count, "memory": share, "no memory": other, "chance": chance}
    claim = f"recall beyond {windows} windows: at least {wanted:.0%} with a memory, chance without"
    word = "reproduced" if count and share >= wanted and by_chance else "not reproduced"
    if word == "not reproduced" and by_chance and share > 2 * chance:
        word = "smaller effect"
    return Verdict(claim, word, figures)
