"""Recipes: Python functions that say what is trained, on what, and how. Importing this imports no torch.

formers.recipes.names()             # gpt2.nano, gpt2.tiny, ...
recipe = formers.recipes.get("gpt2.tiny")
recipe = formers.recipes.get("mine.py:recipe")      # a function of your own that returns a Recipe
"""

from __future__ import annotations

from formers.recipes.find import get, names, read
from formers.recipes.recipe import DataSettings, Recipe, with_seed, with_vocabulary
from formers.training.settings import TrainSettings

__all__ = ["DataSettings", "Recipe", "TrainSettings", "get", "names", "read", "with_seed", "with_vocabulary"]
