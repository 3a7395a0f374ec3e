"""Recipes of Memorizing Transformers, by size. Rows carry documents on with their memories. Times are of two CPU cores."""

from __future__ import annotations

from formers.models import registry
from formers.recipes.recipe import STRETCH, DataSettings, Recipe
from formers.training.settings import TrainSettings


def nano() -> Recipe:
    """0.1 million parameters: a minute, to see that all of it works."""
    return Recipe(
        name="memorizing.nano",
        model=registry.configure("memorizing", "nano"),
        data=DataSettings(vocab_size=512, view="streams", longest=STRETCH),
        train=TrainSettings(
            steps=300, batch_size=16, seq_len=64, carry_state=True, lr=3e-3, eval_every=100, checkpoint_every=100
        ),
    )


def tiny() -> Recipe:
    """2.6 million parameters and 8,192 entries a head: the same tokens as gpt2.tiny, to compare with it."""
    return Recipe(
        name="memorizing.tiny",
        model=registry.configure("memorizing", "tiny"),
        data=DataSettings(vocab_size=4096, view="streams", longest=STRETCH),
        train=TrainSettings(steps=1200, batch_size=16, seq_len=128, carry_state=True, lr=2e-3, warmup=40),
    )


def mini() -> Recipe:
    """14 million parameters and 8,192 entries a head: some hours."""
    return Recipe(
        name="memorizing.mini",
        model=registry.configure("memorizing", "mini"),
        data=DataSettings(vocab_size=8192, view="streams", longest=STRETCH),
        train=TrainSettings(
            steps=5000,
            batch_size=32,
            seq_len=512,
            carry_state=True,
            lr=1e-3,
            warmup=200,
            eval_every=500,
            checkpoint_every=250,
        ),
    )


RECIPES = (nano, tiny, mini)
