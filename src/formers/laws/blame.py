"""Which module broke a law: run the model twice, and find the first module that made a difference from equal inputs.

Every module's inputs and outputs are recorded in the order in which modules finish, innermost first. Two runs that a law
says must agree (in part: at earlier positions, in one row, where there is no padding) are compared call by call.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from formers.laws.subject import Subject
from formers.parts.positions import Positions

View = Callable[[Tensor], Tensor | None]
"""The part of a tensor that must agree; None where the tensor cannot be told apart that way."""


@dataclass(frozen=True)
class Call:
    """One call of a module: every tensor that went in and came out, by its place in the arguments."""

    name: str
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]


@contextlib.contextmanager
def traced(model: nn.Module) -> Iterator[list[Call]]:
    """Record every call of every module, in the order in which they finish."""
    calls: list[Call] = []
    open_calls: list[dict[str, Tensor]] = []

    def before(module: nn.Module, args: Any, kwargs: Any) -> None:
        open_calls.append(tensors((args, kwargs)))

    def after(name: str) -> Callable[..., None]:
        def record(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            calls.append(Call(name, open_calls.pop(), tensors(output)))

        return record

    handles = []
    for name, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
        handles.append(module.register_forward_hook(after(name or type(model).__name__), with_kwargs=True))
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def tensors(value: Any, place: str = "") -> dict[str, Tensor]:
    """Copies of all tensors in nested tuples, lists, dicts, positions and outputs, by their place."""
    if isinstance(value, Tensor):
        return {place: value.detach().clone()}
    if isinstance(value, Positions):
        value = {"index": value.index, "document": value.document}
    if isinstance(getattr(value, "logits", None), Tensor):
        value = {"logits": value.logits}
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, tuple | list) else ()
    found: dict[str, Tensor] = {}
    for key, item in items:
        found.update(tensors(item, f"{place}.{key}"))
    return found


def first_to_differ(
    left: Sequence[Call], right: Sequence[Call], left_view: View, right_view: View, threshold: float = 0.0
) -> str | None:
    """The first module whose outputs differ by more than `threshold` while its inputs do not; None where there is none."""
    others = dict(zip(_keys(right), right, strict=True))
    for key, call in zip(_keys(left), left, strict=True):
        other = others.get(key)
        if other is None:
            continue
        if _differ(call.outputs, other.outputs, left_view, right_view, threshold) and not _differ(
            call.inputs, other.inputs, left_view, right_view, threshold
        ):
            return call.name
    return None


def first_where(calls: Sequence[Call], wrong: Callable[[Tensor], bool]) -> str | None:
    """The first module with a floating output for which `wrong` holds."""
    for call in calls:
        if any(wrong(tensor) for tensor in call.outputs.values() if tensor.is_floating_point() and tensor.numel()):
            return call.name
    return None


def owner(model: nn.Module, name: str) -> str:
    """The module that a parameter of this name belongs to."""
    return name.rpartition(".")[0] or type(model).__name__


def compare(
    subject: Subject,
    left: tuple[Any, ...],
    right: tuple[Any, ...],
    left_view: View,
    right_view: View,
    threshold: float = 0.0,
) -> str | None:
    """`first_to_differ` of the calls ``subject(*left)`` and ``subject(*right)``."""
    with traced(subject.model) as left_calls:
        subject(*left)
    with traced(subject.model) as right_calls:
        subject(*right)
    return first_to_differ(left_calls, right_calls, left_view, right_view, threshold)


def _keys(calls: Sequence[Call]) -> list[tuple[str, int]]:
    """Each call by the module's name and how often it had been called before."""
    counts: dict[str, int] = {}
    keys = []
    for call in calls:
        keys.append((call.name, counts.setdefault(call.name, 0)))
        counts[call.name] += 1
    return keys


def _differ(
    left: dict[str, Tensor], right: dict[str, Tensor], left_view: View, right_view: View, threshold: float
) -> bool:
    return any(_apart(left_view(left[k]), right_view(right[k]), threshold) for k in left.keys() & right.keys())


def _apart(a: Tensor | None, b: Tensor | None, threshold: float) -> bool:
    """Tensors that cannot be compared count as equal: the next module inward or outward will tell."""
    if a is None or b is None or a.ndim != b.ndim or a.dtype != b.dtype:
        return False
    if any(m != n and 1 not in (m, n) for m, n in zip(a.shape, b.shape, strict=True)):
        return False
    if not a.is_floating_point() or threshold == 0.0:
        return bool((a != b).any())
    difference = (a - b).abs()
    scale = b.abs().amax().clamp(min=1.0) if b.numel() else 1.0
    return bool((~(difference <= threshold * scale)).any())


# --- views -----------------------------------------------------------------------------------------------------------


def everything(tensor: Tensor) -> Tensor:
    return tensor


def at(length: int, start: int, stop: int) -> View:
    """Positions start .. stop-1 of a text of `length`."""

    def view(tensor: Tensor) -> Tensor | None:
        axis = sequence_axis(tensor, length)
        return None if axis is None else tensor.narrow(axis, start, stop - start)

    return view


def in_row(row: int, batch: int, then: View = everything) -> View:
    """One row of a batch, and then a view of that row; what all rows share stays."""

    def view(tensor: Tensor) -> Tensor | None:
        axis = next((axis for axis in range(min(2, tensor.ndim)) if tensor.shape[axis] == batch), None)
        shared = tensor.ndim > 1 and tensor.shape[0] == 1
        if axis is None and not shared:
            return None
        return then(tensor if axis is None else tensor.narrow(axis, row, 1))

    return view


def sequence_axis(tensor: Tensor, length: int) -> int | None:
    """The axis that runs along the text: the first of that length, the batch axis last of all."""
    axes = [*range(1, tensor.ndim), 0] if tensor.ndim else []
    return next((axis for axis in axes if tensor.shape[axis] == length), None)


def joined(whole: Sequence[Call], steps: Sequence[Sequence[Call]], length: int, lengths: Sequence[int]) -> list[Call]:
    """The calls of several steps as those of one whole run, each tensor joined along the text as in `whole`."""
    parts = [dict(zip(_keys(calls), calls, strict=True)) for calls in steps]

    def join(which: str, key: tuple[str, int], call: Call) -> dict[str, Tensor]:
        found = {}
        for place, tensor in getattr(call, which).items():
            axis = sequence_axis(tensor, length)
            pieces = [getattr(part[key], which).get(place) for part in parts]
            fits = axis is not None and all(
                p is not None and p.ndim == tensor.ndim and p.shape[axis] == n
                for p, n in zip(pieces, lengths, strict=True)
            )
            if fits:
                assert axis is not None
                found[place] = torch.cat(pieces, axis)
        return found

    keyed = [(k, c) for k, c in zip(_keys(whole), whole, strict=True) if all(k in part for part in parts)]
    return [Call(key[0], join("inputs", key, call), join("outputs", key, call)) for key, call in keyed]
