"""Recipes of GPT-2, by size. Times are of two CPU cores."""

from __future__ import annotations

from formers.models import registry
from formers.recipes.recipe import DataSettings, Recipe
from formers.training.settings import TrainSettings

_NO_DROPOUT = {"dropout": 0.0, "attention_dropout": 0.0, "embedding_dropout": 0.0}
"""Runs of less than one pass over the text cannot learn it by heart."""


def nano() -> Recipe:
    """0.1 million parameters: half a minute, to see that all of it works."""
    return Recipe(
        name="gpt2.nano",
        model=registry.configure("gpt2", "nano", **_NO_DROPOUT),
        data=DataSettings(vocab_size=512),
        train=TrainSettings(steps=300, batch_size=16, seq_len=128, lr=3e-3, eval_every=100, checkpoint_every=100),
    )


def tiny() -> Recipe:
    """2.6 million parameters: a few minutes to text that looks like the training text."""
    return Recipe(
        name="gpt2.tiny",
        model=registry.configure("gpt2", "tiny", **_NO_DROPOUT),
        data=DataSettings(vocab_size=4096),
        train=TrainSettings(steps=1200, batch_size=8, seq_len=256, lr=2e-3, warmup=40),
    )


def mini() -> Recipe:
    """14 million parameters: some hours, and the size of the project's speed benchmarks."""
    return Recipe(
        name="gpt2.mini",
        model=registry.configure("gpt2", "mini", **_NO_DROPOUT),
        data=DataSettings(vocab_size=8192),
        train=TrainSettings(
            steps=5000, batch_size=32, seq_len=512, lr=1e-3, warmup=200, eval_every=500, checkpoint_every=250
        ),
    )


def small() -> Recipe:
    """The published 124 million parameters with GPT-2's own vocabulary: for a GPU, or for patience."""
    return Recipe(
        name="gpt2.small",
        model=registry.configure("gpt2", "small", **_NO_DROPOUT),
        data=DataSettings(tokenizer="gpt2"),
        train=TrainSettings(
            steps=20_000,
            batch_size=64,
            seq_len=1024,
            accumulate=8,
            lr=6e-4,
            warmup=700,
            eval_every=500,
            checkpoint_every=250,
        ),
    )


RECIPES = (nano, tiny, mini, small)
