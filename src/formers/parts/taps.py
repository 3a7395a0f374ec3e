"""Taps: names for every tensor worth looking at. Identity when nobody listens.

A part owns a `Tap` for each such tensor and passes the tensor through it; `listen` records (or replaces) what flows by.

    with listen(model, "*.pattern") as seen:
        model(input_ids)
    seen["trunk.blocks.0.attention.pattern"]      # one tensor for each time the part was applied
"""

from __future__ import annotations

import contextlib
import fnmatch
from collections.abc import Callable, Iterator

from torch import Tensor, nn

from formers.errors import TargetError, suggest


class Tap(nn.Module):
    """Passes its tensor through. `heard` tells a part whether anybody listens, for tensors that cost something to make."""

    def __init__(self) -> None:
        super().__init__()
        self.listeners: list[Callable[[Tensor], Tensor | None]] = []

    @property
    def heard(self) -> bool:
        return bool(self.listeners)

    def forward(self, tensor: Tensor) -> Tensor:
        for listener in self.listeners:
            replaced = listener(tensor)
            tensor = tensor if replaced is None else replaced
        return tensor


def taps(model: nn.Module) -> dict[str, Tap]:
    """Every tap of `model` by its name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, Tap)}


@contextlib.contextmanager
def listen(model: nn.Module, *patterns: str) -> Iterator[dict[str, list[Tensor]]]:
    """Record what flows through the taps whose names match a pattern (``*`` and ``?``; none given: all taps)."""
    seen: dict[str, list[Tensor]] = {}

    def record(name: str) -> Callable[[Tensor], None]:
        return lambda tensor: seen.setdefault(name, []).append(tensor)

    with attach(model, {name: record(name) for name in find(model, *patterns)}):
        yield seen


@contextlib.contextmanager
def attach(model: nn.Module, listeners: dict[str, Callable[[Tensor], Tensor | None]]) -> Iterator[None]:
    """Attach a function to each named tap; one that returns a tensor replaces what flows on."""
    known = taps(model)
    for name in listeners:
        if name not in known:
            raise TargetError(f"no tap {name!r}", "one of " + ", ".join(known), suggest(name, known))
    for name, listener in listeners.items():
        known[name].listeners.append(listener)
    try:
        yield
    finally:
        for name, listener in listeners.items():
            known[name].listeners.remove(listener)


def find(model: nn.Module, *patterns: str) -> list[str]:
    """Names of the taps that match any of the patterns."""
    names = list(taps(model))
    matching = [n for n in names if not patterns or any(fnmatch.fnmatchcase(n, p) for p in patterns)]
    if not matching:
        raise TargetError(f"no tap matches {', '.join(patterns)}", "one of " + ", ".join(names))
    return matching
