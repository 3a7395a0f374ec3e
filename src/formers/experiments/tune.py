"""Tuning: settings of a recipe searched by Optuna under a budget, resumable, with an account of what mattered.

Every trial is a run folder of its own, trial-N, and the study is a journal of JSON lines beside them: nothing is pickled. A
trial that was stopped, or killed, goes on from its checkpoint before another is begun. The first trial is the recipe as it is,
so the best is never worse than it.
"""

from __future__ import annotations

import dataclasses
import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from formers.comparison.effects import effects
from formers.config import replace, require
from formers.data import Shards
from formers.errors import ConfigError, RunError, suggest
from formers.experiments import matching
from formers.experiments.budget import Budget, said_elsewhere, steps_of
from formers.experiments.compare import CompareSettings, budgeted, step_tokens_of
from formers.experiments.entrants import check_next_token
from formers.experiments.run import Run
from formers.files import plain, write_json
from formers.recipes import Recipe, with_vocabulary

JOURNAL, RESULT, BEST = "study.jsonl", "tune.json", "best.json"


@dataclass(frozen=True)
class Range:
    """What a setting may be: from `low` to `high` (by its logarithm, or in steps), or one of `choices`."""

    name: str
    low: float = 0
    high: float = 0
    step: float | None = None
    choices: tuple[Any, ...] = ()

    @property
    def whole(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)


@dataclass(frozen=True)
class TuneSettings:
    """budget: of each trial. trials: in all. minutes: no trial is begun after so many, those before a stop included."""

    budget: Budget
    trials: int = 20
    minutes: float | None = None
    seed: int = 0
    train: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        problems = [f"{name} is {n}, wanted at least {least}" for name, n, least in self._least() if n < least]
        if self.minutes is not None and self.minutes <= 0:
            problems.append(f"minutes is {self.minutes}, wanted more than 0")
        require("TuneSettings", [*problems, *said_elsewhere(self.train)])

    def _least(self) -> tuple[tuple[str, int, int], ...]:
        return ("trials", self.trials, 1), ("seed", self.seed, 0)


# --- where to search ------------------------------------------------------------------------------------------------------


def usual(recipe: Recipe[Any]) -> list[Range]:
    """The learning rate, from a tenth to ten times the recipe's, and the model's depth and width, from half to twice."""
    lr, config = recipe.train.lr, recipe.model
    found = [Range("train.lr", lr / 10, lr * 10)]
    if (layers := getattr(config, "num_layers", None)) is not None:
        found.append(Range("model.num_layers", max(1, layers // 2), 2 * layers, 1))
    if (width := getattr(config, "d_model", None)) is not None:
        step = 2 * getattr(config, "num_heads", 4)
        found.append(Range("model.d_model", _multiple(width // 2, step), _multiple(2 * width, step), step))
    return found


def _multiple(value: int, step: int) -> int:
    return max(step, value // step * step)


def parse_ranges(words: Sequence[str], recipe: Recipe[Any]) -> list[Range]:
    """Of ``train.lr=1e-4:1e-2``, ``model.num_layers=1:4``, ``model.d_ff=64:512:64`` (steps), ``train.schedule=cosine,linear``.

    Raises ConfigError for a setting that the recipe has not, or a range that is none.
    """
    found = []
    for word in words:
        name, equals, text = word.partition("=")
        value = _setting(name, recipe)
        try:
            found.append(_range(name, text, value))
        except ConfigError:
            raise
        except ValueError:
            equals = ""
        if not equals:
            raise ConfigError(
                f"--search {word}", "NAME=LOW:HIGH, NAME=LOW:HIGH:STEP or NAME=ONE,OTHER", "train.lr=1e-4:1e-2"
            )
    return found


def _setting(name: str, recipe: Recipe[Any]) -> Any:
    """The recipe's own value. Raises ConfigError."""
    if wrong := said_elsewhere([name.removeprefix("train.")]):
        raise ConfigError(f"--search {name}: {wrong[0]}", "settings that the budget and the seed leave open")
    part, _, inner = name.partition(".")
    parts = {"train": recipe.train, "model": recipe.model}
    of_part = [f.name for f in dataclasses.fields(parts[part])] if part in parts else []
    if inner not in of_part:
        wanted = f"{part}. and one of {', '.join(of_part)}" if of_part else "train.NAME or model.NAME"
        hint = suggest(inner, of_part)
        meant = hint.replace("'", f"'{part}.", 1)
        raise ConfigError(f"{recipe.name} has no setting {name!r}", wanted, meant)
    return getattr(parts[part], inner)


def _range(name: str, text: str, value: Any) -> Range:
    if ":" not in text:
        kind = type(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else str
        return Range(name, choices=tuple(_known(kind(each)) for each in text.split(",")))
    low, high, *step = (float(each) if isinstance(value, float) else int(each) for each in text.split(":"))
    if not low < high < math.inf or len(step) > 1 or (step and not step[0] > 0):
        raise ValueError(text)
    if isinstance(value, float) and low <= 0 and not step:
        raise ConfigError(
            f"--search {name}={text}, a range of fractions from {low:g}",
            "one that begins above 0, since it is searched by its logarithm, or one with steps",
            f"{name}={low:g}:{high:g}:{(high - low) / 10:g}",
        )
    return Range(name, low, high, step[0] if step else None)


def _known(word: Any) -> Any:
    return {"true": True, "false": False, "none": None}.get(word, word) if isinstance(word, str) else word


def changed(recipe: Recipe[Any], values: Mapping[str, Any]) -> Recipe[Any]:
    """The recipe with settings by their dotted names. Raises ConfigError for values that it cannot have."""
    parts: dict[str, dict[str, Any]] = {"train": {}, "model": {}}
    for name, value in values.items():
        part, _, inner = name.partition(".")
        parts[part][inner] = value
    return dataclasses.replace(
        recipe, train=replace(recipe.train, **parts["train"]), model=replace(recipe.model, **parts["model"])
    )


# --- the search -----------------------------------------------------------------------------------------------------------


def tune(
    recipe: Recipe[Any],
    shards: Shards,
    ranges: Sequence[Range],
    settings: TuneSettings,
    out: Path,
    *,
    progress: bool | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> str | None:
    """Try until the trials or the minutes are spent. The signal that stopped it, or None. See `account` for what it found.

    recipe  as `text.prepare` gives it

    Raises ConfigError where Optuna is missing, the recipe has no bits per byte, or the budget pays for no step.
    """
    check_next_token(recipe, recipe.name)
    recipe = dataclasses.replace(recipe, train=replace(recipe.train, **settings.train))
    budgeted_for(recipe, shards, settings)  # raises where it pays for nothing
    study = open_study(out, recipe, ranges, settings)
    spent, began = _seconds(study), time.monotonic()
    while True:
        waiting = [trial for trial in study.get_trials(deepcopy=False) if trial.state.name == "RUNNING"]
        done = len([trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()])
        over = settings.minutes is not None and spent + time.monotonic() - began >= 60 * settings.minutes
        if not waiting and (done >= settings.trials or over):
            return None
        trial = waiting[0] if waiting else study.ask(distributions(ranges))
        stopped = _try(study, trial, recipe, shards, settings, out, progress, say)
        if stopped:
            return stopped


def open_study(out: Path, recipe: Recipe[Any], ranges: Sequence[Range], settings: TuneSettings) -> Any:
    """The study in `out`, or a new one. Raises ConfigError where Optuna is missing, RunError where `out` holds another
    search."""
    optuna = load_optuna()
    out.mkdir(parents=True, exist_ok=True)
    about = plain({"recipe": recipe.to_json(), "ranges": list(ranges), "budget": settings.budget})
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(out / JOURNAL)))
    begun = optuna.study.get_all_study_names(storage)
    study = optuna.create_study(
        storage=storage,
        study_name="tune",
        load_if_exists=True,
        sampler=optuna.samplers.TPESampler(seed=settings.seed),
    )
    if not begun:
        study.set_user_attr("about", about)
        if (own := _own_values(recipe, ranges)) is not None:
            study.enqueue_trial(own)
        return study
    if study.user_attrs.get("about") != about:
        raise RunError(f"{out} holds another search", "the same recipe, ranges and budget", "name another --out")
    study.sampler.reseed_rng()  # a search that goes on does not begin with the draws it has had
    return study


def load_optuna() -> Any:
    """The library, quiet. Raises ConfigError where it is not installed."""
    try:
        import optuna
    except ImportError:
        raise ConfigError("optuna is not installed", "the extra `tune`", "pip install 'formers[tune]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def distributions(ranges: Sequence[Range]) -> dict[str, Any]:
    """What Optuna draws from."""
    kinds = load_optuna().distributions

    def of(each: Range) -> Any:
        if each.choices:
            return kinds.CategoricalDistribution(each.choices)
        if each.whole:
            return kinds.IntDistribution(int(each.low), int(each.high), step=int(each.step or 1))
        return kinds.FloatDistribution(each.low, each.high, log=each.step is None, step=each.step)

    return {each.name: of(each) for each in ranges}


def _own_values(recipe: Recipe[Any], ranges: Sequence[Range]) -> dict[str, Any] | None:
    """The recipe's own settings as a trial; None where one lies outside its range."""
    values = {each.name: _setting(each.name, recipe) for each in ranges}
    for each in ranges:
        value: Any = values[each.name]
        inside = value in each.choices if each.choices else value is not None and each.low <= value <= each.high
        steps = 0.0 if value is None or not each.step else (value - each.low) / each.step
        if not inside or abs(steps - round(steps)) > 1e-8:
            return None
    return values


def _seconds(study: Any) -> float:
    return sum(t.duration.total_seconds() for t in study.get_trials(deepcopy=False) if t.duration is not None)


def budgeted_for(recipe: Recipe[Any], shards: Shards, settings: TuneSettings) -> Recipe[Any]:
    """The recipe for as long as the budget pays. Raises ConfigError."""
    recipe = dataclasses.replace(recipe, model=with_vocabulary(recipe.model, shards.vocab_size))
    steps = steps_of(
        settings.budget,
        recipe.name,
        step_tokens=round(step_tokens_of(recipe, shards)),
        bytes_per_token=shards.meta["bytes"]["train"] / max(1, shards.meta["tokens"]["train"]),
        operations=matching.operations(recipe) if settings.budget.kind == "flops" else 1.0,
    )
    loop = budgeted(recipe.train, steps, settings.budget, CompareSettings(budget=settings.budget, evaluations=4))
    return dataclasses.replace(recipe, train=loop)


def _try(
    study: Any, trial: Any, recipe: Recipe[Any], shards: Shards, settings: TuneSettings, out: Path,
    progress: bool | None, say: Callable[[str], None],
) -> str | None:  # fmt: skip
    """One trial, or the rest of one."""
    from optuna.trial import TrialState

    folder, values = out / f"trial-{trial.number}", dict(trial.params)
    words = ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in values.items()
    )
    try:
        asked = budgeted_for(changed(recipe, values), shards, settings)
        run = Run(asked, shards, folder, resume=(folder / "recipe.json").is_file())
        result = run.start(progress=progress, resume_command="the same command")
    except (ConfigError, RunError) as error:  # sizes that do not fit, or a training that diverged: a result too
        study.tell(trial.number, state=TrialState.FAIL)
        say(f"trial {trial.number}: {words}: failed, {error.found.splitlines()[0]}")
        return None
    if result.interrupted:
        return result.interrupted
    bits = (result.evaluation or {}).get("bits_per_byte")
    if bits is None or not math.isfinite(bits):
        study.tell(trial.number, state=TrialState.FAIL)
    else:
        study.tell(trial.number, bits)
        say(f"trial {trial.number}: {words}: {bits:.4f} bits per byte")
    return None


# --- what it found --------------------------------------------------------------------------------------------------------


def account(recipe: Recipe[Any], ranges: Sequence[Range], settings: TuneSettings, out: Path) -> dict[str, Any]:
    """Every trial, the best recipe (written to best.json) and what mattered. Raises RunError where no trial has ended well."""
    recipe = dataclasses.replace(recipe, train=replace(recipe.train, **settings.train))
    study = open_study(out, recipe, ranges, settings)
    ended = [trial for trial in study.get_trials(deepcopy=False) if trial.state.name == "COMPLETE"]
    if not ended:
        raise RunError(f"no trial in {out} has ended well", "one or more", "narrow the ranges, or give a larger budget")
    best = min(ended, key=lambda trial: trial.value)
    chosen = dataclasses.replace(changed(recipe, best.params), name=f"{recipe.name}.tuned")
    write_json(out / BEST, chosen.to_json())
    found = effects([trial.params for trial in ended], [trial.value for trial in ended])
    result = {
        "best": {"trial": best.number, "bits_per_byte": best.value, "settings": best.params, "recipe": out / BEST},
        "first": next(({"bits_per_byte": t.value, "settings": t.params} for t in ended if t.number == 0), None),
        "mattered": [{**plain(effect), "told": effect.told} for effect in found],
        "importance": _importance(study, ended),
        "trials": [
            {"trial": t.number, "state": t.state.name.lower(), "bits_per_byte": t.value, "settings": dict(t.params)}
            for t in study.get_trials(deepcopy=False)
        ],
    }
    write_json(out / RESULT, result)
    return result


def _importance(study: Any, ended: Sequence[Any]) -> dict[str, float]:
    """Share of what was gained that each setting explains (PED-ANOVA, 2304.10255); nothing for trials too few or too alike."""
    if len(ended) < 4:
        return {}
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        try:
            return dict(get_param_importances(study, evaluator=PedAnovaImportanceEvaluator()))
        except UserWarning:  # the best of the trials are all of them: nothing tells them apart
            return {}
