"""What trainings from labelled data share: the model and tokenizer they begin with, the run, predictions, and the result."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from formers import hub
from formers.comparison.runs import read_run
from formers.config import require
from formers.data.batch import NO_TARGET
from formers.data.examples import Example, LabelledRows
from formers.errors import TargetError
from formers.experiments.bootstrap import Difference
from formers.hub import targets
from formers.parts.positions import Positions
from formers.text import Tokenizer, train_tokenizer
from formers.text.extend import framed
from formers.training import TrainSettings, train
from formers.training.evaluate import evaluating
from formers.training.labelled import at_labels

FINE, FRESH = 2e-4, 1e-3
"""Learning rates of weights that were trained before, and of fresh ones."""

MACHINE = ("cpu", "cores", "threads", "device", "precision", "torch", "formers")
"""Of environment.json, which has more, what a result keeps."""

POINTS = 50
"""Of the learning curve that a result keeps."""


@dataclass(frozen=True)
class LabelledSettings:
    """How a model learns from labelled data.

    init     a run, model folder or hub name, or an architecture's preset (bert.tiny), which begins with fresh weights and
             `vocab_size` WordPieces trained on the training texts
    steps    updates; None: `minutes`
    seq_len  tokens of a row, which holds several texts; longer texts are cut
    lr       None: by whether the weights are fresh
    test     share of the groups that is held out
    seed     of what is held out, fresh weights, the order of the texts, dropout and the bootstrap
    """

    init: str = "bert.tiny"
    steps: int | None = None
    minutes: float | None = 8.0
    batch_size: int = 8
    seq_len: int = 128
    lr: float | None = None
    test: float = 0.2
    vocab_size: int = 4096
    seed: int = 0

    def __post_init__(self) -> None:
        problems = [] if self.steps or self.minutes else ["neither steps nor minutes, wanted one of them"]
        if self.seq_len < 8:
            problems.append(f"seq_len is {self.seq_len}, wanted at least 8")
        if not 0 < self.test < 1:
            problems.append(f"test is {self.test}, wanted a share between 0 and 1")
        require("LabelledSettings", problems)

    def training(self, *, fresh: bool) -> TrainSettings:
        """Of the loop."""
        return TrainSettings(
            steps=self.steps or 1000,
            minutes=None if self.steps else self.minutes,
            batch_size=self.batch_size,
            seq_len=self.seq_len,
            lr=self.lr or (FRESH if fresh else FINE),
            warmup=min(50, max(1, (self.steps or 500) // 10)),
            weight_decay=0.01,
            betas=(0.9, 0.98),
            compile="off",
            seed=self.seed,
            eval_every=0,
            checkpoint_every=100,
        )


# --- what it begins with ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Start:
    """A model under the head that is wanted, its tokenizer, and whether its weights are fresh."""

    model: Any
    tokenizer: Tokenizer
    fresh: bool
    name: str

    @classmethod
    def of(cls, settings: LabelledSettings, head: str, labels: Sequence[str], texts: Sequence[str]) -> Start:
        """What `settings.init` names, with `labels`. `texts` are those of training, for a vocabulary.

        Raises TargetError where it names nothing, or a model without tokenizer, DataError where the texts do not support
        the vocabulary.
        """
        init, changes = settings.init, {"head": head, "num_labels": len(labels), "labels": tuple(labels)}
        if targets.parse(init).kind == "architecture":
            tokenizer = framed(train_tokenizer("wordpiece", texts, settings.vocab_size))
            model = hub.resolve(init, seed=settings.seed, changes={**changes, "vocab_size": tokenizer.vocab_size}).model
            return cls(model, tokenizer, True, init)
        found = hub.resolve(init, dtype=torch.float32, changes=changes)
        if found.tokenizer is None:
            raise TargetError(f"{found.name} has no tokenizer", "the file of one beside the model")
        return cls(found.model, framed(found.tokenizer), False, _short(init))


def _short(init: str) -> str:
    """Where a folder stands is this machine's affair."""
    return "/".join(Path(init).resolve().parts[-2:]) if Path(init).is_dir() else init


# --- the run ----------------------------------------------------------------------------------------------------------


def learn(
    start: Start,
    examples: Sequence[Example],
    settings: LabelledSettings,
    out: Path,
    facts: dict[str, Any],
    *,
    progress: bool | None = None,
) -> bool:
    """Train in the run folder `out`, or go on with what stands there. False: stopped by a signal.

    facts  of the data, which a training that goes on must find unchanged
    """
    sizes: dict[str, Any] = {"batch_size": settings.batch_size, "seq_len": settings.seq_len}
    result = train(
        start.model.train(),
        settings.training(fresh=start.fresh),
        LabelledRows(examples, start.tokenizer, seed=settings.seed, **sizes),
        out=out,
        recipe={"name": out.parent.name, "seed": settings.seed, "data": facts, "init": start.name},
        resume=(out / "recipe.json").is_file(),
        save_model=lambda model, folder: _save(model, folder, start.tokenizer),
        progress=progress,
        resume_command="the same command",
        fresh=False,
    )
    return result.interrupted is None


def _save(model: nn.Module, folder: Path, tokenizer: Tokenizer) -> None:
    hub.save(model, folder, tokenizer=tokenizer)


def predict(model: Any, view: LabelledRows) -> dict[int, list[int]]:
    """Of each example the likeliest label at each token that has one, from left to right."""
    found: dict[int, list[int]] = defaultdict(list)
    device = next(model.parameters()).device
    with evaluating(model):
        for number in range(len(view)):
            batch = view.batch(number).torch(device)
            hidden, _ = model.body(batch.input_ids, Positions(batch.index, batch.document))
            best = at_labels(hidden, model.head, batch.targets).argmax(-1)
            of = batch.document[batch.targets != NO_TARGET]
            for example, label in zip(of.tolist(), best.tolist(), strict=True):
                found[example].append(label)
    return found


# --- what came of it --------------------------------------------------------------------------------------------------


def result(
    task: str,
    settings: Any,
    run: Path,
    *,
    data: dict[str, Any],
    measure: str,
    score: float,
    baselines: dict[str, float],
    against: str,
    found: Difference,
    verdict: str,
    **details: Any,
) -> dict[str, Any]:
    """What a labelled training writes: settings, data, figures, what they are compared with, and the verdict in words."""
    record = read_run(run)
    kept = {name: getattr(settings, name) for name in settings.__dataclass_fields__}
    kept["minutes"] = None if settings.steps else settings.minutes
    return {
        "task": task,
        "settings": kept | {"init": _short(settings.init)},
        "data": data,
        "training": _training(record.train) | {"parameters": record.recipe.get("parameters")},
        "environment": {name: record.environment.get(name) for name in MACHINE},
        "measure": measure,
        "score": score,
        "baselines": baselines,
        "against": against,
        "difference": dataclasses.asdict(found),
        "verdict": verdict,
        **details,
        "curve": curve(record.train),
    }


def _training(rows: Sequence[Any]) -> dict[str, Any]:
    last = rows[-1]
    return {"steps": last["step"], "tokens": last["tokens"], "minutes": round(last["seconds"] / 60, 2)}


def curve(rows: Sequence[Any]) -> list[dict[str, float]]:
    """Training loss by step: means of equal stretches, at most `POINTS`."""
    size = max(1, -(-len(rows) // POINTS))
    stretches = [rows[start : start + size] for start in range(0, len(rows), size)]
    return [{"step": some[-1]["step"], "loss": sum(row["loss"] for row in some) / len(some)} for some in stretches]
