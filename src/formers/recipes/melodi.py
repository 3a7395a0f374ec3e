"""Recipes of MELODI, by size. A row of a step is several windows, and rows carry documents on with their memories.

What a window hands on is learnt from the next ones in its row. Times are of two CPU cores.
"""

from __future__ import annotations

from formers.models import registry
from formers.recipes.recipe import STRETCH, DataSettings, Recipe
from formers.training.settings import TrainSettings


def nano() -> Recipe:
    """0.1 million parameters: a minute, to see that all of it works."""
    return Recipe(
        name="melodi.nano",
        model=registry.configure("melodi", "nano"),
        data=DataSettings(vocab_size=512, view="streams", longest=STRETCH),
        train=TrainSettings(
            steps=300, batch_size=8, seq_len=128, carry_state=True, lr=3e-3, eval_every=100, checkpoint_every=100
        ),
    )


def tiny() -> Recipe:
    """2.6 million parameters and 1,024 entries a head: the same tokens as memorizing.tiny, to compare with it."""
    return Recipe(
        name="melodi.tiny",
        model=registry.configure("melodi", "tiny"),
        data=DataSettings(vocab_size=4096, view="streams", longest=STRETCH),
        train=TrainSettings(steps=1200, batch_size=8, seq_len=256, carry_state=True, lr=2e-3, warmup=40),
    )


def mini() -> Recipe:
    """14 million parameters and 2,048 entries a head: some hours."""
    return Recipe(
        name="melodi.mini",
        model=registry.configure("melodi", "mini"),
        data=DataSettings(vocab_size=8192, view="streams", longest=STRETCH),
        train=TrainSettings(
            steps=5000,
            batch_size=16,
            seq_len=1024,
            carry_state=True,
            lr=1e-3,
            warmup=200,
            eval_every=500,
            checkpoint_every=250,
        ),
    )


RECIPES = (nano, tiny, mini)
