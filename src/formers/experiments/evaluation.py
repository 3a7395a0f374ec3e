"""A trained model on all of a validation split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from formers.config import from_dict
from formers.data import Shards, open_shards
from formers.errors import DataError
from formers.experiments.run import recorded
from formers.experiments.text import Baselines, shards_of, validation_view
from formers.hub import Resolved
from formers.training import Objective, TrainSettings
from formers.training.batches import CarriedStates, state_length
from formers.training.evaluate import evaluate
from formers.training.objective import accepts
from formers.training.precision import choose_device, choose_precision

ROWS, LENGTH = 16, 512
"""Of a batch, where a run does not say."""


def shards_for(found: Resolved, folder: Path | str | None = None) -> Shards:
    """The shards in `folder`, or those a run was trained on, built again if they are gone.

    Raises DataError where there are none, or where they were cut by another tokenizer than the model's.
    """
    if folder is not None:
        shards = open_shards(folder)
    elif found.kind == "run" and found.recipe is not None:
        shards = _of_run(Path(found.name), found.recipe)
    else:
        raise DataError(f"{found.name} does not say what text it is for", "a shard folder", "add --data FOLDER")
    if found.tokenizer is not None:
        shards.check_tokenizer(found.tokenizer.fingerprint)
    return shards


def _of_run(run: Path, recipe: dict[str, Any]) -> Shards:
    from formers.recipes import DataSettings

    folder, _ = recorded(run)
    return shards_of(from_dict(DataSettings, recipe["data"]), folder=folder)


def evaluate_model(found: Resolved, shards: Shards, *, batches: int = 0, device: str = "auto") -> dict[str, Any]:
    """Loss, bits per byte, perplexity, accuracy, loss by position, and what needs no training on the same bytes.

    `batches` 0: the whole split. Rows have the length that the run was trained with, within the model's limit. Documents
    are read whole, in order, by a model that was trained so, or that came without a run and has no limit of length.
    """
    recipe = (found.recipe or {}).get("train", {})
    limit = getattr(getattr(found.model, "config", None), "max_length", None)
    length = recipe.get("seq_len", LENGTH) if limit is None else min(recipe.get("seq_len", LENGTH), limit)
    carried = bool(recipe.get("carry_state", limit is None and accepts(found.model, "state")))
    view = validation_view(shards, batch_size=ROWS, seq_len=length, carried=carried)
    device = choose_device(device)
    objective = Objective(found.model.to(device), precision=choose_precision("auto", device))
    states = CarriedStates()
    if carried:
        asked = from_dict(TrainSettings, recipe)
        states = CarriedStates(found.model, ROWS, state_length(found.model, view, asked))
    apart = recipe.get("documents_apart", True) and accepts(found.model, "positions")
    measured = evaluate(objective, view, batches=batches, documents_apart=apart, states=states, device=device)
    return {"split": "validation", "tokens": measured.tokens, **measured.row(), "baselines": Baselines(shards).values}
