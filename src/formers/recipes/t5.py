"""Recipes of T5, by size: span corruption. Pairs of texts: FILE.jsonl and ``--train.objective source_to_target``."""

from __future__ import annotations

from typing import Any

from formers.models import registry
from formers.recipes.recipe import DataSettings, Recipe
from formers.training.settings import TrainSettings

ADAFACTOR: dict[str, Any] = {"optimizer": "adafactor", "lr": 3e-2}
"""What the paper trains with. Embeddings begin at N(0, 1), where AdamW, which moves a number by the rate a step, gets nowhere
soon: 4.14 nats against 3.66 after the 300 steps of nano."""


def nano() -> Recipe:
    """0.3 million parameters and gpt2.nano's text: half a minute, to see that all of it works."""
    return Recipe(
        name="t5.nano",
        model=registry.configure("t5", "nano", dropout=0.0),
        data=DataSettings(vocab_size=512),
        train=TrainSettings(steps=300, batch_size=16, seq_len=128, eval_every=100, checkpoint_every=100, **ADAFACTOR),
    )


def tiny() -> Recipe:
    """5 million parameters, in two stacks: the tokens that gpt2.tiny reads."""
    return Recipe(
        name="t5.tiny",
        model=registry.configure("t5", "tiny", dropout=0.0),
        data=DataSettings(vocab_size=4096),
        train=TrainSettings(steps=1200, batch_size=8, seq_len=256, warmup=40, **ADAFACTOR),
    )


def long_nano() -> Recipe:
    """nano with a window of 63 tokens to either side, in texts eight times as long."""
    return Recipe(
        name="t5.long_nano",
        model=registry.configure("t5", "long_nano", dropout=0.0),
        data=DataSettings(vocab_size=512),
        train=TrainSettings(steps=300, batch_size=2, seq_len=1024, eval_every=100, checkpoint_every=100, **ADAFACTOR),
    )


def long_tiny() -> Recipe:
    """tiny with a window of 127 tokens to either side: the tokens a step of tiny, in texts eight times as long."""
    return Recipe(
        name="t5.long_tiny",
        model=registry.configure("t5", "long_tiny", dropout=0.0),
        data=DataSettings(vocab_size=4096),
        train=TrainSettings(steps=1200, batch_size=1, seq_len=2048, warmup=40, **ADAFACTOR),
    )


RECIPES = (nano, tiny, long_nano, long_tiny)
