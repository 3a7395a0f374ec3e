"""Recipes of the Block-Recurrent Transformer, by size: a step reads several blocks, and gradients go from one to the next."""

from __future__ import annotations

from formers.models import registry
from formers.recipes.recipe import STRETCH, DataSettings, Recipe
from formers.training.settings import TrainSettings


def nano() -> Recipe:
    """0.2 million parameters: three minutes, to see that all of it works. Four blocks a step."""
    return Recipe(
        name="block_recurrent.nano",
        model=registry.configure("block_recurrent", "nano"),
        data=DataSettings(vocab_size=512, view="streams", longest=STRETCH),
        train=TrainSettings(
            steps=300, batch_size=8, seq_len=256, lr=3e-3, eval_every=100, checkpoint_every=100, carry_state=True
        ),
    )


def tiny() -> Recipe:
    """2.9 million parameters: the same tokens a step as gpt2.tiny, in four blocks."""
    return Recipe(
        name="block_recurrent.tiny",
        model=registry.configure("block_recurrent", "tiny"),
        data=DataSettings(vocab_size=4096, view="streams", longest=STRETCH),
        train=TrainSettings(steps=1200, batch_size=4, seq_len=512, lr=2e-3, warmup=40, carry_state=True),
    )


RECIPES = (nano, tiny)
