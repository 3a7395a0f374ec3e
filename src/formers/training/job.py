"""What a training is asked to do, and how it ended."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from formers.config import to_dict
from formers.files import plain
from formers.training import sentinels
from formers.training.batches import View
from formers.training.objective import parameter_count
from formers.training.settings import TrainSettings

Sampler = Callable[[nn.Module], Sequence[tuple[str, str]]]
"""The model in evaluation mode -> (prompt, text) pairs."""


@dataclass(frozen=True)
class Job:
    """The arguments of `train`; see there."""

    model: nn.Module
    settings: TrainSettings
    train_view: View
    validation_view: View | None
    out: Path
    recipe: Mapping[str, Any]
    resume: bool
    save_model: Callable[[nn.Module, Path], None] | None
    sample: Sampler | None
    baselines: Mapping[str, float] | None
    on_event: Callable[[dict[str, Any]], None] | None
    progress: bool | None
    resume_command: str
    fresh: bool

    @property
    def views(self) -> tuple[View, ...]:
        return tuple(view for view in (self.train_view, self.validation_view) if view is not None)

    @property
    def vocab_size(self) -> int | None:
        """Of the model, None where it does not say."""
        return getattr(getattr(self.model, "config", None), "vocab_size", None)

    def check(self, world: int) -> None:
        """Refuse what cannot be trained: rows that are too long or cannot be dealt out, ids the model does not have."""
        sentinels.check_length(self.model, self.settings.seq_len)
        sentinels.check_tokenizers(self.model, *self.views)
        sentinels.check_rows(self.settings, world)

    def recipe_json(self) -> dict[str, Any]:
        """What recipe.json holds."""
        config = getattr(self.model, "config", None)
        has_config = dataclasses.is_dataclass(config) and not isinstance(config, type)
        return {
            "name": "unnamed",
            "seed": self.settings.seed,
            **self.recipe,
            "architecture": getattr(config, "architecture", type(self.model).__name__),
            "model": to_dict(config) if has_config else dict(self.recipe.get("model", {})),
            "data": dict(self.recipe.get("data", {})),
            "train": to_dict(self.settings),
            "parameters": parameter_count(self.model, frozen=True),
        }

    def identity(self, world: int) -> dict[str, Any]:
        """What the weights of a run depend on, as a checkpoint stores it and a resume compares it."""
        recipe = plain(self.recipe_json())
        recipe["model"] = self._as_runs_of_before(recipe["model"])
        return {
            **{name: recipe[name] for name in ("architecture", "model", "data", "parameters", "seed")},
            "train": plain(self.settings.of_the_weights()),
            "tokenizer": sentinels.check_tokenizers(self.model, *self.views),
            "processes": world,
        }

    def _as_runs_of_before(self, settings: dict[str, Any]) -> dict[str, Any]:
        """A config's settings without those `later` than some runs, where they stand as those runs had them: by default."""
        config = getattr(self.model, "config", None)
        later = getattr(config, "later", ())
        return {n: v for n, v in settings.items() if n not in later or v != plain(getattr(type(config), n))}


@dataclass(frozen=True)
class RunResult:
    """How a training ended.

    evaluation     the last row of kind eval, None where nothing was evaluated
    resumed_from   the step of the checkpoint that it went on from, None where it began anew
    interrupted    the signal that stopped it, None where it came to its end; the command line then exits with 130
    """

    out: Path
    model: nn.Module = field(repr=False)
    steps: int
    tokens: int
    seconds: float
    loss: float | None
    evaluation: dict[str, Any] | None
    resumed_from: int | None
    interrupted: str | None
    resume_command: str
