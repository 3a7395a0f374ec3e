"""Who takes part in a comparison: recipes that are trained for it, and runs that ended before it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from formers import pretrained, recipes
from formers.comparison import read_run
from formers.comparison.contests import is_contest, read_contest, runs_of
from formers.data import Shards, open_shards
from formers.errors import ConfigError, DataError, RunError, TargetError, suggest
from formers.experiments.budget import amount_of
from formers.experiments.contest import WHOLE, Contestant, Reading
from formers.experiments.run import changed_since, recorded
from formers.hub.targets import read_recipe
from formers.recipes import Recipe
from formers.recipes.find import is_own

RESULT = "compare.json"
"""What a comparison leaves in its folder, beside the runs."""


@dataclass(frozen=True)
class Entry:
    """What the caller names: a recipe to train, or finished runs of one recipe, a seed each. parameters: of the recipe's model,
    where it is to have a size of its own."""

    label: str
    recipe: Recipe[Any] | None = None
    runs: tuple[Path, ...] = ()
    parameters: int | None = None


@dataclass(frozen=True)
class Entrant:
    """An entry with everything settled: a contestant a seed. joined: trained before."""

    label: str
    contestants: tuple[Contestant, ...]
    joined: bool = False

    @property
    def recipe(self) -> Recipe[Any]:
        """Of its first seed."""
        return self.contestants[0].recipe


def entries(words: Sequence[str]) -> list[Entry]:
    """What the words name: a recipe (gpt2.tiny, file.py:function), a run or a model that comes with the package, runs with
    commas between, or the folder of an earlier comparison, which stands for all that took part in it. ``LABEL=WORD`` gives
    a label, ``RECIPE@2M`` a size: so many parameters, whatever the others have.

    Raises TargetError, RunError, ConfigError for what is not there, has not ended, or is named twice.
    """
    found: list[Entry] = []
    for word in words:
        label, equals, rest = word.partition("=")
        equals = equals if "/" not in label else ""  # a folder may be called so
        found += _named(rest if equals else word, label if equals else None)
    return unique(found)


def unique(found: Sequence[Entry]) -> list[Entry]:
    """The same with labels that are all different: the second gpt2.nano is gpt2.nano-2."""
    taken: set[str] = set()
    out = []
    for entry in found:
        label, number = entry.label, 2
        while label in taken:
            label, number = f"{entry.label}-{number}", number + 1
        taken.add(label)
        out.append(dataclasses.replace(entry, label=label))
    return out


def _named(word: str, label: str | None) -> list[Entry]:
    parts = [_folder(part) for part in word.split(",")]
    if is_contest(parts[0]) and len(parts) == 1:
        return _members(parts[0], label)
    if any(part.is_dir() or "/" in str(part) for part in parts) and not is_own(word):
        for part in parts:
            check_finished(part)
        return [Entry(label or parts[0].resolve().name, runs=tuple(parts))]
    word, at, size = word.partition("@")
    recipe = _recipe(word)
    named = label or _short(recipe.name) + (f"-{size}" if at else "")
    return [Entry(named, recipe, parameters=int(amount_of("parameters", size)) if at else None)]


def _members(folder: Path, label: str | None) -> list[Entry]:
    """All that took part in an earlier comparison. Raises RunError for a damaged one and one on a task, ConfigError for a
    label."""
    result = read_contest(folder)
    if label is not None:
        raise ConfigError(
            f"the label {label!r} for {folder}, a comparison of {', '.join(result['entrants'])}",
            "a label for one recipe or run",
            "leave it out, or name the runs themselves",
        )
    if "task" in result:
        raise RunError(
            f"{folder} compares on the task {result['task']['name']}, which has no text",
            "a comparison on text",
            "its recipes can be named again, with --task",
        )
    members: dict[str, list[Path]] = {}
    for name, run in runs_of(folder, result):
        members.setdefault(name, []).append(run)
    return [Entry(name, runs=tuple(runs)) for name, runs in members.items()]


def _folder(word: str) -> Path:
    """What a word names if it names a run: one that is here, or else one that comes with the package."""
    here = Path(word)
    return here if (here / "recipe.json").is_file() else pretrained.find(word) or here


def _recipe(word: str) -> Recipe[Any]:
    """The recipe of a word. Raises TargetError, which suggests the runs that come with the package too."""
    near = suggest(word, (*recipes.names(), *pretrained.names()))
    if any(repr(name) in near for name in pretrained.names()):
        raise TargetError(f"there is no recipe or run {word!r}", "a recipe, or a run that has ended", near)
    return recipes.get(word)


def _short(name: str) -> str:
    """A label that can be a folder's name: mine.py:recipe becomes mine.recipe."""
    return "".join(c if c.isalnum() or c in "._-" else "." for c in Path(name).name.replace(".py:", ".")).strip(".")


def check_finished(run: Path) -> None:
    """Raise RunError where there is no such run, or it is damaged or half written."""
    if not run.is_dir():
        raise RunError(f"there is no run {run}", "a run folder or a recipe", "formers runs lists the runs")
    found = read_run(run)
    if not (run / "model").is_dir():
        of = f" of {found.planned_steps:,}" if found.planned_steps else ""
        raise RunError(
            f"{run} has not ended: it is {found.status} at step {found.steps:,}{of}",
            "a run that has ended",
            f"go on with it: formers train --resume --out {run}",
        )


# --- runs that ended before -----------------------------------------------------------------------------------------------


def joined(entry: Entry, reference: Shards | None, code: str | None = None) -> tuple[Entrant, Shards]:
    """The entrant of runs, and the shards they were trained on. `code` is file.py:function, for runs of a model of the user's
    own. Raises RunError or DataError where these are gone or not of the reference's text, ConfigError for models that do not
    predict the next token."""
    contestants, shards = [], reference
    for run in entry.runs:
        check_finished(run)
        own_code = code if read_recipe(run).get("code") else None
        recipe = dataclasses.replace(recipes.read(run, code=own_code), code=own_code)
        check_next_token(recipe, entry.label, fresh=False)
        own = shards_of(run, entry.label)
        shards = shards or own
        check_same_text(shards, own, entry.label)
        name = f"{entry.label}.seed-{recipe.seed}"
        contestants.append(Contestant(name, recipe, shards=own, folder=run, reading=reading(recipe)))
    if len({each.name for each in contestants}) < len(contestants):
        contestants = [dataclasses.replace(c, name=f"{entry.label}.run-{i}") for i, c in enumerate(contestants)]
    assert shards is not None
    return Entrant(entry.label, tuple(contestants), joined=True), shards


def shards_of(run: Path, label: str) -> Shards:
    """The shards that a run was trained on. Raises RunError where they are gone, or others stand in their place."""
    folder, *_ = recorded(run)
    if folder is None:
        raise RunError(
            f"the text that {label} ({run}) was trained on is gone: its shard folder does not stand where it stood",
            "the shards of every run, to read the same documents with each",
            "build them again (formers data build), or leave the run out",
        )
    shards = open_shards(folder)
    if changed := changed_since(run, shards, None):
        raise RunError(
            f"{changed} changed since {label} ({run}) was trained on it: other documents are held out now",
            "the text that every run was trained on, to read documents that it has not seen",
            "train it again, or leave the run out",
        )
    return shards


def check_trainable(shards: Shards, label: str, fresh: Sequence[str]) -> None:
    """Raise DataError where recipes were to be trained on the text of `label`, a run whose training text is not here."""
    if fresh and "train" in shards.left_out:
        raise DataError(
            f"{', '.join(fresh)} would have to be trained on the text of {label}, whose held-out documents alone are here: "
            f"{_text(shards)}",
            "runs alone, or recipes alone",
            f"leave {' and '.join(fresh)} out, or name recipes in place of {label}, which are all trained on text that is here",
        )


def check_same_text(reference: Shards, other: Shards, label: str) -> None:
    """Raise DataError where the two are not of the same documents, split alike: their scores cannot be ranked together."""
    if reference.folder == other.folder:
        return
    ours, theirs = reference.meta, other.meta
    if ours["tokenizer_fingerprint"] == theirs["tokenizer_fingerprint"]:
        same = ours["sha256"] == theirs["sha256"]
    else:
        same = bool(
            len(reference.documents) == len(other.documents)
            and (reference.documents[:, 2:] == other.documents[:, 2:]).all()  # bytes and split of every document
        )
    if not same:
        raise DataError(
            f"{label} was trained on other text, so it cannot be ranked with the rest: {_text(other)}, where the rest have "
            f"{_text(reference)}",
            "runs of the same documents with the same ones held out (the tokenizer may differ)",
            "train it again in this comparison, by its recipe's name",
        )


def _text(shards: Shards) -> str:
    meta = shards.meta
    sizes = ", ".join(
        f"{meta['documents'][s]:,} documents of {meta['bytes'][s]:,} bytes {s}" for s in meta["documents"]
    )
    return f"{sizes} (from {', '.join(map(str, meta['sources']))})"


def reading(recipe: Recipe[Any]) -> Reading:
    """As the model was trained: documents whole, with its state, where rows were carried on; else through windows."""
    if recipe.train.carry_state:
        return WHOLE
    return Reading(f"windows of {recipe.train.seq_len}", window=recipe.train.seq_len)


def check_next_token(recipe: Recipe[Any], label: str, *, fresh: bool = True) -> None:
    """Raise ConfigError for a model that does not predict the next token, which has no bits per byte, and for one that is to
    be trained and cannot be from fresh weights."""
    if recipe.train.objective not in ("auto", "next_token"):
        raise ConfigError(
            f"{label} learns {recipe.train.objective}, which has no bits per byte",
            "recipes that learn the next token",
            "compare fine-tuned encoders by `formers experiment`",
        )
    if fresh and recipe.from_init:
        raise ConfigError(f"{label} trains a model that exists already", "recipes that begin with fresh weights")
