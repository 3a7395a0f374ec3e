"""Recipes of DistilBERT, by size: masked tokens, without a teacher."""

from __future__ import annotations

from formers.models import registry
from formers.recipes.recipe import NANO_STD, TINY_STD, DataSettings, Recipe
from formers.training.settings import TrainSettings

_NO_DROPOUT = {"dropout": 0.0, "attention_dropout": 0.0}
"""Runs of less than one pass over the text cannot learn it by heart."""


def nano() -> Recipe:
    """0.2 million parameters: half a minute, to see that all of it works."""
    return Recipe(
        name="distilbert.nano",
        model=registry.configure("distilbert", "nano", vocab_size=1024, init_std=NANO_STD, **_NO_DROPOUT),
        data=DataSettings(tokenizer="wordpiece", vocab_size=1024),
        train=TrainSettings(steps=300, batch_size=16, seq_len=128, lr=3e-3, eval_every=100, checkpoint_every=100),
    )


def tiny() -> Recipe:
    """The budget of bert.tiny, to compare with it."""
    return Recipe(
        name="distilbert.tiny",
        model=registry.configure("distilbert", "tiny", init_std=TINY_STD, **_NO_DROPOUT),
        data=DataSettings(tokenizer="wordpiece", vocab_size=4096),
        train=TrainSettings(steps=1200, batch_size=8, seq_len=256, lr=1e-3, warmup=100),
    )


RECIPES = (nano, tiny)
