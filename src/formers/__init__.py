"""formers: transformer papers as short, readable, certified code.

    import formers
    model = formers.build("gpt2", preset="tiny", num_layers=4)
    report = formers.certify(model)

Names load what they need when they are first used; importing formers imports no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "build": "formers.models.registry",
    "models": "formers.models.registry:specs",
    "load": "formers.hub",
    "save": "formers.hub",
    "diff": "formers.hub",
    "lengthen": "formers.hub",
    "generate": "formers.generation",
    "certify": "formers.laws",
    "train": "formers.training",
    "pipeline": "formers.tasks",
    "graft_memory": "formers.models.grafted",
    "FormersError": "formers.errors",
    "Positions": "formers.parts.positions",
}

if TYPE_CHECKING:
    from formers.errors import FormersError as FormersError
    from formers.generation import generate as generate
    from formers.hub import diff as diff
    from formers.hub import lengthen as lengthen
    from formers.hub import load as load
    from formers.hub import save as save
    from formers.laws import certify as certify
    from formers.models.grafted import graft_memory as graft_memory
    from formers.models.registry import build as build
    from formers.models.registry import specs as models  # noqa: F401
    from formers.parts.positions import Positions as Positions
    from formers.tasks import pipeline as pipeline
    from formers.training import train as train

__all__ = sorted([*_HOMES, "__version__"])


def __getattr__(name: str) -> Any:
    if name == "hub":  # formers.hub.as_transformers
        return importlib.import_module("formers.hub")
    if name not in _HOMES:
        raise AttributeError(f"module 'formers' has no attribute {name!r}")
    module, _, attribute = _HOMES[name].partition(":")
    return getattr(importlib.import_module(module), attribute or name)


def __dir__() -> list[str]:
    return __all__
