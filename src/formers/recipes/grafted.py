"""Recipes for a decoder that was given a memory (formers graft): the model is the one that --init names.

They differ in what learns, and so in the learning rate; `--train.only` says it otherwise. Gates begin shut, and a number moves
by the rate a step: theirs is 3e-2 everywhere, or nothing that a memory finds is heard for hundreds of steps. Times are of two
CPU cores.
"""

from __future__ import annotations

from typing import Any

from formers.models import registry
from formers.recipes.recipe import STRETCH, DataSettings, Recipe
from formers.training.settings import TrainSettings


def gates() -> Recipe:
    """Of a grafted model the gates alone, a number a head: a minute. All else stays as it was trained."""
    return _tuning("gates", only=("gates",), steps=100, lr=3e-2, warmup=5)


def memory() -> Recipe:
    """Of a grafted model the layers that were given a memory, with their gates: some minutes."""
    return _tuning("memory", only=("memory",), steps=300, lr=1e-3, lr_factors=("gates=30",))


def whole() -> Recipe:
    """All of a grafted model."""
    return _tuning("whole", only=("all",), steps=1000, lr=3e-4, warmup=50, lr_factors=("gates=100",))


def _tuning(name: str, **train: Any) -> Recipe:
    return Recipe(
        name=f"grafted.{name}",
        model=registry.configure("grafted", "nano"),
        data=DataSettings(vocab_size=512, view="streams", longest=STRETCH),
        train=TrainSettings(batch_size=8, seq_len=256, carry_state=True, **train),
        from_init=True,
    )


RECIPES = (gates, memory, whole)
