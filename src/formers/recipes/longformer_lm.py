"""Recipes of the autoregressive Longformer, by size: the first phase of its training. Times are of two CPU cores."""

from __future__ import annotations

from formers.models import registry
from formers.recipes.recipe import DataSettings, Recipe
from formers.training.settings import TrainSettings

_NO_DROPOUT = {"dropout": 0.0}
"""Runs of less than one pass over the text cannot learn it by heart."""


def nano() -> Recipe:
    """0.1 million parameters: half a minute, to see that all of it works."""
    return Recipe(
        name="longformer_lm.nano",
        model=registry.configure("longformer_lm", "nano", **_NO_DROPOUT),
        data=DataSettings(vocab_size=512),
        train=TrainSettings(steps=300, batch_size=4, seq_len=512, lr=3e-3, eval_every=100, checkpoint_every=100),
    )


def tiny() -> Recipe:
    """2.6 million parameters: the tokens a step of gpt2.tiny, in texts eight times as long."""
    return Recipe(
        name="longformer_lm.tiny",
        model=registry.configure("longformer_lm", "tiny", **_NO_DROPOUT),
        data=DataSettings(vocab_size=4096),
        train=TrainSettings(steps=1200, batch_size=1, seq_len=2048, lr=2e-3, warmup=40),
    )


RECIPES = (nano, tiny)
