"""Tasks: from text to labels, entities, answers, vectors and texts, and the metrics that judge them.

    fill = formers.pipeline("fill-mask", "folder")
    fill("Paris is the [MASK] of France.")[0].choices[0].token

Names load what they need when they are first used: `formers.tasks.names` costs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_HOMES = {
    "Answer": "results",
    "Choice": "results",
    "Entity": "results",
    "Gap": "results",
    "Label": "results",
    "TASKS": "names",
    "Pipeline": "base",
    "pipeline": "opening",
    "answer_scores": "metrics",
    "bleu": "metrics",
    "chrf": "metrics",
    "rouge": "metrics",
    "entity_scores": "entities",
    "spans": "entities",
}

if TYPE_CHECKING:
    from formers.tasks.base import Pipeline as Pipeline
    from formers.tasks.entities import entity_scores as entity_scores
    from formers.tasks.entities import spans as spans
    from formers.tasks.metrics import answer_scores as answer_scores
    from formers.tasks.metrics import bleu as bleu
    from formers.tasks.metrics import chrf as chrf
    from formers.tasks.metrics import rouge as rouge
    from formers.tasks.names import TASKS as TASKS
    from formers.tasks.opening import pipeline as pipeline
    from formers.tasks.results import Answer as Answer
    from formers.tasks.results import Choice as Choice
    from formers.tasks.results import Entity as Entity
    from formers.tasks.results import Gap as Gap
    from formers.tasks.results import Label as Label

__all__ = [
    "TASKS",
    "Answer",
    "Choice",
    "Entity",
    "Gap",
    "Label",
    "Pipeline",
    "answer_scores",
    "bleu",
    "chrf",
    "entity_scores",
    "pipeline",
    "rouge",
    "spans",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'formers.tasks' has no attribute {name!r}")
    return getattr(importlib.import_module(f"formers.tasks.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
