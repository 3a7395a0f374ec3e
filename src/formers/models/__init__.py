"""One paper, one file: config, presets, wiring, initialisation, weight names, departures.

`formers.models` is this package and, called, the table of the architectures: ``formers.models()["gpt2"].paper``.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from formers.models.registry import Spec


class _CallablePackage(ModuleType):
    """Importing any model makes this package the attribute `models` of `formers`, so it has to answer the call itself."""

    def __call__(self) -> dict[str, Spec]:
        from formers.models.registry import specs

        return specs()


sys.modules[__name__].__class__ = _CallablePackage
