"""Recipes of WaveNet, by size: dilated convolutions as a rival of attention. Times are of two CPU cores."""

from __future__ import annotations

from formers.models import registry
from formers.recipes.recipe import DataSettings, Recipe
from formers.training.settings import TrainSettings


def nano() -> Recipe:
    """0.3 million parameters, 256 tokens heard of: half a minute, to see that all of it works."""
    return Recipe(
        name="wavenet.nano",
        model=registry.configure("wavenet", "nano"),
        data=DataSettings(vocab_size=512),
        train=TrainSettings(steps=300, batch_size=8, seq_len=256, lr=3e-3, eval_every=100, checkpoint_every=100),
    )


def tiny() -> Recipe:
    """3.8 million parameters, 1,023 tokens heard of: the tokens a step of gpt2.tiny."""
    return Recipe(
        name="wavenet.tiny",
        model=registry.configure("wavenet", "tiny"),
        data=DataSettings(vocab_size=4096),
        train=TrainSettings(steps=1200, batch_size=2, seq_len=1024, lr=2e-3, warmup=40),
    )


RECIPES = (nano, tiny)
