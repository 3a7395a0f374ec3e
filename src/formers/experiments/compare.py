"""Architectures on the same text at the same budget: which wins, by how much, and where the honest answer is "cannot tell".

    plan       recipes brought to one size, the same rows in the same order for each, as many steps as the budget pays for
    train      each from several seeds; what is trained stays, what was stopped goes on
    read       the same documents with each: bits per byte, top-1 and top-5, by place
    summarise  paired over documents and seeds: a ranking and a verdict in words

Training, reading and what a token costs are contest.py's, which `formers experiment memory` shares.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from formers.config import replace, require, to_dict
from formers.data import Shards, open_shards
from formers.errors import ConfigError, DataError
from formers.experiments import contest, matching
from formers.experiments.budget import Budget, said_elsewhere, steps_of
from formers.experiments.contest import Contestant
from formers.experiments.entrants import (
    Entrant,
    Entry,
    check_next_token,
    check_same_text,
    check_trainable,
    joined,
    reading,
    unique,
)
from formers.experiments.matching import Match
from formers.experiments.probe import probe
from formers.experiments.text import prepare, training_view
from formers.files import plain, write_json
from formers.recipes import Recipe, TrainSettings, with_seed, with_vocabulary
from formers.recipes.recipe import STRETCH
from formers.training.batches import number_present

Say = Callable[[str], None]

LEAST = {"seeds": 1, "documents": 2, "longest": 1, "evaluations": 1, "seed": 0, "batch_size": 1, "seq_len": 1}


@dataclass(frozen=True)
class CompareSettings:
    """How to compare.

    budget       of each training; None where runs alone are compared
    seeds        trainings of each recipe; the first has the seed `seed`
    match        what all models have as much of: parameters, operations a token, or nothing
    tolerance    how far from the target a model may be
    batch_size, seq_len   of every training; None: the first recipe's
    documents    validation documents that are read, of at most `longest` bytes each, chosen by `seed`
    evaluations  of a training, for its curves
    own_tokenizers  every recipe keeps its own tokenizer; else all have the first one's
    code         file.py:function, for runs of a model of the user's own
    train        settings of every training in place of its recipe's
    """

    budget: Budget | None = None
    seeds: int = 3
    match: Literal["parameters", "operations", "nothing"] = "parameters"
    tolerance: float = 0.01
    batch_size: int | None = None
    seq_len: int | None = None
    documents: int = 40
    longest: int = 65_536
    evaluations: int = 10
    own_tokenizers: bool = False
    code: str | None = None
    seed: int = 0
    train: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        problems = [
            f"{name} is {value}, wanted at least {least}"
            for name, least in LEAST.items()
            if (value := getattr(self, name)) is not None and value < least
        ]
        if not 0 < self.tolerance < 1:
            problems.append(f"tolerance is {self.tolerance}, wanted a share above 0 and below 1")
        problems += said_elsewhere(self.train)
        require("CompareSettings", problems)


@dataclass(frozen=True)
class Plan:
    """What will be done. shards: the first one's, whose documents are read with all.

    step_tokens  of an update, of each label       operations  of a training token, of each label that is trained
    """

    settings: CompareSettings
    shards: Shards
    entrants: tuple[Entrant, ...]
    matches: tuple[Match, ...]
    documents: tuple[int, ...]
    step_tokens: dict[str, float]
    operations: dict[str, int]
    notes: tuple[str, ...] = ()

    @property
    def contestants(self) -> list[Contestant]:
        """All, seed by seed, so that a tournament that is stopped has as many seeds of each as can be."""
        longest = max(len(entrant.contestants) for entrant in self.entrants)
        return [e.contestants[n] for n in range(longest) for e in self.entrants if n < len(e.contestants)]


# --- the plan -------------------------------------------------------------------------------------------------------------


def make_plan(
    named: Sequence[Entry], settings: CompareSettings, *, data: Path | None = None, quiet: bool = False
) -> Plan:
    """Everything that can be said, and refused, before anything is trained.

    data  a shard folder in place of the text of the runs that join, or else of the first recipe

    What is named first, a recipe or a run, says how large models are and what rows are like.

    Raises ConfigError for recipes that cannot be matched or a budget that pays for no step, DataError for runs of other text
    or too few documents, RunError for runs that have not ended.
    """
    named = unique(named)
    fresh = {entry.label: entry.recipe for entry in named if entry.recipe is not None}
    if fresh and settings.budget is None:
        raise ConfigError(
            "no budget is given", "--budget tokens=4M, or minutes, flops, bytes, steps", "formers compare --help"
        )
    earlier: dict[str, Entrant] = {}
    text = None if data is None else open_shards(data)
    for entry in (entry for entry in named if entry.recipe is None):
        earlier[entry.label], text = joined(entry, text, settings.code)
        check_trainable(text, entry.label, list(fresh))
    prepared, shards = _texts(fresh, settings, None if text is None else text.folder, quiet)
    shards = shards or text
    if shards is None:
        raise ConfigError("nothing to compare is named", "recipes or runs", "formers train --help lists the recipes")
    lead = earlier[named[0].label].recipe if named[0].label in earlier else None
    recipes_ = _alike({label: recipe for label, (recipe, _) in prepared.items()}, settings, lead)
    sizes = {entry.label: entry.parameters for entry in named if entry.parameters is not None}
    recipes_, matches = matching.to_one_size(recipes_, settings, lead=lead, own=sizes)
    kinds = [(recipe, sizes.get(label)) for label, recipe in fresh.items()]
    step_tokens, operations = {}, {}
    made: dict[str, Entrant] = {}
    for number, (label, recipe) in enumerate(recipes_.items()):
        own = prepared[label][1]
        step_tokens[label] = step_tokens_of(recipe, own)
        operations[label] = matching.operations(recipe)
        made[label] = _entrant(
            label,
            recipe,
            own,
            shards,
            settings,
            step_tokens[label],
            operations[label],
            kinds[:number].count(kinds[number]),
        )
    entrants = tuple({**made, **earlier}[entry.label] for entry in named)
    documents = choose(shards, settings)
    return Plan(
        settings, shards, entrants, tuple(matches), documents, step_tokens, operations, _notes(entrants, settings)
    )


def _texts(
    fresh: dict[str, Recipe[Any]], settings: CompareSettings, data: Path | None, quiet: bool
) -> tuple[dict[str, tuple[Recipe[Any], Shards]], Shards | None]:
    """Every recipe with its shards: the first one's text for all, cut by its tokenizer unless each is to keep its own."""
    prepared: dict[str, tuple[Recipe[Any], Shards]] = {}
    reference: Shards | None = None
    first: Recipe[Any] | None = None
    for label, recipe in fresh.items():
        check_next_token(recipe, label)
        if reference is None or first is None:
            recipe, reference = prepare(recipe, folder=data, quiet=quiet)
            shards, first = reference, recipe
        elif settings.own_tokenizers:
            kept = {"tokenizer": recipe.data.tokenizer, "vocab_size": recipe.data.vocab_size}
            recipe, shards = prepare(
                dataclasses.replace(recipe, data=dataclasses.replace(first.data, **kept)), quiet=quiet
            )
            check_same_text(reference, shards, label)
        else:
            recipe, shards = prepare(recipe, folder=reference.folder, quiet=quiet)
            recipe = dataclasses.replace(
                recipe, data=dataclasses.replace(first.data, view=recipe.data.view, longest=recipe.data.longest)
            )
        check_next_token(recipe, label)
        prepared[label] = (dataclasses.replace(recipe, model=with_vocabulary(recipe.model, shards.vocab_size)), shards)
    return prepared, reference


def _alike(
    found: dict[str, Recipe[Any]], settings: CompareSettings, lead: Recipe[Any] | None
) -> dict[str, Recipe[Any]]:
    """Recipes that read the same rows: as many, as long, cut the same way. Raises ConfigError for rows too long for some."""
    if not found:
        return found
    first = lead or next(iter(found.values()))
    rows = {
        name: settings.train.get(name) or getattr(settings, name) or getattr(first.train, name)
        for name in ("batch_size", "seq_len")
    }
    carrying = [recipe for recipe in (first, *found.values()) if recipe.train.carry_state]
    view = {"view": first.data.view, "longest": first.data.longest}
    if carrying:
        view = {"view": "streams", "longest": carrying[0].data.longest or STRETCH}
    short = [
        f"{label} has positions for {limit:,}"
        for label, recipe in found.items()
        if (limit := getattr(recipe.model, "max_length", None)) is not None and limit < rows["seq_len"]
    ]
    if short:
        raise ConfigError(
            f"rows have {rows['seq_len']:,} tokens, and {'; '.join(short)}",
            "rows that every model can read",
            "--seq-len N",
        )
    return {
        label: dataclasses.replace(
            recipe,
            data=dataclasses.replace(recipe.data, **view),
            train=replace(recipe.train, **{**rows, **_lanes(recipe.train, rows["batch_size"]), **settings.train}),
        )
        for label, recipe in found.items()
    }


def _lanes(train: TrainSettings, batch_size: int) -> dict[str, int]:
    """Micro-batches that divide the rows."""
    return {"accumulate": train.accumulate if batch_size % train.accumulate == 0 else 1}


def step_tokens_of(recipe: Recipe[Any], shards: Shards) -> float:
    """Tokens of an update, padding aside: the mean of the first few."""
    view = training_view(shards, recipe.data, recipe.train)
    return float(np.mean([number_present(view.batch(step)) for step in range(8)]))


def _entrant(
    label: str, recipe: Recipe[Any], own: Shards, shards: Shards, settings: CompareSettings,
    step_tokens: float, operations: int, again: int,
) -> Entrant:  # fmt: skip
    """The contestants of a recipe, a seed each. again: how often the recipe was named before; then it has other seeds."""
    budget = settings.budget
    assert budget is not None, "recipes without a budget were refused"
    spelled = own.meta["bytes"]["train"] / max(1, own.meta["tokens"]["train"])
    steps = steps_of(budget, label, step_tokens=round(step_tokens), bytes_per_token=spelled, operations=operations)
    train = budgeted(recipe.train, steps, budget, settings)
    recipe = dataclasses.replace(recipe, name=label, train=train)
    seeds = range(settings.seed + again * settings.seeds, settings.seed + (again + 1) * settings.seeds)
    return Entrant(
        label,
        tuple(
            Contestant(
                f"{label}.seed-{seed}",
                with_seed(recipe, seed),
                shards=None if own is shards else own,
                reading=reading(recipe),
                facts={"operations_per_token": operations},
            )
            for seed in seeds
        ),
    )


def budgeted(train: TrainSettings, steps: int | None, budget: Budget, settings: CompareSettings) -> TrainSettings:
    """The recipe's loop for as long as the budget lasts, with the same share of warm-up at most."""
    if steps is None:
        return dataclasses.replace(
            train, minutes=budget.amount, eval_every=200, eval_batches=20, sample_every=0, checkpoint_every=100
        )
    every = max(1, steps // settings.evaluations)
    return dataclasses.replace(
        train,
        steps=steps,
        minutes=None,
        warmup=min(train.warmup, max(1, steps // 5)),
        eval_every=every,
        eval_batches=20,
        sample_every=0,
        checkpoint_every=min(every, 100),
    )


def choose(shards: Shards, settings: CompareSettings) -> tuple[int, ...]:
    """The documents that are read, drawn from the validation split by seed. Raises DataError for fewer than two."""
    rows = shards.rows("validation")
    short = [int(row) for row in rows if shards.documents[row, 2] <= settings.longest and shards.documents[row, 1] > 2]
    if len(short) < 2:
        raise DataError(
            f"{len(short)} validation documents of {shards.folder} have at most {settings.longest:,} bytes",
            "two or more, for an interval",
            "give more documents, hold more of them out, or raise --longest",
        )
    drawn = np.random.default_rng(settings.seed).permutation(short)[: settings.documents]
    return tuple(sorted(int(row) for row in drawn))


def _notes(entrants: Sequence[Entrant], settings: CompareSettings) -> tuple[str, ...]:
    """What a reader should know of the plan."""
    notes = []
    if any(entrant.joined for entrant in entrants):
        notes.append(
            "Runs that ended before are taken as they are: their size, budget and order of rows are their own."
        )
    fresh = [entrant for entrant in entrants if not entrant.joined]
    views = {(e.recipe.data.view, e.recipe.train.batch_size, e.recipe.train.seq_len) for e in fresh}
    notes += [
        f"All read {view} of {rows} rows of {length} tokens a step, the same rows in the same order for each seed."
        for view, rows, length in views
    ]
    if not fresh and settings.budget is not None:
        notes.append("Nothing is trained, so the budget is without effect.")
    if fresh and settings.seeds == 1:
        notes.append("One seed each: what the seed does and what the architecture does cannot be told apart.")
    return tuple(notes)


# --- doing it -------------------------------------------------------------------------------------------------------------


def estimate(plan: Plan, out: Path, say: Say = lambda text: None) -> dict[str, dict[str, Any]]:
    """What a step of each costs, measured once and kept in out/costs.json, and the hours that what is left will take."""
    file = out / "costs.json"
    kept = contest.read_kept(file)
    for entrant in plan.entrants:
        recipe = entrant.recipe
        about = {"model": to_dict(recipe.model), "rows": [recipe.train.batch_size, recipe.train.seq_len]}
        if kept.get(entrant.label, {}).get("about") != plain(about):
            say(f"measuring {entrant.label}")
            own = entrant.contestants[0].shards or plan.shards
            kept[entrant.label] = {"about": about, **probe(recipe, own)}
            write_json(file, kept)
    found = {entrant.label: kept[entrant.label] for entrant in plan.entrants}
    _check_minutes(plan, found)
    return found


def _check_minutes(plan: Plan, costs: dict[str, dict[str, Any]]) -> None:
    """Raise ConfigError where the clock would stop a training before its first step is made."""
    slow = [
        f"{entrant.label} takes {costs[entrant.label]['seconds']:.2g} s for a step"
        for entrant in plan.entrants
        if not entrant.joined
        and (minutes := entrant.recipe.train.minutes) is not None
        and 60 * minutes < costs[entrant.label]["seconds"]
    ]
    if slow:
        raise ConfigError(
            f"a budget of {plan.settings.budget} does not pay for one step: {'; '.join(slow)}",
            "time for one step and its evaluation at least",
            "give more, or make --batch-size or --seq-len smaller",
        )


def seconds_left(plan: Plan, out: Path, costs: dict[str, dict[str, Any]]) -> float:
    """About how long it will take: trainings that have not ended, and a reading of the documents for each."""
    total = 0.0
    read_bytes = sum(int(plan.shards.documents[d, 2]) for d in plan.documents)
    spelled = plan.shards.meta["bytes"]["train"] / max(1, plan.shards.meta["tokens"]["train"])
    for entrant in plan.entrants:
        price = costs[entrant.label]
        a_token = price["seconds"] / price["tokens"]
        for contestant in entrant.contestants:
            train = contestant.recipe.train
            if not (contestant.at(out) / "model").is_dir():
                total += 60 * train.minutes if train.minutes else train.total_steps * price["seconds"]
                total += len(range(0, train.total_steps, train.eval_every)) * 20 * price["seconds"] / 3
            total += 2 * a_token / 3 * read_bytes / spelled  # half windows read each token twice; a forward is a third
    return total


def train(plan: Plan, out: Path, **how: Any) -> str | None:
    """All trainings that have not ended; `how` as contest.train_all has it. The signal that stopped it, or None."""
    return contest.train_all(plan.contestants, plan.shards, out, **how)


def read(plan: Plan, out: Path, say: Say = lambda text: None) -> list[dict[str, Any]]:
    """A row for each contestant and document; see contest.read_all."""
    rows = contest.read_all(plan.contestants, plan.shards, plan.documents, out, rows=8, say=say)
    wanted, chosen = {each.name for each in plan.contestants}, set(plan.documents)
    return [row for row in rows if row["contestant"] in wanted and row["document"] in chosen]
