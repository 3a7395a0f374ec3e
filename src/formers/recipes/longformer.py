"""Recipes of Longformer, by size: masked tokens in long texts. Times are of two CPU cores."""

from __future__ import annotations

from formers.models import registry
from formers.recipes.recipe import DataSettings, Recipe
from formers.training.settings import TrainSettings

_NO_DROPOUT = {"dropout": 0.0, "attention_dropout": 0.0}
"""Runs of less than one pass over the text cannot learn it by heart."""


def nano() -> Recipe:
    """0.2 million parameters: a minute, to see that all of it works."""
    return Recipe(
        name="longformer.nano",
        model=registry.configure("longformer", "nano", vocab_size=1024, **_NO_DROPOUT),
        data=DataSettings(tokenizer="wordpiece", vocab_size=1024),
        train=TrainSettings(steps=300, batch_size=4, seq_len=512, lr=3e-3, eval_every=100, checkpoint_every=100),
    )


def tiny() -> Recipe:
    """3.5 million parameters: the tokens a step of bert.tiny, in texts eight times as long."""
    return Recipe(
        name="longformer.tiny",
        model=registry.configure("longformer", "tiny", **_NO_DROPOUT),
        data=DataSettings(tokenizer="wordpiece", vocab_size=4096),
        train=TrainSettings(steps=1200, batch_size=1, seq_len=2048, lr=2e-3, warmup=40),
    )


RECIPES = (nano, tiny)
