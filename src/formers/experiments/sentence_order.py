"""Sentence order against next sentence: two encoders of one recipe, each trained with one of the two labels beside masked
tokens, and each asked for both (ALBERT, 1909.11942, section 4.6, table 5).

A label of 1 means that the second segment does not follow as it stands: it is of another document, or the two were swapped.
So a head that learnt the one can be asked for the other as it is. The paper's figures are of 125,000 steps: trained for the
next sentence 90.5% and 52.0% of the order, trained for the order 78.9% and 86.5%.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from formers.config import require
from formers.data import Shards, equip
from formers.experiments.claims import Interval, Verdict
from formers.experiments.run import Run
from formers.experiments.text import prepare, validation_view
from formers.hub import targets
from formers.recipes import find
from formers.recipes.recipe import Recipe
from formers.training.evaluate import evaluate
from formers.training.objectives import make_objective

NEXT, ORDER = "next_sentence", "sentence_order"
ROWS = 32
"""Of a batch that is asked."""


@dataclass(frozen=True)
class OrderSettings:
    """recipe: of an encoder with a pretraining head. batches: of 32 validation pairs that are asked; 0: all."""

    recipe: str = "albert.tiny"
    steps: int = 3000
    batch_size: int = 16
    seq_len: int = 128
    lr: float = 1e-3
    batches: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        sizes = ("steps", "batch_size", "seq_len")
        problems = [f"{name} is {getattr(self, name)}, wanted 1 or more" for name in sizes if getattr(self, name) < 1]
        require("OrderSettings", problems)


def run(
    out: Path, settings: OrderSettings, *, data: Path | None = None, progress: bool | None = None
) -> dict[str, Any] | None:
    """Train both into out/OBJECTIVE, ask both for both. What stands there is gone on with; None: a signal stopped it.

    data  a shard folder in place of the recipe's text
    """
    accuracy: dict[str, dict[str, Any]] = {}
    for objective in (NEXT, ORDER):
        recipe, shards = prepare(_recipe(settings, objective), folder=data)
        folder = out / objective
        if not (folder / "model").is_dir():
            training = Run(recipe, shards, folder, resume=(folder / "recipe.json").is_file())
            if training.start(progress=progress, resume_command="the same command").interrupted:
                return None
        asked = {name: _ask(folder, shards, recipe, name, settings) for name in (NEXT, ORDER)}
        accuracy[objective] = asked
    return {"task": "sentence-order", "settings": dataclasses.asdict(settings), "accuracy": accuracy}


def _recipe(settings: OrderSettings, objective: str) -> Recipe[Any]:
    recipe = find.get(settings.recipe)
    changes = {name: getattr(settings, name) for name in ("steps", "batch_size", "seq_len", "lr", "seed")}
    train = dataclasses.replace(recipe.train, objective=objective, minutes=None, **changes)
    return dataclasses.replace(recipe, name=f"{settings.recipe} {objective}", train=train, seed=settings.seed)


def _ask(run: Path, shards: Shards, recipe: Recipe[Any], name: str, settings: OrderSettings) -> dict[str, Any]:
    """The share of validation pairs that a trained model labels rightly, with its interval, and its masked loss there."""
    train = dataclasses.replace(recipe.train, objective=name)
    view = validation_view(equip(shards, name), batch_size=ROWS, seq_len=settings.seq_len, carried=False, train=train)
    objective = make_objective(targets.load(run, dtype=torch.float32), name, precision="float32")
    measured = evaluate(objective, view, batches=settings.batches)
    interval = share(measured.second["pair_accuracy"], measured.counted["pair"])
    return {"interval": interval, "masked_loss": measured.loss}


def share(right: float, count: int) -> Interval:
    """A share of `count` answers with its 95% interval (Wilson's)."""
    z2 = 1.959964**2 / count
    middle, reach = (right + z2 / 2) / (1 + z2), math.sqrt(z2 * right * (1 - right) + z2 * z2 / 4) / (1 + z2)
    return Interval(right, middle - reach, middle + reach, count)


def verdict(result: Mapping[str, Any]) -> Verdict:
    """Reproduced where the order is learnt only by training for it, and serves the next sentence better than chance too; a
    smaller effect where it is learnt only so."""
    of = {(a, b): result["accuracy"][a][b]["interval"] for a in (NEXT, ORDER) for b in (NEXT, ORDER)}
    learnt = of[ORDER, ORDER].low > max(of[NEXT, ORDER].high, 0.5)
    carries_over = of[ORDER, NEXT].low > 0.5
    half_learnt = of[NEXT, ORDER].high > (0.5 + of[ORDER, ORDER].low) / 2  # from next sentence, half of the way or more
    word = "not reproduced"
    if learnt:
        word = "reproduced" if carries_over and not half_learnt else "smaller effect"
    figures = {f"trained for {a}, asked for {b}": of[a, b] for a, b in of}
    return Verdict(
        "training for the order of sentences serves both tasks, for the next one only its own", word, figures
    )  # type: ignore[arg-type]
