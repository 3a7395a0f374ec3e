"""A recipe: everything a training is made of, as one frozen dataclass that goes to JSON and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

from formers.config import from_dict, require, to_dict
from formers.training.settings import TrainSettings

Config = TypeVar("Config")

VIEWS = ("windows", "packed", "streams")

STRETCH = 16_384
"""Tokens of a document that a row of our recipes reads before it goes on to another. With whole documents of 100,000 tokens a
batch was the same few documents for hundreds of steps, and a memory was not learnt to be used (docs/log.md)."""

NANO_STD, TINY_STD = 0.08, 0.04
"""First weights of narrow encoders: 0.02 was made for widths of 768 and more. From it, at 192, a BERT foretold every token by
its frequency alone for 700 steps, where from 0.04 it had left that behind after 120 (docs/log.md)."""


@dataclass(frozen=True)
class DataSettings:
    """Text, its tokenizer, and how rows are cut from it."""

    sources: tuple[str, ...] = ("stdlib",)
    """stdlib, files, folders, globs, .jsonl, .parquet, hf:NAME. Files named on the command line take their place."""
    tokenizer: str = "bpe"
    """bpe (trained on the text), byte, char, gpt2, or a folder with a tokenizer.json."""
    vocab_size: int | None = None
    """Tokens of a bpe vocabulary (4096 where none); the other tokenizers have their own."""
    view: Literal["windows", "packed", "streams"] = "windows"
    """windows: rows from random places; packed: whole documents side by side; streams: rows carry documents on."""
    longest: int | None = None
    """streams: tokens of a document that a row reads before it goes on to another; none: all of it."""
    validation: float = 0.1
    """Share of the documents that is held out."""
    separator: str | None = None
    """What divides a text file into documents; none: a file is a document."""
    text_field: str = "text"
    """The field of JSON lines, the column of Parquet files and data sets."""
    split_seed: int = 0
    """Decides which documents are held out."""
    seed: int = 0
    """Decides which rows come when."""

    def __post_init__(self) -> None:
        problems = [] if self.sources else ["sources is empty, wanted at least one"]
        if not 0 < self.validation < 1:
            problems.append(f"validation is {self.validation}, wanted a share between 0 and 1")
        if self.view not in VIEWS:
            problems.append(f"view is {self.view!r}, wanted one of {', '.join(VIEWS)}")
        if self.longest is not None and self.longest < 1:
            problems.append(f"longest is {self.longest}, wanted 1 or more, or none")
        require("DataSettings", problems)

    def building(self) -> dict[str, Any]:
        """The arguments of ``formers.data.build`` and ``cached_shards``, the sources aside."""
        names = ("tokenizer", "vocab_size", "validation", "separator", "text_field")
        return {name: getattr(self, name) for name in names} | {"seed": self.split_seed}


@dataclass(frozen=True)
class Recipe(Generic[Config]):
    """What is trained, on what, and how.

    name   as it is called: gpt2.tiny, or file.py:function
    model  the config. Its vocab_size gives way to the tokenizer's when a training begins
    data   text and rows
    train  the loop
    seed   of the initial weights
    from_init  the model is the one that --init names, of the architecture of `model`, which only stands for it
    code   file.py:function, where the config is the user's own: whoever reads the recipe back finds its class there
    """

    name: str
    model: Config
    data: DataSettings = field(default_factory=DataSettings)
    train: TrainSettings = field(default_factory=TrainSettings)
    seed: int = 0
    code: str | None = None
    from_init: bool = False

    def __post_init__(self) -> None:
        if self.train.carry_state and self.data.view != "streams":
            found = f"train.carry_state is on, and the view is {self.data.view!r}, whose rows all begin anew"
            require("Recipe", [f"{found}: wanted data.view 'streams' (on the command line --text.view streams)"])

    @property
    def architecture(self) -> str:
        """The name that the config gives its architecture, or the name of its class."""
        return str(getattr(self.model, "architecture", type(self.model).__name__))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; see `from_json`."""
        return {"name": self.name, "architecture": self.architecture, **to_dict(self)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any], kind: type[Config]) -> Recipe[Config]:
        """A recipe whose config is of class `kind`. Raises ConfigError that lists every unknown or ill-typed setting."""
        known = {item.name for item in dataclasses.fields(cls)}
        settings = {name: value for name, value in data.items() if name in known}
        parts: dict[str, type] = {"model": kind, "data": DataSettings, "train": TrainSettings}
        built = {name: from_dict(parts[name], settings[name]) for name in parts if name in settings}
        return cls(**settings | built)

    def build(self, *, vocab_size: int | None = None) -> Any:
        """A new model with weights drawn from `seed`; the vocabulary is the config's unless one is given."""
        config = self.model if vocab_size is None else with_vocabulary(self.model, vocab_size)
        if hasattr(config, "build"):
            return config.build(self.seed)  # type: ignore[attr-defined]
        from formers.models.registry import of_config

        return of_config(config).load().MODEL(config, seed=self.seed)


def with_vocabulary(config: Config, vocab_size: int) -> Config:
    """The config with another vocab_size."""
    return dataclasses.replace(config, vocab_size=vocab_size)  # type: ignore[type-var]


def with_seed(recipe: Recipe[Config], seed: int) -> Recipe[Config]:
    """Weights, rows and dropout by `seed`; which documents are held out stays, so that runs remain comparable."""
    data, train = dataclasses.replace(recipe.data, seed=seed), dataclasses.replace(recipe.train, seed=seed)
    return dataclasses.replace(recipe, seed=seed, data=data, train=train)
