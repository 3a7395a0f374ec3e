"""The demo's pieces: who takes part in its tournament, where it stands, and what the first of it writes.

The tournament is a comparison as `formers compare` makes it; the command line strings all of it together.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from formers import laws, recipes
from formers.data import Shards
from formers.errors import RunError
from formers.experiments.budget import Budget
from formers.experiments.compare import CompareSettings
from formers.experiments.entrants import Entry
from formers.experiments.samples import Judged, drawn, written
from formers.files import whole_folder, write_json
from formers.laws.report import Report
from formers.recipes import Recipe

MARK = "demo.json"
"""What tells a demo's folder from any other."""

ENTRANTS = ("gpt2.tiny", "memorizing.tiny", "memory_mosaics.tiny")
"""The first says how large the others are made and what rows are like."""

SIZES: dict[str, dict[str, int]] = {
    "gpt2": {"d_model": 128, "num_heads": 4},
    "memorizing": {"d_model": 128, "num_heads": 4, "d_ff": 552, "memory_size": 1024, "neighbours": 8},
    "memory_mosaics": {"d_model": 128, "num_heads": 4, "memory_size": 480},
}
"""In place of the recipes' own, with which a memory would have no more than two hundred updates in the time."""

VOCABULARY, HELD_OUT, STRETCH = 2048, 0.05, 1024
"""Kinds of tokens, the share of documents that is held out, and the tokens of a document that a row reads in one go."""

DOCUMENTS, LONGEST = 24, 16_384
"""Held-out documents that are read with each, of so many bytes at most: half a minute for all three."""

BEYOND = 9
"""Tokens of a text that the laws try, beyond a segment: 128 and 9 make a prime."""

PROMPT, NUM_SAMPLES, SAMPLE_TOKENS = "import os\n\n\ndef ", 20, 96


def entries() -> list[Entry]:
    """GPT-2, a memorizing transformer and a memory mosaic on the standard library, to be brought to one size."""
    return [Entry(recipe.architecture, _small(recipe)) for recipe in map(recipes.get, ENTRANTS)]


def _small(recipe: Recipe[Any]) -> Recipe[Any]:
    model = dataclasses.replace(recipe.model, **SIZES[recipe.architecture])
    stretch = STRETCH if recipe.data.view == "streams" else None
    text = dataclasses.replace(recipe.data, vocab_size=VOCABULARY, validation=HELD_OUT, longest=stretch)
    return dataclasses.replace(recipe, model=model, data=text)


def settings(minutes: float, seeds: int = 1) -> CompareSettings:
    """Of the comparison. Nothing is compiled: a compiler takes half of such a training's time, and not the same for all."""
    return CompareSettings(
        budget=Budget("minutes", minutes),
        seeds=seeds,
        documents=DOCUMENTS,
        longest=LONGEST,
        train={"compile": "off"},
    )


def certificate(recipe: Recipe[Any]) -> Report:
    """The laws tried on the recipe's model. Texts are a little longer than a segment, so that a memory is asked; such as would
    fill it take a minute."""
    segment = getattr(recipe.model, "segment_length", None)
    longer = None if segment is None else segment + BEYOND
    return laws.certify(recipe.build(), fresh=True, length=longer, target=recipe.name)


# --- where it stands ----------------------------------------------------------------------------------------------------


def find(out: Path, *, minutes: float, seeds: int = 1) -> bool:
    """Whether the demo at `out` is to be gone on with: it was interrupted, or had fewer seeds. Nothing is changed.

    Raises RunError where something else stands there, or a demo that was interrupted in trainings of other minutes.
    """
    found = _mark(out)
    if found is None or (found["minutes"] == minutes and found["ended"] < seeds):
        return found is not None
    if not found["ended"] and any(out.glob("*/recipe.json")):
        raise RunError(
            f"the demo in {out} was interrupted and trains for {found['minutes']:g} minutes, not {minutes:g}",
            "as many minutes for all that are compared",
            f"go on with it by --minutes {found['minutes']:g}, or name another --out",
        )
    return False


def begin(out: Path, *, minutes: float) -> None:
    """A new demo stands at `out`, in place of one that had ended."""
    with whole_folder(out) as fresh:
        write_json(fresh / MARK, {"minutes": minutes, "ended": 0})


def end(out: Path, *, minutes: float, seeds: int, found: Mapping[str, Any]) -> None:
    """The demo has ended, with so many seeds of each; the next one takes its place, or adds seeds. `found` is kept."""
    write_json(out / MARK, {"minutes": minutes, "ended": seeds, **found})


def _mark(out: Path) -> dict[str, Any] | None:
    """What the demo at `out` left there; None where there is nothing. Raises RunError where something else stands."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    if not (out / MARK).is_file():
        raise RunError(f"{out} is no folder of the demo", "one that the demo may replace", "name another --out")
    return json.loads((out / MARK).read_text("utf-8"))


# --- what it writes -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Writing:
    """What the model wrote, and what single tokens by their frequency would have been."""

    model: Judged
    unigram: Judged


def write(model: nn.Module, shards: Shards) -> Writing:
    """Twenty samples of each, always from the same seeds."""
    sizes = {"count": NUM_SAMPLES, "tokens": SAMPLE_TOKENS}
    return Writing(written(model, shards, PROMPT, **sizes), drawn(shards, PROMPT, **sizes))
