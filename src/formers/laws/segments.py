"""Segments: while the cache covers all that came before, reading segment by segment is reading the whole."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from formers.laws.blame import Call, everything, first_to_differ, joined, traced
from formers.laws.law import Finding, Worst, law
from formers.laws.memory import Cut, stepwise
from formers.laws.subject import Subject
from formers.laws.trial import LONGEST, Trial, gap
from formers.parts.masks import And, Everything, Mask, Not, Or, Segments

FEW = 23
"""Tokens of the second segment that are tried of models that are not small."""


@law(
    "segments equal whole",
    "A text read a segment a call, short enough for the cache to cover it, gives the logits of attention without segments.",
    needs=["state"],
)
@torch.no_grad()
def segments(subject: Subject, trial: Trial) -> Finding:
    config = getattr(subject.original, "config", None)
    size, remembered = _lengths(config)
    reason = _silence(subject.model, size, remembered)
    if reason or size is None or remembered is None:
        return Finding.not_applicable(reason)
    covered = (remembered // size + 1) * size  # the last segment that sees all before it
    length = min(covered, LONGEST if trial.size == "small" else size + FEW)
    lengths = [size] * (length // size) + [length % size] * (length % size > 0)
    cut, worst = Cut(trial.ids(2, length), None, lengths, "segment by segment, "), Worst()
    with without_segments(subject.model):
        whole = subject(cut.ids).logits
    worst.see(gap(stepwise(subject, cut), whole), cut.describe(), lambda: _blame(subject, cut))
    return worst.finding(subject.tolerance, f"{length} tokens in segments of {size}, {remembered} of them remembered")


def _lengths(config: Any) -> tuple[Any, Any]:
    """Of a segment, and of what is kept of the text before it. A memory is written and read by segments either way."""
    kept = getattr(config, "memory_length", None)
    return getattr(config, "segment_length", None), getattr(config, "cache_length", None) if kept is None else kept


def _silence(model: nn.Module, size: Any, remembered: Any) -> str:
    """Why the law says nothing of the model; "" where it does."""
    if not isinstance(size, int) or not isinstance(remembered, int):
        return "it reads in no segments: its config has no segment_length, and no memory_length or cache_length"
    if not any(has_segments(mask) for _, _, mask in _masks(model)):
        return "no mask of the model is one of Segments"
    if remembered < size:
        return f"its memory of {remembered} tokens covers no segment of {size}"
    if size >= LONGEST:
        return f"segments of {size} tokens: no law tries more than {LONGEST} in a row"
    return ""


@contextlib.contextmanager
def without_segments(model: nn.Module) -> Iterator[None]:
    """Every mask as it is but for its `Segments`, which let everything through."""
    before = _masks(model)
    try:
        for module, name, mask in before:
            setattr(module, name, _opened(mask))
        yield
    finally:
        for module, name, mask in before:
            setattr(module, name, mask)


def has_segments(mask: Mask) -> bool:
    return isinstance(mask, Segments) or any(has_segments(part) for part in _parts(mask).values())


def _opened(mask: Any) -> Any:
    if isinstance(mask, Segments):
        return Everything()
    parts = _parts(mask)
    return dataclasses.replace(mask, **{name: _opened(part) for name, part in parts.items()}) if parts else mask


def _parts(mask: Mask) -> dict[str, Mask]:
    return vars(mask) if isinstance(mask, And | Or | Not) else {}


def _masks(model: nn.Module) -> list[tuple[nn.Module, str, Mask]]:
    return [
        (module, name, value)
        for module in model.modules()
        for name, value in vars(module).items()
        if isinstance(value, Mask)
    ]


def _blame(subject: Subject, cut: Cut) -> str | None:
    with without_segments(subject.model), traced(subject.model) as whole:
        subject(cut.ids)
    traces: list[Sequence[Call]] = []
    stepwise(subject, cut, traces)
    stepped = joined(whole, traces, cut.ids.shape[1], cut.lengths)
    return first_to_differ(whole, stepped, everything, everything, subject.tolerance / 100)
