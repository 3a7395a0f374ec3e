"""Recipes of the Reformer, by size: hashed and local attention in turns, in reversible layers."""

from __future__ import annotations

from formers.models import registry
from formers.recipes.recipe import DataSettings, Recipe
from formers.training.settings import TrainSettings

_NO_DROPOUT = {"dropout": 0.0, "lsh_dropout": 0.0, "local_dropout": 0.0}
"""Runs of less than one pass over the text cannot learn it by heart."""


def nano() -> Recipe:
    """0.2 million parameters: a minute, to see that all of it works."""
    return Recipe(
        name="reformer.nano",
        model=registry.configure("reformer", "nano", **_NO_DROPOUT),
        data=DataSettings(vocab_size=512),
        train=TrainSettings(steps=300, batch_size=16, seq_len=128, lr=3e-3, eval_every=100, checkpoint_every=100),
    )


def tiny() -> Recipe:
    """4.3 million parameters: the tokens that gpt2.tiny reads. At this length hashing costs more than it saves."""
    return Recipe(
        name="reformer.tiny",
        model=registry.configure("reformer", "tiny", **_NO_DROPOUT),
        data=DataSettings(vocab_size=4096),
        train=TrainSettings(steps=1200, batch_size=8, seq_len=256, lr=2e-3, warmup=40),
    )


def long() -> Recipe:
    """1 million parameters on bytes, 4,096 of them a text: what hashing is for."""
    return Recipe(
        name="reformer.long",
        model=registry.configure(
            "reformer",
            None,
            vocab_size=257,
            d_model=128,
            num_layers=4,
            num_heads=2,
            max_length=4096,
            axial_widths=(32, 96),
            rounds=2,
            ff_chunks=4,
            **_NO_DROPOUT,
        ),
        data=DataSettings(tokenizer="byte"),
        train=TrainSettings(steps=1000, batch_size=1, seq_len=4096, lr=1e-3, warmup=40),
    )


RECIPES = (nano, tiny, long)
