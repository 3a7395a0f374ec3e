"""Other people's checkpoints, both ways; what a TARGET is; and the difference between two models.

Names load what they need when they are first used, so that `formers.hub.targets.parse` costs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_HOMES = {
    "DiffReport": "formers.hub.report",
    "Resolved": "formers.hub.targets",
    "as_transformers": "formers.hub.wrapped",
    "diff": "formers.hub.differences",
    "lengthen": "formers.hub.lengthening",
    "load": "formers.hub.targets",
    "load_folder": "formers.hub.folders",
    "resolve": "formers.hub.targets",
    "save": "formers.hub.saving",
    "write_folder": "formers.hub.files",
}

if TYPE_CHECKING:
    from formers.hub.differences import diff as diff
    from formers.hub.files import write_folder as write_folder
    from formers.hub.folders import load_folder as load_folder
    from formers.hub.lengthening import lengthen as lengthen
    from formers.hub.report import DiffReport as DiffReport
    from formers.hub.saving import save as save
    from formers.hub.targets import Resolved as Resolved
    from formers.hub.targets import load as load
    from formers.hub.targets import resolve as resolve
    from formers.hub.wrapped import as_transformers as as_transformers

__all__ = [
    "DiffReport",
    "Resolved",
    "as_transformers",
    "diff",
    "load",
    "load_folder",
    "resolve",
    "save",
    "write_folder",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name == "targets":
        return importlib.import_module("formers.hub.targets")
    raise AttributeError(f"module 'formers.hub' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "targets"]
