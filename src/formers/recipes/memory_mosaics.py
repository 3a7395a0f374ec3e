"""Recipes of Memory Mosaics, by size, and the other kinds of block at the size of `tiny`. Times are of two CPU cores."""

from __future__ import annotations

from formers.models import registry
from formers.recipes.recipe import DataSettings, Recipe
from formers.training.settings import TrainSettings


def nano() -> Recipe:
    """0.1 million parameters: half a minute, to see that all of it works."""
    return Recipe(
        name="memory_mosaics.nano",
        model=registry.configure("memory_mosaics", "nano"),
        data=DataSettings(vocab_size=512),
        train=TrainSettings(steps=300, batch_size=16, seq_len=128, lr=3e-3, eval_every=100, checkpoint_every=100),
    )


def tiny() -> Recipe:
    """2.6 million parameters: the tokens of gpt2.tiny, and as many parameters."""
    return _tiny("tiny")


def tiny_context_feed_forward() -> Recipe:
    """`tiny` with feed-forwards in place of persistent memories."""
    return _tiny("tiny_context_feed_forward")


def tiny_attention_persistent() -> Recipe:
    """`tiny` with attention, by rotary positions, in place of context memories."""
    return _tiny("tiny_attention_persistent")


def tiny_attention_feed_forward() -> Recipe:
    """`tiny` with attention and feed-forwards: a transformer in the same frame."""
    return _tiny("tiny_attention_feed_forward")


def mini() -> Recipe:
    """14 million parameters: some hours."""
    return Recipe(
        name="memory_mosaics.mini",
        model=registry.configure("memory_mosaics", "mini"),
        data=DataSettings(vocab_size=8192),
        train=TrainSettings(
            steps=5000, batch_size=32, seq_len=512, lr=1e-3, warmup=200, eval_every=500, checkpoint_every=250
        ),
    )


def _tiny(preset: str) -> Recipe:
    return Recipe(
        name=f"memory_mosaics.{preset}",
        model=registry.configure("memory_mosaics", preset),
        data=DataSettings(vocab_size=4096),
        train=TrainSettings(steps=1200, batch_size=8, seq_len=256, lr=2e-3, warmup=40),
    )


RECIPES = (nano, tiny, tiny_context_feed_forward, tiny_attention_persistent, tiny_attention_feed_forward, mini)
