"""Recipes of DeBERTa 3, by size: a generator fills the gaps, and the model tells which tokens it replaced (2111.09543)."""

from __future__ import annotations

from formers.models import registry
from formers.recipes.recipe import DataSettings, Recipe
from formers.training.settings import TrainSettings

_NO_DROPOUT = {"dropout": 0.0, "attention_dropout": 0.0}
"""Runs of less than one pass over the text cannot learn it by heart."""


def nano() -> Recipe:
    """0.2 million parameters, and a generator of half the layers: a minute, to see that all of it works."""
    return Recipe(
        name="deberta_v2.nano",
        model=registry.configure("deberta_v2", "nano", vocab_size=1024, **_NO_DROPOUT),
        data=DataSettings(tokenizer="wordpiece", vocab_size=1024),
        train=TrainSettings(
            objective="replaced_token",
            steps=300,
            batch_size=16,
            seq_len=128,
            lr=1e-3,
            eval_every=100,
            checkpoint_every=100,
        ),
    )


def tiny() -> Recipe:
    """The text of bert.tiny; with its generator a step costs half as much again."""
    return Recipe(
        name="deberta_v2.tiny",
        model=registry.configure("deberta_v2", "tiny", **_NO_DROPOUT),
        data=DataSettings(tokenizer="wordpiece", vocab_size=4096),
        train=TrainSettings(objective="replaced_token", steps=1200, batch_size=8, seq_len=256, lr=1e-3, warmup=40),
    )


RECIPES = (nano, tiny)
