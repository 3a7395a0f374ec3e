"""The text of a training: which shards, which rows, and what a model that learns nothing reaches on them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from formers import hub
from formers.data import (
    Batch,
    Packed,
    Sequential,
    Shards,
    Streams,
    View,
    Windows,
    cached_pairs,
    cached_shards,
    equip,
    gzip_bits_per_byte,
    open_shards,
    unigram_bits_per_byte,
)
from formers.data.vocabulary import TRAINED
from formers.errors import TargetError
from formers.experiments.rows import text_baselines, text_view
from formers.models import registry
from formers.recipes import DataSettings, Recipe, TrainSettings
from formers.training.objectives import choose

Config = TypeVar("Config")

VIEWS: dict[str, type[View]] = {"windows": Windows, "packed": Packed, "streams": Streams}

MADE_HERE = (*TRAINED, "byte", "char")
"""Tokenizers that are named by their kind; others by where they come from."""

BASELINE_BYTES = 1 << 26
"""Validation text up to this size is compressed with gzip -9, which takes about a second for each 10 MB."""


def shards_of(
    settings: DataSettings,
    objective: str = "next_token",
    *,
    folder: Path | str | None = None,
    quiet: bool = False,
) -> Shards:
    """The shards in `folder`, or those of the settings' sources, built once and cached, with a tokenizer that has what the
    objective needs.

    Raises DataError for sources, folders or vocabularies that cannot be had.
    """
    if folder is None and objective == "source_to_target":
        of_texts = ("separator", "text_field")
        building = {name: value for name, value in settings.building().items() if name not in of_texts}
        folder = cached_pairs(settings.sources, **building)
    elif folder is None:
        folder = cached_shards(settings.sources, **settings.building(), quiet=quiet)
    return equip(open_shards(folder), objective)


def prepare(
    recipe: Recipe[Config],
    *,
    files: Sequence[str] = (),
    folder: Path | str | None = None,
    init: str | None = None,
    quiet: bool = False,
) -> tuple[Recipe[Config], Shards]:
    """The recipe with the text and the objective that are meant, and its shards.

    files   sources in place of the recipe's
    folder  a shard folder in place of any sources
    init    a model whose tokenizer the text is cut with

    Raises ConfigError for an objective that the model cannot learn, DataError for text that cannot be had.
    """
    recipe = with_objective(recipe, init)
    data = recipe.data if not files else dataclasses.replace(recipe.data, sources=tuple(files))
    if init is not None and folder is None:
        data = dataclasses.replace(data, tokenizer=str(_tokenizer_folder(init)), vocab_size=None)
    shards = shards_of(data, recipe.train.objective, folder=folder, quiet=quiet)
    return as_built(dataclasses.replace(recipe, data=data), shards), shards


def with_objective(recipe: Recipe[Config], init: str | None = None) -> Recipe[Config]:
    """The recipe with its objective named: the one that was asked for, or what the head of its model (of `init`) is for."""
    config = recipe.model if init is None else getattr(hub.resolve(init).model, "config", recipe.model)
    name = choose(recipe.train.objective, _model_class(config), config)
    return dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, objective=name))


def _model_class(config: Any) -> Any:
    """What a config builds; of a user's own nothing is known, and it counts as a decoder."""
    if not hasattr(config, "architecture") or hasattr(config, "build"):
        return None
    return registry.of_config(config).load().MODEL


def _tokenizer_folder(init: str) -> Path:
    folder = hub.resolve(init).folder
    if folder is None or not (folder / "tokenizer.json").is_file():
        raise TargetError(f"{init} has no tokenizer", "a run or model folder with a tokenizer.json")
    return folder


def as_built(recipe: Recipe[Config], shards: Shards) -> Recipe[Config]:
    """The recipe with what these shards were really built from and with, so that its record tells the truth."""
    meta = shards.meta
    known: Mapping[str, Any] = {
        "sources": tuple(map(str, meta["sources"])),
        "tokenizer": meta["tokenizer_kind"] if recipe.data.tokenizer in MADE_HERE else recipe.data.tokenizer,
        "vocab_size": meta.get("text_vocab_size", meta["vocab_size"]) if meta["tokenizer_kind"] in TRAINED else None,
        "validation": meta["validation"],
        "separator": meta["separator"],
        "text_field": meta["text_field"],
        "split_seed": meta["seed"],
    }
    data = dataclasses.replace(recipe.data, **known)
    return dataclasses.replace(recipe, data=data, model=_told_the_tokens(recipe.model, shards))


def _told_the_tokens(config: Config, shards: Shards) -> Config:
    """The config of an encoder-decoder with the tokens that targets begin and end with."""
    tokenizer = shards.tokenizer
    tokens = {"start_token": tokenizer.role("pad"), "end_token": tokenizer.end_of_text}
    known = {name: value for name, value in tokens.items() if hasattr(config, name) and value is not None}
    return dataclasses.replace(config, **known) if known else config  # type: ignore[type-var]


def training_view(shards: Shards, data: DataSettings, train: TrainSettings, *, split: str = "train") -> View:
    """The rows that are trained on; of another `split` rows like them."""
    sizes = {"batch_size": train.batch_size, "seq_len": train.seq_len}
    if train.objective not in ("auto", "next_token"):
        return text_view(shards, train, data.view, split=split, seed=data.seed, **sizes)
    more: dict[str, Any] = {"longest": data.longest} if data.view == "streams" else {}
    return VIEWS[data.view](shards, split=split, seed=data.seed, **sizes, **more)


def validation_view(
    shards: Shards, *, batch_size: int, seq_len: int, carried: bool, seed: int = 0, train: TrainSettings | None = None
) -> View | Spread:
    """Every token of the validation split once. Rows that are not carried on come in a shuffled order, so that the first
    few batches are a fair sample of all of them.

    train  whose objective decides what is asked of the text; None: the next token. Masks, pairs and spans are drawn from
           `seed`, so that they are the same for every run and every evaluation
    """
    sizes = {"batch_size": batch_size, "seq_len": seq_len}
    if train is not None and train.objective not in ("auto", "next_token"):
        return Spread(text_view(shards, train, "every", split="validation", seed=seed, **sizes), seed)
    if carried:
        return Sequential(shards, split="validation", **sizes)
    return Spread(Sequential(shards, split="validation", stride=seq_len, **sizes), seed)


class Spread:
    """The batches of a finite view in an order that `seed` decides."""

    def __init__(self, view: Any, seed: int) -> None:
        self.view, self.shards, self.split = view, view.shards, view.split
        self.seq_len, self.lengths = view.seq_len, view.lengths
        self.order = np.random.default_rng(seed).permutation(len(view))

    def __len__(self) -> int:
        return len(self.order)

    def batch(self, step: int) -> Batch:
        """The batch of a step, counted from 0."""
        return self.view.batch(int(self.order[step]))


@dataclasses.dataclass(frozen=True)
class Baselines:
    """What needs no training, on the same validation text."""

    shards: Shards
    objective: str = "next_token"

    @cached_property
    def values(self) -> dict[str, float]:
        """Bits per byte (of masked tokens: nats a token) by name, as evaluation rows hold them."""
        if self.objective not in ("auto", "next_token"):
            return text_baselines(self.shards, self.objective)
        found = {"unigram_bits_per_byte": unigram_bits_per_byte(self.shards)}
        if self.shards.meta["bytes"]["validation"] <= BASELINE_BYTES:
            found["gzip_bits_per_byte"] = gzip_bits_per_byte(self.shards)
        return found
