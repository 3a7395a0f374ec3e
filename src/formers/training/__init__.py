"""Training: one loop, one objective, schedules, checkpoints and run records. Knows models, no recipe and no command line.

Names load what they need when they are first used, so that settings can be read without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from formers.training.evaluate import Evaluation as Evaluation
    from formers.training.job import RunResult as RunResult
    from formers.training.loss import cross_entropy as cross_entropy
    from formers.training.objective import Objective as Objective
    from formers.training.schedules import Schedule as Schedule
    from formers.training.settings import TrainSettings as TrainSettings
    from formers.training.trainer import train as train

_HOMES = {
    "Evaluation": "evaluate",
    "Objective": "objective",
    "RunResult": "job",
    "Schedule": "schedules",
    "TrainSettings": "settings",
    "cross_entropy": "loss",
    "train": "trainer",
}
__all__ = ["Evaluation", "Objective", "RunResult", "Schedule", "TrainSettings", "cross_entropy", "train"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'formers.training' has no attribute {name!r}")
    return getattr(importlib.import_module(f"formers.training.{_HOMES[name]}"), name)
