"""Evaluation: loss, bits per byte, perplexity, accuracy, and loss by position in the document."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from formers.training.batches import CarriedStates, View, lane_rows, to_tensors
from formers.training.distributed import Team

EDGES = (0, *(2**power for power in range(4, 31)))
"""Where the stretches of documents begin: 0, 16, 32, 64, .."""


@dataclass(frozen=True)
class Evaluation:
    """Means over all scored tokens, in nats where nothing else is said.

    tokens         targets that were scored
    bits_per_byte  compares across tokenizers; None where the view counts no bytes
    by_position    for each stretch of a document: start, end, loss, count
    second         of a second loss: pair_loss, pair_accuracy, ..
    counted        targets of a second loss, by its name: pair, ..
    """

    loss: float
    bits_per_byte: float | None
    perplexity: float
    accuracy: float
    tokens: int
    by_position: tuple[dict[str, Any], ...]
    second: dict[str, float] = field(default_factory=dict)
    counted: dict[str, int] = field(default_factory=dict)

    def row(self) -> dict[str, Any]:
        """As a line of metrics.jsonl holds it."""
        names = ("loss", "bits_per_byte", "perplexity", "accuracy")
        return {**{name: getattr(self, name) for name in names}, **self.second, "by_position": list(self.by_position)}


def evaluate(
    objective: nn.Module,
    view: View,
    *,
    batches: int = 0,
    documents_apart: bool = True,
    states: CarriedStates | None = None,
    device: str = "cpu",
    team: Team | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Score `batches` batches of a view (0: all of them) with `objective`, which may be wrapped.

    The model is put into evaluation mode for the time. `states` carries rows on where the view goes through documents in
    order. Under a team every process scores its share of the rows, and all return the same result. `progress` is told after
    each batch how many of how many are done.
    """
    team, states = team or Team(), states or CarriedStates()
    total, size, further = np.zeros((3, len(EDGES))), 0, {}
    with evaluating(objective):
        many = _available(view, batches)
        for number in range(many):
            batch = view.batch(number)
            rows = lane_rows(batch, team.rank, team.world)
            micro = to_tensors(rows, device, apart=documents_apart, carried=states.model is not None)
            state = states.before(0, micro.fresh)
            losses, correct, staged, *more = objective(*micro.arguments(), state, scores=True, **micro.given)
            states.after(0, staged)
            states.commit()
            total += _sums(losses, correct, rows)
            for name, sums in (more[0] if more else {}).items():
                further[name] = further.get(name, 0.0) + sums.double()
            size += batch.bytes
            if progress is not None:
                progress(number + 1, many)
    summed = team.total(torch.from_numpy(total).to(device)) if team.world > 1 else torch.from_numpy(total)
    second = {name: team.total(sums).tolist() for name, sums in further.items()}
    return _means(summed.cpu().numpy(), size, second)


@contextlib.contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode, no gradients, and no compiling of a graph that is used this once. Modes are put back."""
    modes = {child: child.training for child in module.modules()}
    module.eval()
    try:
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            yield
    finally:
        for child, mode in modes.items():
            child.training = mode


def _available(view: Any, asked: int) -> int:
    """How many batches to score. A view without an end is scored for as many as asked, or 50."""
    try:
        there = len(view)
    except TypeError:
        return asked or 50
    return min(asked, there) if asked else there


def stretches(index: np.ndarray) -> np.ndarray:
    """Which stretch of its document each place lies in: a number of EDGES."""
    return np.searchsorted(EDGES, index, side="right") - 1


def _sums(losses: Tensor, correct: Tensor, rows: Any) -> np.ndarray:
    """Loss, hits and count for each stretch of documents, float64 [3, stretches]."""
    scored = rows.targets != -100
    stretch = stretches(rows.index[scored])
    weights = (losses.double().cpu().numpy()[scored], correct.cpu().numpy()[scored], np.ones(len(stretch)))
    return np.stack([np.bincount(stretch, weights=weight, minlength=len(EDGES)) for weight in weights])


def _means(total: np.ndarray, size: int, second: dict[str, list[float]]) -> Evaluation:
    loss, hits, count = total.sum(1)
    mean = loss / max(count, 1)
    return Evaluation(
        loss=float(mean),
        bits_per_byte=float(loss / math.log(2) / size) if size else None,
        perplexity=math.exp(min(mean, 700.0)),
        accuracy=float(hits / max(count, 1)),
        tokens=int(count),
        by_position=tuple(
            {"start": start, "end": end, "loss": float(total[0, i] / total[2, i]), "count": int(total[2, i])}
            for i, (start, end) in enumerate(zip(EDGES, (*EDGES[1:], 2**31), strict=True))
            if total[2, i]
        ),
        second={
            f"{name}_{what}": value / max(sums[2], 1)
            for name, sums in second.items()
            for what, value in (("loss", sums[0]), ("accuracy", sums[1]))
        },
        counted={name: int(sums[2]) for name, sums in second.items()},
    )
