"""Recipes of ALBERT, by size: masked n-grams and the order of sentences, as in the paper (1909.11942, 3.1 and 4.1)."""

from __future__ import annotations

from formers.models import registry
from formers.recipes.recipe import NANO_STD, TINY_STD, DataSettings, Recipe
from formers.training.settings import TrainSettings


def nano() -> Recipe:
    """0.1 million parameters: half a minute, to see that all of it works."""
    return Recipe(
        name="albert.nano",
        model=registry.configure(
            "albert", "nano", vocab_size=1024, init_std=NANO_STD, head="pretraining", classifier_dropout=0.0
        ),
        data=DataSettings(tokenizer="wordpiece", vocab_size=1024),
        train=TrainSettings(
            masking="ngrams", steps=300, batch_size=16, seq_len=128, lr=3e-3, eval_every=100, checkpoint_every=100
        ),
    )


def tiny() -> Recipe:
    """0.8 million parameters: the budget of bert.tiny, to compare with it."""
    return Recipe(
        name="albert.tiny",
        model=registry.configure("albert", "tiny", init_std=TINY_STD, head="pretraining", classifier_dropout=0.0),
        data=DataSettings(tokenizer="wordpiece", vocab_size=4096),
        train=TrainSettings(masking="ngrams", steps=1200, batch_size=8, seq_len=256, lr=1e-3, warmup=100),
    )


RECIPES = (nano, tiny)
