"""From a recipe and text to a run folder: model, views, the loop, samples, and the model's own folder."""

from __future__ import annotations

import hashlib
import itertools
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from formers import hub
from formers.data import Shards
from formers.data.shards import is_shard_folder
from formers.errors import ConfigError, TargetError
from formers.experiments.fills import fill
from formers.experiments.text import Baselines, training_view, validation_view
from formers.files import write_atomic
from formers.hub import user_code
from formers.hub.targets import read_recipe
from formers.recipes import Recipe, with_vocabulary
from formers.training import RunResult, train
from formers.training.replaced import ReplacedToken

NUM_SAMPLES, SAMPLE_TOKENS = 3, 120
RUNS = Path("runs")


@dataclass(frozen=True)
class Run:
    """A training that is about to begin, or to go on.

    recipe      as `text.prepare` gives it
    vocab_size  rows of the embedding, where they are not to be the tokenizer's
    init        a run, model folder or hub name whose weights it begins with
    settings    of that model, in place of those it stores; its weights must still fit
    facts       what recipe.json holds beside the recipe
    """

    recipe: Recipe[Any]
    shards: Shards
    out: Path
    resume: bool = False
    vocab_size: int | None = None
    init: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)

    def start(
        self,
        *,
        on_event: Callable[[dict[str, Any]], None] | None = None,
        progress: bool | None = None,
        resume_command: str | None = None,
    ) -> RunResult:
        """Train to the end or until a signal; see ``formers.training.train``.

        Raises ConfigError, DataError, RunError or TargetError for what cannot be trained.
        """
        data, settings = self.recipe.data, self.recipe.train
        if self.resume and (changed := changed_since(self.out, self.shards, self.recipe.code)):
            warnings.warn(
                f"{changed} changed since {self.out} was begun; it goes on with what is there now", stacklevel=2
            )
        sizes = {"batch_size": settings.batch_size, "seq_len": settings.seq_len}
        return train(
            self.model(),
            settings,
            training_view(self.shards, data, settings),
            validation_view(self.shards, carried=settings.carry_state, train=settings, **sizes),
            out=self.out,
            recipe=self.record(),
            resume=self.resume,
            save_model=self.save_model,
            sample=None if settings.objective == "replaced_token" else self.sample,
            baselines=Baselines(self.shards, settings.objective).values,
            on_event=on_event,
            progress=progress,
            resume_command=resume_command,
            fresh=self.init is None,
        )

    @cached_property
    def source(self) -> bytes | None:
        """The user's own file, read when it is first asked for: as the training begins."""
        return None if self.recipe.code is None else user_code.split(self.recipe.code)[0].read_bytes()

    def model(self) -> nn.Module:
        """The model as it is at the start: fresh, or with the weights of `init`."""
        recipe, vocab_size = self.recipe, self.vocab_size or self.shards.vocab_size
        if recipe.train.objective == "replaced_token":
            return self._generator_and_discriminator(vocab_size)
        if self.init is None:
            return recipe.build(vocab_size=vocab_size)
        found = hub.resolve(self.init, dtype=torch.float32, code=self.recipe.code, changes=self.settings)
        if found.tokenizer is not None:
            self.shards.check_tokenizer(found.tokenizer.fingerprint)
        _check_architecture(self.recipe, found)
        return found.model.train()

    def _generator_and_discriminator(self, vocab_size: int) -> ReplacedToken:
        if self.init is not None:
            raise ConfigError(
                "replaced_token with --init, which names one model",
                "two fresh ones: a generator and a discriminator",
                "leave --init out",
            )
        return ReplacedToken.of(with_vocabulary(self.recipe.model, vocab_size), seed=self.recipe.seed)

    def record(self) -> dict[str, Any]:
        """What recipe.json holds besides what the training adds: the recipe, where the shards stood, and what tells text and
        code from any others."""
        meta = self.shards.meta
        shards = {
            "folder": str(self.shards.folder.resolve()),
            "tokenizer": meta["tokenizer_fingerprint"],
            "text": self.shards.fingerprint,
        }
        begun = {"init": self.init} | ({"init_settings": dict(self.settings)} if self.settings else {})
        code = {} if self.source is None else {"code_sha256": hashlib.sha256(self.source).hexdigest()}
        return {**self.facts, **self.recipe.to_json(), "shards": shards, **begun, **code}

    def save_model(self, model: nn.Module, folder: Path) -> None:
        """Write the run's model/ with its tokenizer, of a generator and a discriminator the discriminator; and beside it the
        user's own file as it was when the training began."""
        code = self.recipe.code
        record = None
        if code is not None and self.source is not None:
            record = {"target": code, "sha256": hashlib.sha256(self.source).hexdigest()}
            write_atomic(folder.parent / user_code.split(code)[0].name, self.source)
        model = model.merged() if isinstance(model, ReplacedToken) else model
        hub.save(model, folder, tokenizer=self.shards.tokenizer, code=record)

    def sample(self, model: nn.Module) -> list[tuple[str, str]]:
        """A few documents as the model would begin them, always from the same seeds; or what it writes into gaps."""
        if self.recipe.train.objective not in ("auto", "next_token"):
            return fill(model, self.shards, self.recipe.train)
        from formers.generation import generate_text

        limit = getattr(getattr(model, "config", None), "max_length", None) or SAMPLE_TOKENS + 1
        written = generate_text(
            model,
            self.shards.tokenizer,
            [""] * NUM_SAMPLES,
            max_new_tokens=min(SAMPLE_TOKENS, limit - 1),
            temperature=0.8,
            top_p=0.95,
            seed=0,
        )
        return [(done.prompt, done.text) for done in written]


def _check_architecture(recipe: Recipe[Any], found: hub.Resolved) -> None:
    """Raise TargetError where a recipe that trains models of one architecture is given another."""
    theirs = getattr(getattr(found.model, "config", None), "architecture", type(found.model).__name__)
    if recipe.from_init and theirs != recipe.architecture:
        raise TargetError(
            f"{recipe.name} trains a {recipe.architecture} model, and {found.name} holds a {theirs}",
            f"a {recipe.architecture} model",
            f"formers graft {found.name} --out DIR makes one" if recipe.architecture == "grafted" else "",
        )


def free_folder(name: str, root: Path = RUNS) -> Path:
    """root/NAME-N with the smallest N that is not taken."""
    label = "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in name).strip("-.") or "run"
    return next(root / f"{label}-{n}" for n in itertools.count(1) if not (root / f"{label}-{n}").exists())


def vocabulary(default: Any, asked: Any, shards: Shards) -> int | None:
    """The vocab_size in the config `asked`, where it is not that of `default`; None where the tokenizer's is meant.

    Raises ConfigError where it is smaller than the tokenizer's.
    """
    wanted = getattr(asked, "vocab_size", None)
    if wanted is None or wanted == getattr(default, "vocab_size", None):
        return None
    if wanted < shards.vocab_size:
        raise ConfigError(
            f"the model's vocab_size is {wanted:,}, the text's tokenizer has {shards.vocab_size:,} tokens",
            f"at least {shards.vocab_size:,}",
            f"leave --model.vocab-size out, or train a smaller tokenizer: --text.vocab-size {wanted}",
        )
    return wanted


def recorded(run: Path) -> tuple[Path | None, str | None, dict[str, Any]]:
    """The shard folder that a run was trained on, if it still stands there; the model it began with, and the settings that
    were given to that."""
    facts = read_recipe(run)
    recorded_at = facts.get("shards", {}).get("folder", "")
    folder = (run / recorded_at).resolve()  # relative where run and text go together
    return folder if is_shard_folder(folder) else None, facts.get("init"), facts.get("init_settings", {})


def changed_since(run: Path, shards: Shards | None, code: str | None) -> str:
    """What a run was begun with and has changed since, its text or the user's own file, in words; "" where nothing has, or
    where the run is of before such things were written down."""
    facts = read_recipe(run) if (run / "recipe.json").is_file() else {}
    text, own = facts.get("shards", {}).get("text"), facts.get("code_sha256")
    changed = []
    if shards is not None and text not in (None, shards.fingerprint):
        changed.append(f"the text in {shards.folder}")
    if code is not None and own not in (None, user_code.record(code)["sha256"]):
        changed.append(str(user_code.split(code)[0]))
    return " and ".join(changed) + (" have" if len(changed) > 1 else " has" if changed else "")
