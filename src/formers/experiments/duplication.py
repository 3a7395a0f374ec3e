"""The duplication task of the Reformer (2001.04451, section 5, "Effect of sharing query-key space ... LSH attention"): say
again what was said.

    0 w 0 w          w: tokens drawn evenly from 1 .. symbols

Only the second half is scored. To write the next token of the second w a model must find that of the first, so attention has
to reach back by a constant distance, and exactly: a model that does not can do no better than chance, 1 / symbols.

One layer is trained with full attention and with so many rounds of hashing, and each is then asked with full attention and
with 1, 2, 4 and 8 rounds: the paper's table 2, smaller. Rounds and full attention are settings of one model with the same
weights: full attention is a single bucket, in one chunk as long as the text.
"""

from __future__ import annotations

from dataclasses import dataclass
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
from formers.models.reformer import Reformer, ReformerConfig
from formers.training import TrainSettings, train
from formers.training.evaluate import evaluating

FULL = "full"
"""Attention without hashing, as it stands among numbers of rounds."""
ASKED = (FULL, "8", "4", "2", "1")
SOLVED = 0.95


@dataclass(frozen=True)
class DuplicationSettings:
    """Sizes of the experiment.

    word      tokens that are said twice, between zeros          symbols    that they are drawn from
    chunk     of sorted tokens                                   trained    ways to attend that models are trained with
    texts     that are asked in the end                          seed       of weights and texts; those asked have the next
    """

    word: int = 31
    symbols: int = 15
    chunk: int = 8
    d_model: int = 64
    num_heads: int = 4
    trained: tuple[str, ...] = (FULL, "4", "2", "1")
    steps: int = 400
    batch_size: int = 32
    lr: float = 1e-3
    texts: int = 512
    seed: int = 0

    def __post_init__(self) -> None:
        problems = [
            f"trained has {way!r}, wanted some of {', '.join(ASKED)}" for way in self.trained if way not in ASKED
        ]
        problems += [] if self.trained else ["nothing is trained"]
        if min(self.word, self.symbols, self.chunk) < 1 or self.symbols < 2:
            problems.append(f"words of {self.word} of {self.symbols} symbols in chunks of {self.chunk}")
        require("DuplicationSettings", problems)

    @property
    def length(self) -> int:
        return 2 * (self.word + 1)


def config(settings: DuplicationSettings, way: str, *, hash_seed: int | None = None) -> ReformerConfig:
    """One layer that attends in this way. The weights fit every way."""
    length, width = settings.length, settings.d_model
    hashed: dict[str, Any] = {"rounds": 1, "num_buckets": 1, "lsh_chunk": length}
    if way != FULL:
        hashed = {"rounds": int(way), "num_buckets": None, "lsh_chunk": settings.chunk}
    return ReformerConfig(
        vocab_size=settings.symbols + 1,
        d_model=width,
        num_layers=1,
        layers=("lsh",),
        num_heads=settings.num_heads,
        d_head=width // settings.num_heads,
        d_ff=width,
        max_length=length,
        axial_shape=None,
        rules="paper",
        hash_seed=hash_seed,
        dropout=0.0,
        **hashed,
    )


@dataclass(frozen=True)
class Doubles:
    """Texts that are never read again: batch number n is a pure function of (settings, seed, n)."""

    settings: DuplicationSettings
    seed: int

    def batch(self, step: int) -> Batch:
        s, generator = self.settings, np.random.default_rng([self.seed, self.settings.word, step])
        word = generator.integers(1, s.symbols + 1, (s.batch_size, s.word))
        zero = np.zeros((s.batch_size, 1), dtype=np.int64)
        ids = np.concatenate([zero, word, zero, word], 1)
        targets = np.full_like(ids, NO_TARGET)
        targets[:, s.word + 1 : -1] = word
        index = np.broadcast_to(np.arange(s.length), ids.shape).copy()
        rows = np.broadcast_to(np.arange(len(ids))[:, None], ids.shape).copy()
        return Batch(ids, targets, index, rows, np.ones(len(ids), dtype=bool), 0)


# --- the experiment -----------------------------------------------------------------------------------------------------


def run(
    out: Path, settings: DuplicationSettings | None = None, *, progress: bool | None = None
) -> dict[str, Any] | None:
    """Train each, ask each in every way, and give the table. What stands in `out` already is gone on with. None: stopped."""
    settings = settings or DuplicationSettings()
    accuracy = {}
    for way in settings.trained:
        model = trained(settings, way, out / name_of(way), progress=progress)
        if model is None:
            return None
        accuracy[way] = {asked: ask(model, settings, asked) for asked in ASKED}
    return {"chance": 1 / settings.symbols, "accuracy": accuracy, "settings": to_dict(settings)}


def name_of(way: str) -> str:
    """full, lsh-4."""
    return way if way == FULL else f"lsh-{way}"


def trained(settings: DuplicationSettings, way: str, folder: Path, *, progress: bool | None = None) -> nn.Module | None:
    """The model that was trained in this way, from its run folder where that is finished. None: stopped by a signal."""
    if not (folder / "model").is_dir():
        asked = TrainSettings(
            steps=settings.steps, batch_size=settings.batch_size, seq_len=settings.length, lr=settings.lr, warmup=50,
            min_lr_ratio=0.1, weight_decay=0.0, betas=(0.9, 0.98), precision="float32", compile="off", eval_every=0,
            checkpoint_every=500, seed=settings.seed,
        )  # fmt: skip
        result = train(
            Reformer(config(settings, way), seed=settings.seed),
            asked,
            Doubles(settings, settings.seed),
            out=folder,
            recipe={"name": f"duplication.{name_of(way)}", "data": to_dict(settings)},
            resume=(folder / "recipe.json").is_file(),
            save_model=_save,
            progress=progress,
            resume_command="the same command",
            fresh=False,
        )
        if result.interrupted:
            return None
    return load(folder / "model")


def _save(model: nn.Module, folder: Path) -> None:
    save(model, folder)


@torch.no_grad()
def ask(model: nn.Module, settings: DuplicationSettings, way: str) -> float:
    """The share of right tokens, attending in this way; every batch of texts is hashed by rotations of its own."""
    view, hits, count = Doubles(settings, settings.seed + 1), 0, 0
    for number in range(max(1, -(-settings.texts // settings.batch_size))):
        asked = Reformer(config(settings, way, hash_seed=number))
        asked.load_state_dict(model.state_dict())
        batch = view.batch(number)
        with evaluating(asked):
            answer = asked(torch.from_numpy(batch.input_ids)).logits.argmax(-1).numpy()
        scored = batch.targets != NO_TARGET
        hits, count = hits + int((answer == batch.targets)[scored].sum()), count + int(scored.sum())
    return hits / count


def verdict(result: dict[str, Any]) -> Verdict:
    """Whether models that hash solve the task, do better with more rounds, and how full attention fares in their place."""
    accuracy = result["accuracy"]
    hashed = {way: shares for way, shares in accuracy.items() if way != FULL}
    solved = {way: shares["8"] for way, shares in hashed.items()}
    rising = all(a <= b + 0.01 for s in hashed.values() for a, b in zip(_by_rounds(s), _by_rounds(s)[1:], strict=False))
    figures: dict[str, Any] = {f"{name_of(way)}, asked with 8": share for way, share in solved.items()}
    figures |= {f"{name_of(way)}, asked with full": shares[FULL] for way, shares in accuracy.items()}
    claim = f"the duplication task: above {SOLVED:.0%} by hashing, and more rounds answer better"
    best = max(solved.values(), default=0.0)
    word = "reproduced" if best > SOLVED and rising else "not reproduced"
    if word == "not reproduced" and best > 2 * result["chance"] and rising:
        word = "smaller effect"
    return Verdict(claim, word, figures)


def _by_rounds(shares: dict[str, float]) -> list[float]:
    return [shares[way] for way in ("1", "2", "4", "8")]
