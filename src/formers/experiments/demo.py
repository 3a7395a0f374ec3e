"""The demo's pieces: its recipe, where it stands, and what its model writes. The command line strings them together."""

from __future__ import annotations

import dataclasses
import shutil
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from formers.data import Shards
from formers.errors import RunError
from formers.experiments.samples import Judged, drawn, written
from formers.hub.targets import read_recipe
from formers.recipes import DataSettings, Recipe
from formers.recipes.gpt2 import tiny

NAME = "demo"
MINUTES = 3.5
"""Of training: with everything else the demo stays within six on two cores."""

PROMPT, NUM_SAMPLES, SAMPLE_TOKENS = "import os\n\n\ndef ", 20, 96


def recipe(minutes: float = MINUTES) -> Recipe:
    """gpt2.tiny on the standard library for so many minutes. Three hundredths are held out: all of it is evaluated."""
    base = tiny()
    train = dataclasses.replace(
        base.train, minutes=minutes, compile="off", eval_every=400, eval_batches=0, checkpoint_every=400
    )
    return dataclasses.replace(base, name=NAME, data=DataSettings(vocab_size=4096, validation=0.03), train=train)


def find(out: Path) -> bool:
    """Whether an interrupted demo stands at `out`, to be gone on with. A finished one is cleared away.

    Raises RunError where something else stands there.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    if not (out / "recipe.json").is_file() or read_recipe(out).get("name") != NAME:
        raise RunError(f"{out} is no run of the demo", "a folder that the demo may replace", "name another --out")
    if (out / "model").is_dir() or not any((out / "checkpoints").glob("step-*")):
        shutil.rmtree(out)
        return False
    return True


@dataclass(frozen=True)
class Writing:
    """What the model wrote, and what single tokens by their frequency would have been."""

    model: Judged
    unigram: Judged

    @property
    def times(self) -> float:
        """How many times the unigram's share the model's is; infinite where the unigram has none."""
        return self.model.share / self.unigram.share if self.unigram.good else float("inf")


def write(model: nn.Module, shards: Shards) -> Writing:
    """Twenty samples of each, always from the same seeds."""
    sizes = {"count": NUM_SAMPLES, "tokens": SAMPLE_TOKENS}
    return Writing(written(model, shards, PROMPT, **sizes), drawn(shards, PROMPT, **sizes))
