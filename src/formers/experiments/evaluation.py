"""A trained model on all of a validation split."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from formers.config import from_dict
from formers.data import Shards, equip, open_shards
from formers.errors import ConfigError, DataError
from formers.experiments.run import recorded
from formers.experiments.text import Baselines, shards_of, validation_view
from formers.hub import Resolved
from formers.parts.recollection import recall_of
from formers.training import TrainSettings
from formers.training.batches import CarriedStates, state_length
from formers.training.evaluate import evaluate
from formers.training.objective import accepts
from formers.training.objectives import choose, make_objective
from formers.training.precision import choose_device, choose_precision

ROWS, LENGTH = 16, 512
"""Of a batch, where a run does not say."""


def shards_for(found: Resolved, folder: Path | str | None = None) -> Shards:
    """The shards in `folder`, or those a run was trained on, built again if they are gone; with a tokenizer that has what
    its objective needs.

    Raises DataError where there are none, or where they were cut by another tokenizer than the model's.
    """
    if folder is not None:
        shards = equip(open_shards(folder), objective_of(found))
    elif found.kind == "run" and found.recipe is not None:
        shards = _of_run(found.run or Path(found.name), found.recipe, objective_of(found))
    else:
        raise DataError(f"{found.name} does not say what text it is for", "a shard folder", "add --data FOLDER")
    if found.tokenizer is not None:
        shards.check_tokenizer(found.tokenizer.fingerprint)
    return shards


def objective_of(found: Resolved) -> str:
    """What a model is evaluated on: what its run trained it for, or what its head is for. Raises ConfigError for heads that
    no text teaches, and for a discriminator, whose generator is not kept."""
    asked = (found.recipe or {}).get("train", {}).get("objective", "auto")
    if asked == "replaced_token":
        raise ConfigError(
            f"{found.name} was trained to tell replaced tokens, and the generator that replaced them is not kept",
            "a model that is scored on text alone",
            "its last evaluation stands in its metrics.jsonl; or load it under another head and fine-tune it",
        )
    config = getattr(found.model, "config", None)
    return choose(asked, found.model, config)


def _of_run(run: Path, recipe: dict[str, Any], objective: str) -> Shards:
    from formers.recipes import DataSettings

    folder, *_ = recorded(run)
    return shards_of(from_dict(DataSettings, recipe["data"]), objective, folder=folder)


def evaluate_model(
    found: Resolved,
    shards: Shards,
    *,
    batches: int = 0,
    device: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Loss, bits per byte, perplexity, accuracy, loss by position, and what needs no training on the same bytes.

    `batches` 0: the whole split. Rows have the length that the run was trained with, within the model's limit. Documents
    are read whole, in order, by a model that was trained so, or that came without a run and has no limit of length. recall: of
    approximate look-ups, the share of the truly nearest that was found. `progress` is told of batches done, and of how many.
    """
    recipe, objective_name = (found.recipe or {}).get("train", {}), objective_of(found)
    settings = dataclasses.replace(from_dict(TrainSettings, recipe), objective=objective_name)
    limit = getattr(getattr(found.model, "config", None), "max_length", None)
    length = recipe.get("seq_len", LENGTH) if limit is None else min(recipe.get("seq_len", LENGTH), limit)
    reads_on = limit is None and accepts(found.model, "state") and objective_name == "next_token"
    carried = bool(recipe.get("carry_state", reads_on))
    view = validation_view(shards, batch_size=ROWS, seq_len=length, carried=carried, train=settings)
    device = choose_device(device)
    precision = choose_precision("auto", device)
    objective = make_objective(found.model.to(device), objective_name, precision=precision)
    states = CarriedStates()
    if carried:
        states = CarriedStates(found.model, ROWS, state_length(found.model, view, settings))
    apart = recipe.get("documents_apart", True) and accepts(found.model, "positions")
    measured = evaluate(
        objective, view, batches=batches, documents_apart=apart, states=states, device=device, progress=progress
    )
    about = {"split": "validation", "objective": objective_name, "tokens": measured.tokens}
    recall = next(iter(map(recall_of, states.states.values())), None)
    looked = {} if recall is None else {"recall": recall}
    return {**about, **measured.row(), **looked, "baselines": Baselines(shards, objective_name).values}
