"""Recipes of Llama, by size. Times are of two CPU cores."""

from __future__ import annotations

from formers.models import registry
from formers.recipes.recipe import DataSettings, Recipe
from formers.training.settings import TrainSettings


def nano() -> Recipe:
    """0.1 million parameters: half a minute, to see that all of it works."""
    return Recipe(
        name="llama.nano",
        model=registry.configure("llama", "nano"),
        data=DataSettings(vocab_size=512),
        train=TrainSettings(steps=300, batch_size=16, seq_len=128, lr=3e-3, eval_every=100, checkpoint_every=100),
    )


def tiny() -> Recipe:
    """2.4 million parameters: the same budget as gpt2.tiny, to compare with it."""
    return Recipe(
        name="llama.tiny",
        model=registry.configure("llama", "tiny"),
        data=DataSettings(vocab_size=4096),
        train=TrainSettings(steps=1200, batch_size=8, seq_len=256, lr=2e-3, warmup=40),
    )


def mini() -> Recipe:
    """13 million parameters: some hours."""
    return Recipe(
        name="llama.mini",
        model=registry.configure("llama", "mini"),
        data=DataSettings(vocab_size=8192),
        train=TrainSettings(
            steps=5000, batch_size=32, seq_len=512, lr=1e-3, warmup=200, eval_every=500, checkpoint_every=250
        ),
    )


RECIPES = (nano, tiny, mini)
