"""What goes into every module and what comes out of it, call by call: names, shapes, types, smallest and largest number.

Hooks are put on from outside and taken off again, so no module is edited for it. Calls stand in the order in which they
begin; a module that is applied several times is there as often.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fnmatch
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from formers.errors import TargetError, suggest


@dataclass(frozen=True)
class Seen:
    """A tensor as it went by. low, high: its smallest and largest number; None where it has none (or complex ones)."""

    shape: tuple[int, ...]
    dtype: str
    low: float | None
    high: float | None

    @classmethod
    def of(cls, tensor: Tensor) -> Seen:
        ends = (tensor.min(), tensor.max()) if tensor.numel() and not tensor.is_complex() else (None, None)
        low, high = (None if end is None else float(end) for end in ends)
        return cls(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."), low, high)


@dataclass
class Call:
    """One call of a module: what went in by the names of its arguments, what came out. tensors: all of it, where it was to be
    kept, as in.NAME and out.NAME."""

    name: str
    kind: str
    inputs: dict[str, Seen] = field(default_factory=dict)
    outputs: dict[str, Seen] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)


@contextlib.contextmanager
def traced(model: nn.Module, *patterns: str, keep: bool = False) -> Iterator[list[Call]]:
    """Record every call of the modules whose names match a pattern (``*`` and ``?``; none given: all of them).

    keep  the tensors themselves too

    Raises TargetError where nothing matches.
    """
    calls: list[Call] = []
    with contextlib.ExitStack() as hooks:
        for name, module in find(model, *patterns).items():
            for handle in _hooks(name, module, calls, keep):
                hooks.callback(handle.remove)
        yield calls


def find(model: nn.Module, *patterns: str) -> dict[str, nn.Module]:
    """The modules whose names match any of the patterns; the model itself goes by the name of its class."""
    named = {name or type(model).__name__: module for name, module in model.named_modules()}
    found = {n: m for n, m in named.items() if not patterns or any(fnmatch.fnmatchcase(n, p) for p in patterns)}
    if not found:
        near = suggest(patterns[0], named) or "patterns are such as 'trunk.blocks.0.*' or '*attention'"
        raise TargetError(f"no module matches {', '.join(patterns)}", "the name of a module, or a pattern", near)
    return found


def _hooks(name: str, module: nn.Module, calls: list[Call], keep: bool) -> list[Any]:
    begun: list[Call] = []

    def before(module: nn.Module, args: Any, kwargs: Any) -> None:
        begun.append(Call(name, type(module).__name__))
        calls.append(begun[-1])
        _take(begun[-1], "in", _arguments(module.forward, args, kwargs), keep)

    def after(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        _take(begun.pop(), "out", output, keep)

    return [
        module.register_forward_pre_hook(before, with_kwargs=True),
        module.register_forward_hook(after, with_kwargs=True),
    ]


def _arguments(forward: Callable[..., Any], args: Any, kwargs: Any) -> Mapping[str, Any]:
    return inspect.signature(forward).bind(*args, **kwargs).arguments


def _take(call: Call, side: str, value: Any, keep: bool) -> None:
    found = dict(_tensors(value, ""))
    (call.inputs if side == "in" else call.outputs).update({n: Seen.of(t.detach()) for n, t in found.items()})
    if keep:
        call.tensors.update({f"{side}.{name or 'result'}": t.detach().clone() for name, t in found.items()})


def _tensors(value: Any, place: str) -> Iterator[tuple[str, Tensor]]:
    """All tensors in nested tuples, lists and dicts, and those that are fields of a record, by their place."""
    if isinstance(value, Tensor):
        yield place, value
    elif dataclasses.is_dataclass(value):
        for item in dataclasses.fields(value):
            if isinstance(inner := getattr(value, item.name), Tensor):
                yield f"{place}.{item.name}".lstrip("."), inner
    elif isinstance(value, Mapping | tuple | list):
        for key, inner in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from _tensors(inner, f"{place}.{key}".lstrip("."))
