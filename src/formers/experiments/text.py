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
    cached_shards,
    gzip_bits_per_byte,
    open_shards,
    unigram_bits_per_byte,
)
from formers.errors import TargetError
from formers.recipes import DataSettings, Recipe, TrainSettings

Config = TypeVar("Config")

VIEWS: dict[str, type[View]] = {"windows": Windows, "packed": Packed, "streams": Streams}

BASELINE_BYTES = 1 << 26
"""Validation text up to this size is compressed with gzip -9, which takes about a second for each 10 MB."""


def shards_of(settings: DataSettings, *, folder: Path | str | None = None, quiet: bool = False) -> Shards:
    """The shards in `folder`, or those of the settings' sources, built once and cached.

    Raises DataError for sources, folders or vocabularies that cannot be had.
    """
    if folder is None:
        folder = cached_shards(settings.sources, **settings.building(), quiet=quiet)
    return open_shards(folder)


def prepare(
    recipe: Recipe[Config],
    *,
    files: Sequence[str] = (),
    folder: Path | str | None = None,
    init: str | None = None,
    quiet: bool = False,
) -> tuple[Recipe[Config], Shards]:
    """The recipe with the text that is meant, and its shards.

    files   sources in place of the recipe's
    folder  a shard folder in place of any sources
    init    a model whose tokenizer the text is cut with

    Raises DataError for text that cannot be had.
    """
    data = recipe.data if not files else dataclasses.replace(recipe.data, sources=tuple(files))
    if init is not None and folder is None:
        data = dataclasses.replace(data, tokenizer=str(_tokenizer_folder(init)), vocab_size=None)
    shards = shards_of(data, folder=folder, quiet=quiet)
    return as_built(dataclasses.replace(recipe, data=data), shards), shards


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
        "tokenizer": meta["tokenizer_kind"]
        if recipe.data.tokenizer in ("bpe", "byte", "char")
        else recipe.data.tokenizer,
        "vocab_size": meta["vocab_size"] if meta["tokenizer_kind"] == "bpe" else None,
        "validation": meta["validation"],
        "separator": meta["separator"],
        "text_field": meta["text_field"],
        "split_seed": meta["seed"],
    }
    return dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, **known))


def training_view(shards: Shards, data: DataSettings, train: TrainSettings) -> View:
    """The rows that are trained on."""
    return VIEWS[data.view](shards, split="train", batch_size=train.batch_size, seq_len=train.seq_len, seed=data.seed)


def validation_view(shards: Shards, *, batch_size: int, seq_len: int, carried: bool, seed: int = 0) -> View | Spread:
    """Every token of the validation split once. Rows that are not carried on come in a shuffled order, so that the first
    few batches are a fair sample of all of them."""
    sizes = {"batch_size": batch_size, "seq_len": seq_len}
    if carried:
        return Sequential(shards, split="validation", **sizes)
    return Spread(Sequential(shards, split="validation", stride=seq_len, **sizes), seed)


class Spread:
    """The batches of a finite view in an order that `seed` decides."""

    def __init__(self, view: Sequential, seed: int) -> None:
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
    """What needs no training, on the same validation bytes."""

    shards: Shards

    @cached_property
    def values(self) -> dict[str, float]:
        """Bits per byte by name, as evaluation rows hold them."""
        found = {"unigram_bits_per_byte": unigram_bits_per_byte(self.shards)}
        if self.shards.meta["bytes"]["validation"] <= BASELINE_BYTES:
            found["gzip_bits_per_byte"] = gzip_bits_per_byte(self.shards)
        return found
