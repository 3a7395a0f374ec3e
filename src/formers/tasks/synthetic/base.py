"""What every synthetic task is: rows of its own making, batches of them, and a score where the answer is determined."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from formers.config import below_one, require
from formers.data.batch import NO_TARGET, Batch

NOT_ASKED = -1
TRAINING, EVALUATION = 0, 1


@dataclass(frozen=True)
class Settings:
    """How many rows, and which.

    batch_size       rows of a batch
    seed             of the rows that are trained on
    rows             that a score asks
    evaluation_seed  of those: the same for every seed of a training, and none of its rows
    """

    batch_size: int = 32
    seed: int = 0
    rows: int = 256
    evaluation_seed: int = 0

    def __post_init__(self) -> None:
        require("Settings", below_one(self, ("batch_size", "rows")))


@dataclass(frozen=True)
class Row:
    """One text.

    ids      int64 [seq]
    targets  int64 [seq]  the next token where it is learnt, -100 elsewhere
    group    int64 [seq]  what a score counts a token under; -1: not at all
    right    bool [seq, vocab]  tokens that count as right; None: the target alone
    among    bool [seq, vocab]  tokens that are chosen among; None: all
    """

    ids: np.ndarray
    targets: np.ndarray
    group: np.ndarray
    right: np.ndarray | None = None
    among: np.ndarray | None = None

    @classmethod
    def of(cls, text: np.ndarray, asked: np.ndarray, group: np.ndarray | None = None, **more: Any) -> Row:
        """The row of a text [seq + 1], asked for those tokens (bool [seq + 1]) that what stands before them determines."""
        targets = np.where(asked, text, NO_TARGET)[1:]
        group = np.zeros_like(text) if group is None else group
        return cls(text[:-1], targets, np.where(asked, group, NOT_ASKED)[1:], **more)


@dataclass(frozen=True)
class Task:
    """Base of all synthetic tasks. A subclass has a name, a summary, sizes as fields, and says what a row is."""

    name: ClassVar[str]
    summary: ClassVar[str]
    groups: ClassVar[str] = ""
    """What rows are grouped by, as a score names it: ``depth``, ``half``."""

    settings: Settings = field(default_factory=Settings)

    @property
    def vocab_size(self) -> int:
        raise NotImplementedError

    @property
    def seq_len(self) -> int:
        raise NotImplementedError

    @property
    def chance(self) -> float:
        """Accuracy of a guess that knows the task and has not read the row."""
        raise NotImplementedError

    def row(self, generator: np.random.Generator) -> Row:
        raise NotImplementedError

    def rows(self, seed: int, use: int, number: int, count: int) -> list[Row]:
        """So many rows, a pure function of the arguments and of the task's sizes."""
        generator = np.random.default_rng([zlib.crc32(self.name.encode()), seed, use, number])
        return [self.row(generator) for _ in range(count)]

    def batch(self, step: int) -> Batch:
        """Batch number `step`: rows of one document each, never read again."""
        return as_batch(self.rows(self.settings.seed, TRAINING, step, self.settings.batch_size))

    def questions(self) -> list[Row]:
        """The rows that a score asks."""
        return self.rows(self.settings.evaluation_seed, EVALUATION, 0, self.settings.rows)

    def score(self, model: Any) -> dict[str, float]:
        """accuracy and loss (nats) where the answer is determined, over all and by group, chance, and how many were asked."""
        import torch

        from formers.training.evaluate import evaluating

        rows, size, found = self.questions(), self.settings.batch_size, []
        device = next(model.parameters()).device
        with evaluating(model):
            for start in range(0, len(rows), size):
                part = rows[start : start + size]
                logits = model(torch.from_numpy(np.stack([row.ids for row in part])).to(device)).logits
                logits = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1).cpu().numpy()
                found += [judged(row, mine) for row, mine in zip(part, logits, strict=True)]
        return self._summary(*(np.concatenate(column) for column in zip(*found, strict=True)))

    def _summary(self, right: np.ndarray, loss: np.ndarray, group: np.ndarray) -> dict[str, float]:
        summary = {"accuracy": float(right.mean()), "loss": float(loss.mean()), "chance": self.chance}
        summary["questions"] = float(len(right))
        if self.groups:
            summary |= {f"accuracy {self.groups} {g}": float(right[group == g].mean()) for g in np.unique(group)}
        return summary


def judged(row: Row, log_probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of the tokens that count: whether the likeliest is right, the target's loss in nats, and the group."""
    counts = row.group != NOT_ASKED
    asked, targets = log_probabilities[counts], row.targets[counts]
    chosen = asked if row.among is None else np.where(row.among[counts], asked, -np.inf)
    best, every = chosen.argmax(-1), np.arange(len(targets))
    right = best == targets if row.right is None else row.right[counts][every, best]
    return right, -asked[every, targets], row.group[counts]


def as_batch(rows: list[Row]) -> Batch:
    """Rows as a batch: each a document of its own. Its bytes are 0: nothing in it stands for text."""
    ids, targets = np.stack([row.ids for row in rows]), np.stack([row.targets for row in rows])
    index = np.broadcast_to(np.arange(ids.shape[1]), ids.shape).copy()
    document = np.broadcast_to(np.arange(len(rows))[:, None], ids.shape).copy()
    return Batch(ids, targets, index, document, np.ones(len(rows), dtype=bool), 0)
