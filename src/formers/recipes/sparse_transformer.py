"""Recipes of the Sparse Transformer, by size. Times are of two CPU cores."""

from __future__ import annotations

from formers.models import registry
from formers.recipes.recipe import DataSettings, Recipe
from formers.training.settings import TrainSettings

_SHORT = {"dropout": 0.0, "init_scale": 1.0}
"""Runs of less than one pass over the text cannot learn it by heart, and leave the paper's small initial weights late: after
300 steps of nano 3.33 bits per byte, and 3.23 with these."""


def nano() -> Recipe:
    """0.2 million parameters: half a minute, to see that all of it works."""
    return Recipe(
        name="sparse_transformer.nano",
        model=registry.configure("sparse_transformer", "nano", **_SHORT),
        data=DataSettings(vocab_size=512),
        train=TrainSettings(steps=300, batch_size=8, seq_len=256, lr=3e-3, eval_every=100, checkpoint_every=100),
    )


def tiny() -> Recipe:
    """3.4 million parameters: the tokens a step of gpt2.tiny, in texts four times as long."""
    return Recipe(
        name="sparse_transformer.tiny",
        model=registry.configure("sparse_transformer", "tiny", **_SHORT),
        data=DataSettings(vocab_size=4096),
        train=TrainSettings(steps=1200, batch_size=2, seq_len=1024, lr=2e-3, warmup=40),
    )


def images() -> Recipe:
    """0.3 million parameters on images of 16 x 16 pixels, a row an image: `formers data images textures`, then --data."""
    return Recipe(
        name="sparse_transformer.images",
        model=registry.configure("sparse_transformer", "images", **_SHORT),
        data=DataSettings(tokenizer="byte", view="packed"),
        train=TrainSettings(steps=600, batch_size=4, seq_len=768, lr=2e-3, warmup=40),
    )


def enwik8() -> Recipe:
    """The paper's 95 million parameters on bytes, with recomputation (sections 5.4 and 7.2): for a GPU."""
    return Recipe(
        name="sparse_transformer.enwik8",
        model=registry.configure("sparse_transformer", "enwik8", vocab_size=257),
        data=DataSettings(tokenizer="byte"),
        train=TrainSettings(
            steps=50_000,
            batch_size=8,
            seq_len=12288,
            lr=3.5e-4,
            warmup=5000,
            weight_decay=0.01,
            recompute=True,
            eval_every=1000,
            checkpoint_every=500,
        ),
    )


RECIPES = (nano, tiny, images, enwik8)
