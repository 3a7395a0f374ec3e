"""Recipes of Transformer-XL, by size: rows carry documents on, a segment a step, so that each step remembers the last."""

from __future__ import annotations

from formers.models import registry
from formers.recipes.recipe import STRETCH, DataSettings, Recipe
from formers.training.settings import TrainSettings

_NO_DROPOUT = {"dropout": 0.0, "attention_dropout": 0.0}
"""Runs of less than one pass over the text cannot learn it by heart."""


def nano() -> Recipe:
    """0.1 million parameters: half a minute, to see that all of it works."""
    return Recipe(
        name="transformer_xl.nano",
        model=registry.configure("transformer_xl", "nano", **_NO_DROPOUT),
        data=DataSettings(vocab_size=512, view="streams", longest=STRETCH),
        train=TrainSettings(
            steps=300, batch_size=32, seq_len=64, lr=3e-3, eval_every=100, checkpoint_every=100, carry_state=True
        ),
    )


def tiny() -> Recipe:
    """2.7 million parameters: the same tokens a step as gpt2.tiny, in segments half as long."""
    return Recipe(
        name="transformer_xl.tiny",
        model=registry.configure("transformer_xl", "tiny", **_NO_DROPOUT),
        data=DataSettings(vocab_size=4096, view="streams", longest=STRETCH),
        train=TrainSettings(steps=1200, batch_size=16, seq_len=128, lr=2e-3, warmup=40, carry_state=True),
    )


def mini() -> Recipe:
    """15 million parameters: some hours."""
    return Recipe(
        name="transformer_xl.mini",
        model=registry.configure("transformer_xl", "mini", **_NO_DROPOUT),
        data=DataSettings(vocab_size=8192, view="streams", longest=STRETCH),
        train=TrainSettings(
            steps=5000,
            batch_size=64,
            seq_len=256,
            lr=1e-3,
            warmup=200,
            eval_every=500,
            checkpoint_every=250,
            carry_state=True,
        ),
    )


RECIPES = (nano, tiny, mini)
