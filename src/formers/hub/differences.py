"""`diff`: where two implementations or checkpoints part, on the same input, in float64."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from formers.errors import ConfigError
from formers.hub import causes
from formers.hub.pairing import (
    Pairing,
    activation_pairs,
    by_execution,
    compare,
    give_weights,
    named_pairs,
    pair,
)
from formers.hub.recording import Trace, in_float64, run
from formers.hub.report import Cause, Compared, DiffReport
from formers.hub.targets import Resolved, resolve
from formers.hub.wrapped import is_transformers

EXACT = 1e-9
"""What two ways of computing the same in float64 may differ by, relative to the largest value."""
FLOAT32_INSIDE = 5e-6
"""The same where transformers takes part: it computes norms, rotary angles and softmax in float32 even in a float64 model."""

BATCH, SEQ = 2, 31
"""Tokens of the input that is drawn where none is given: few, and of prime length."""

Side = str | Path | nn.Module | Resolved


def diff(
    a: Side,
    b: Side,
    *,
    input_ids: Tensor | None = None,
    seed: int = 0,
    share: bool | None = None,
    tolerance: float | None = None,
    code: str | None = None,
) -> DiffReport:
    """Compare two models: weights, then activations in the order they are computed, logits, and gradients of the
    next-token loss; the first of each that differs, and a likely cause.

    a, b       targets (see formers.hub.targets), modules, or resolved targets; neither is changed
    input_ids  Int [batch, seq]; drawn from `seed` where None
    share      give B the weights of A before running: two implementations rather than two checkpoints. By default when
               B's weights are freshly drawn; where A's are fresh too, all are drawn anew, biases and gains included
    tolerance  of activations and gradients, relative; 1e-9, or 5e-6 where transformers takes part. Weights: none
    code       ``file.py:function`` for folders that were made by code of the user's

    Raises:
        TargetError and its kin for a target that cannot be used; ConfigError for input_ids that fit no vocabulary.
    """
    first, second = (_resolved(side, seed, code) for side in (a, b))
    models = in_float64(first.model), in_float64(second.model)
    if tolerance is None:
        tolerance = FLOAT32_INSIDE if any(map(is_transformers, models)) else EXACT
    input_ids = draw_input(models, seed) if input_ids is None else _checked(input_ids, models)
    share = second.fresh if share is None else share
    with _steady(seed):
        return _compare_models(first, second, *models, input_ids, share, tolerance, seed)


def _compare_models(
    first: Resolved,
    second: Resolved,
    a: nn.Module,
    b: nn.Module,
    input_ids: Tensor,
    share: bool,
    tolerance: float,
    seed: int,
) -> DiffReport:
    if share and first.fresh:
        randomise(a, seed)
    pairing = pair(a, b, run(a, input_ids), run(b, input_ids))
    shared = share and give_weights(pairing, a, b)
    both = Both(a, b, input_ids, pairing, tolerance)
    weights, activations, logits, gradients, agreed = both.compared()
    report = DiffReport(
        a=first.name,
        b=second.name,
        tolerance=tolerance,
        input_shape=(input_ids.shape[0], input_ids.shape[1]),
        shared=shared,
        weights=weights,
        activations=activations,
        logits=logits,
        gradients=gradients,
        agreed=agreed,
        settings=_settings(a, b),
    )
    return report if report.same else dataclasses.replace(report, causes=both.causes(weights, logits))


@dataclass
class Both:
    """Two models and how they correspond."""

    a: nn.Module
    b: nn.Module
    input_ids: Tensor
    pairing: Pairing
    tolerance: float

    def compared(self) -> tuple[Compared, Compared, Compared, Compared, str | None]:
        """Weights, activations, logits, gradients, and the last activation that agrees."""
        traces = run(self.a, self.input_ids, backward=True), run(self.b, self.input_ids, backward=True)
        order = by_execution([name for name, _ in self.a.named_parameters()], traces[0])
        activations = self._activations(*traces)
        return (
            self._weights(order),
            activations,
            compare([("logits", "logits", traces[0].logits, traces[1].logits)], self.tolerance),
            self._gradients(*traces, order),
            self._agreed(*traces, activations),
        )

    def _activations(self, a: Trace, b: Trace) -> Compared:
        return compare(activation_pairs(self.pairing, a, b), self.tolerance)

    def _agreed(self, a: Trace, b: Trace, activations: Compared) -> str | None:
        names = [name for name, _, _, _ in activation_pairs(self.pairing, a, b)]
        place = names.index(activations.first.a) if activations.first else 0
        return names[place - 1] if place else None

    def _weights(self, order: list[str]) -> Compared:
        ours, theirs = (dict(model.named_parameters()) for model in (self.a, self.b))
        aligned = self.pairing.align(ours, theirs)
        names = order if self.pairing.table is None or not self.pairing.swapped else list(aligned[0])
        only_a, only_b = self.pairing.unpaired(ours, theirs)
        pairs = [(n, m, x.detach(), y.detach()) for n, m, x, y in named_pairs(*aligned, names)]
        return compare(pairs, 0.0, only_a=only_a, only_b=only_b)

    def _gradients(self, a: Trace, b: Trace, order: list[str]) -> Compared:
        aligned = self.pairing.align(a.gradients, b.gradients)
        names = order if self.pairing.table is None or not self.pairing.swapped else list(aligned[0])
        return compare(named_pairs(*aligned, names[::-1]), self.tolerance)

    def causes(self, weights: Compared, logits: Compared) -> tuple[Cause, ...]:
        """Of the weights, if they differ; and of the code, tried with A's weights in both."""
        found = causes.of_absence(weights)
        if weights.differ:
            aligned = self.pairing.align(dict(self.a.named_parameters()), dict(self.b.named_parameters()))
            found += causes.of_weights(*aligned)
            if not give_weights(self.pairing, self.a, self.b):
                return tuple(found)
        of_code = causes.of_code(self.a, self.b, self.input_ids, self.pairing, self.tolerance)
        if weights.differ and not of_code:
            found.append(Cause("weights", "with A's weights in both the two agree: only the weights differ", True))
        if not (found or of_code or logits.differ):
            found.append(Cause("equivalent", "the logits agree all the same: one result, computed in two ways"))
        said = ("bias", "unknown") if weights.only_a or weights.only_b else ()  # by what one of them lacks
        return tuple(found + [cause for cause in of_code if cause.kind not in said])


def draw_input(models: tuple[nn.Module, nn.Module], seed: int) -> Tensor:
    """Int [2, 31] or shorter, below both vocabularies and within both models' positions."""
    names = ("max_length", "max_position_embeddings", "block_size")  # ours, transformers', nanoGPT's
    limits = [getattr(getattr(model, "config", None), name, None) for model in models for name in names]
    seq = min([SEQ, *(limit - 2 for limit in limits if isinstance(limit, int))])  # room to move positions
    vocab = min(vocab_size(model) for model in models)
    return torch.randint(vocab, (BATCH, max(seq, 2)), generator=torch.Generator().manual_seed(seed))


def vocab_size(model: nn.Module) -> int:
    """From the config, or the rows of the first embedding. Raises ConfigError where there is neither."""
    found = getattr(getattr(model, "config", None), "vocab_size", None)
    if isinstance(found, int):
        return found
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            return module.num_embeddings
    raise ConfigError(f"{type(model).__name__} does not say how many ids it knows", do="give input_ids")


def _checked(input_ids: Tensor, models: tuple[nn.Module, nn.Module]) -> Tensor:
    input_ids = input_ids.cpu()
    if input_ids.ndim != 2 or input_ids.is_floating_point() or input_ids.shape[1] < 2:
        raise ConfigError(f"input_ids {tuple(input_ids.shape)} of {input_ids.dtype}", "integers [batch, seq], seq >= 2")
    vocab = min(vocab_size(model) for model in models)
    if input_ids.min() < 0 or input_ids.max() >= vocab:
        raise ConfigError(
            f"input_ids up to {int(input_ids.max())}", f"ids from 0 to {vocab - 1}, which both models know"
        )
    return input_ids


@torch.no_grad()
def randomise(model: nn.Module, seed: int) -> None:
    """Draw every parameter: matrices N(0, 1/columns), gains 1 +- 0.3, biases 0.3. Fresh models have gains of 1 and biases
    of 0, under which two swapped norms or a dropped bias are invisible."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
        if parameter.ndim > 1:
            parameter.copy_(noise * parameter.shape[-1] ** -0.5)
        else:
            parameter.copy_((parameter == 1) + 0.3 * noise)


def _settings(a: nn.Module, b: nn.Module) -> dict[str, tuple[Any, Any]]:
    """Fields of two configs of one class that differ."""
    ours, theirs = getattr(a, "config", None), getattr(b, "config", None)
    if type(ours) is not type(theirs) or not dataclasses.is_dataclass(ours):
        return {}
    names = [field.name for field in dataclasses.fields(ours)]
    pairs = {name: (getattr(ours, name), getattr(theirs, name)) for name in names}
    return {name: values for name, values in pairs.items() if values[0] != values[1]}


def _resolved(side: Side, seed: int, code: str | None) -> Resolved:
    return side if isinstance(side, Resolved) else resolve(side, seed=seed, code=code)


@contextlib.contextmanager
def _steady(seed: int) -> Iterator[None]:
    """Models that draw random numbers in evaluation draw the same ones; the caller's go on as they were."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
