"""Architectures on a task that is made as it is read (tasks/synthetic): as many questions right, by how many seeds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from formers.comparison import read_run
from formers.comparison.equal import equal
from formers.comparison.ranking import WRONG, Entry, rank
from formers.config import replace, to_dict
from formers.errors import ConfigError, suggest
from formers.experiments import matching
from formers.experiments.budget import steps_of
from formers.experiments.compare import CompareSettings, budgeted
from formers.experiments.contest import Contestant, check_contestant, read_kept
from formers.experiments.entrants import Entry as Named
from formers.experiments.entrants import check_next_token
from formers.experiments.reading import origin
from formers.files import plain, write_json
from formers.hub import save, targets, user_code
from formers.recipes import DataSettings, Recipe, with_seed, with_vocabulary
from formers.tasks.synthetic import TASKS, Settings, Task
from formers.training import train

SCORES = "task-scores.json"


@dataclass(frozen=True)
class TaskPlan:
    """A task, and contestants a seed each for every label."""

    task: Task
    settings: CompareSettings
    entrants: dict[str, tuple[Contestant, ...]]
    matches: tuple[matching.Match, ...]
    operations: dict[str, int]

    @property
    def contestants(self) -> list[Contestant]:
        """Seed by seed."""
        return [each for seed in zip(*self.entrants.values(), strict=True) for each in seed]


def make_plan(named: Sequence[Named], name: str, settings: CompareSettings) -> TaskPlan:
    """Raises ConfigError for an unknown task, runs in place of recipes, recipes that cannot be matched, and a budget that pays
    for no step."""
    if name not in TASKS:
        raise ConfigError(f"unknown task {name!r}", "one of " + ", ".join(TASKS), suggest(name, TASKS))
    fresh = {entry.label: entry.recipe for entry in named if entry.recipe is not None}
    if len(fresh) < len(named):
        raise ConfigError("a task compares recipes, and a run is named", "recipes alone")
    if settings.budget is None:
        raise ConfigError("no budget is given", "--budget steps=500, or tokens, flops, minutes")
    if settings.budget.kind == "bytes":
        raise ConfigError(
            f"a budget of {settings.budget} for a task, whose rows are no text", "tokens, steps, flops or minutes"
        )
    first = next(iter(fresh.values()))
    task = TASKS[name](Settings(batch_size=settings.batch_size or first.train.batch_size))
    recipes = {label: _on_task(label, recipe, task, settings) for label, recipe in fresh.items()}
    sizes = {entry.label: entry.parameters for entry in named if entry.parameters is not None}
    recipes, matches = matching.to_one_size(recipes, settings, own=sizes)
    operations = {label: matching.operations(recipe) for label, recipe in recipes.items()}
    kinds = [(recipe, sizes.get(label)) for label, recipe in fresh.items()]
    entrants = {
        label: _seeds(label, recipe, task, settings, operations[label], again=kinds[:number].count(kinds[number]))
        for number, (label, recipe) in enumerate(recipes.items())
    }
    return TaskPlan(task, settings, entrants, tuple(matches), operations)


def _on_task(label: str, recipe: Recipe[Any], task: Task, settings: CompareSettings) -> Recipe[Any]:
    """The recipe with the task's vocabulary and rows. A row is all there is of a text, so nothing is carried on."""
    check_next_token(recipe, label)
    limit = getattr(recipe.model, "max_length", None)
    if limit is not None and limit < task.seq_len:
        raise ConfigError(
            f"rows of {task.name} have {task.seq_len} tokens, and {label} has positions for {limit}",
            "models that can read a row",
        )
    rows = {"batch_size": task.settings.batch_size, "seq_len": task.seq_len, "accumulate": 1}
    loop = replace(recipe.train, **{**rows, "carry_state": False, "objective": "next_token", **settings.train})
    data = DataSettings(sources=(f"task:{task.name}",), tokenizer="byte")
    return dataclasses.replace(recipe, model=with_vocabulary(recipe.model, task.vocab_size), data=data, train=loop)


def _seeds(
    label: str, recipe: Recipe[Any], task: Task, settings: CompareSettings, operations: int, *, again: int
) -> tuple[Contestant, ...]:
    budget = settings.budget
    assert budget is not None
    tokens = task.settings.batch_size * task.seq_len
    steps = steps_of(budget, label, step_tokens=tokens, bytes_per_token=1.0, operations=operations)
    recipe = dataclasses.replace(recipe, name=label, train=budgeted(recipe.train, steps, budget, settings))
    facts = {"operations_per_token": operations, "task": {"name": task.name, **to_dict(task)}}
    if recipe.code is not None:
        facts["code_sha256"] = user_code.record(recipe.code)["sha256"]
    first = settings.seed + again * settings.seeds
    return tuple(
        Contestant(f"{label}.seed-{seed}", with_seed(recipe, seed), facts=facts)
        for seed in range(first, first + settings.seeds)
    )


# --- doing it -------------------------------------------------------------------------------------------------------------


def run_all(plan: TaskPlan, out: Path, *, progress: bool | None = None, say: Callable[[str], None]) -> str | None:
    """Train and score all that are not yet; the signal that stopped it, or None."""
    kept = read_kept(out / SCORES)
    for contestant in plan.contestants:  # all of them before the first is trained
        check_contestant(contestant, contestant.at(out), plan.task.vocab_size)
    for contestant in plan.contestants:
        folder = contestant.at(out)
        if not (folder / "model").is_dir() and (stopped := _train(plan.task, contestant, folder, progress)):
            return stopped
        made = origin(folder)
        if not _is_of(kept.get(contestant.name), made):
            kept[contestant.name] = plan.task.score(targets.load(folder, code=contestant.recipe.code)) | made
            write_json(out / SCORES, kept)
            say(f"{contestant.name}: {kept[contestant.name]['accuracy']:.1%} right")
    return None


def _train(task: Task, contestant: Contestant, folder: Path, progress: bool | None) -> str | None:
    recipe = contestant.recipe
    seeded = dataclasses.replace(task, settings=dataclasses.replace(task.settings, seed=recipe.data.seed))
    done = train(
        recipe.build(),
        recipe.train,
        seeded,
        out=folder,
        recipe={**contestant.facts, **recipe.to_json()},
        resume=(folder / "recipe.json").is_file(),
        save_model=_save,
        progress=progress,
        resume_command="the same command",
    )
    return done.interrupted


def _save(model: Any, folder: Path) -> None:
    save(model, folder)


def _is_of(score: Mapping[str, Any] | None, made: Mapping[str, str]) -> bool:
    """Whether there is a score, and of these weights; one of before does not say of which."""
    return score is not None and score.get("weights", made["weights"]) == made["weights"]


def _numbers(score: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in score.items() if name != "weights"}


def summarise(plan: TaskPlan, out: Path) -> dict[str, Any]:
    """As compare.json holds it: entrants by the share of their wrong answers."""
    scores = read_kept(out / SCORES)
    of = {label: [_numbers(scores[c.name]) for c in group] for label, group in plan.entrants.items()}
    wrong = [Entry(label, 1 - np.array([[row["accuracy"]] for row in rows])) for label, rows in of.items()]
    ranking = rank(wrong, np.ones(1), WRONG)
    records = {label: [read_run(c.at(out)) for c in group] for label, group in plan.entrants.items()}
    level = equal(records)
    return {
        "verdict": ranking.verdict,
        "task": {"name": plan.task.name, "summary": plan.task.summary, **to_dict(plan.task)},
        "ranking": list(ranking.names),
        "entrants": {
            label: {
                **{name: float(np.mean([row[name] for row in of[label]])) for name in of[label][0]},
                "of_seeds": [row["accuracy"] for row in of[label]],
                "behind_best": None
                if label == ranking.names[0]
                else plain(ranking.pair(label, ranking.names[0]).difference),
                "told_from_best": None if label == ranking.names[0] else ranking.pair(label, ranking.names[0]).told,
                "parameters": matching.parameters(plan.entrants[label][0].recipe),
                "operations_per_token": plan.operations[label],
                "tokens": records[label][0].train[-1]["tokens"],
                "seconds": float(np.mean([run.train[-1]["seconds"] for run in records[label]])),
                "tokens_per_second": float(
                    np.median([row["tokens_per_second"] for run in records[label] for row in run.train])
                ),
                "at_equal": level[label],
                "seeds": [c.recipe.seed for c in plan.entrants[label]],
                "runs": [c.name for c in plan.entrants[label]],
            }
            for label in ranking.names
        },
        "pairs": plain(ranking.pairs),
        "at": level["at"],
        "matching": [{**plain(match), "off": match.off, "words": match.words()} for match in plan.matches],
        "notes": [f"The task is {plan.task.name}: {plan.task.summary}."],
        "settings": plain(to_dict(plan.settings)),
    }
