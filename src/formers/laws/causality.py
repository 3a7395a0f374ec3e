"""The future does not show: by changing it, and by gradient."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from formers.laws.blame import at, compare, sequence_axis
from formers.laws.law import Finding, Worst, law
from formers.laws.subject import Subject
from formers.laws.trial import Trial
from formers.parts.taps import listen, taps


@law(
    "causal by perturbation",
    "Changing a token changes no logit before it: bit for bit, the shapes being equal.",
    needs=["causal"],
)
@torch.no_grad()
def by_perturbation(subject: Subject, trial: Trial) -> Finding:
    ids = trial.ids(2)
    other, base, worst = trial.other(ids), subject(ids).logits, Worst()
    places, deaf = trial.places(), True
    for t in places:
        logits = subject(_change(ids, other, t)).logits
        moved = (logits[:, :t] - base[:, :t]).abs().amax(dim=(0, 2))
        where = f"changing token {t} moves the logits at position {int(moved.argmax())}"
        worst.see(float(moved.amax()), where, partial(leak, subject, ids, _change(ids, other, t), t))
        deaf = deaf and torch.equal(logits[:, t:], base[:, t:])
    if deaf:
        return Finding.mute("no token changes any logit: the model does not read its input")
    return worst.finding(0.0, f"{len(places)} of {trial.length} tokens changed, one at a time")


@law(
    "causal by gradient",
    "No logit has a gradient with respect to a later token's embedding: exactly 0.",
    needs=["causal"],
)
def by_gradient(subject: Subject, trial: Trial) -> Finding:
    ids, worst = trial.ids(2), Worst()
    other, (embedded, axis, logits) = trial.other(ids), run_from_embeddings(subject, ids)
    if embedded is None:
        return Finding.not_applicable("no module of the model gives vectors that run along the text")
    weights, places, deaf = trial.weights(logits.shape, logits), [0, *trial.places()[:-1]], True
    for t in places:
        (gradient,) = subject.gradients((logits[:, t] * weights[:, t]).sum(), [embedded])
        size = gradient.abs().movedim(axis, 0).flatten(1).amax(1)
        later = t + 1 + int(size[t + 1 :].argmax())
        where = f"the logits at position {t} have a gradient with respect to token {later}"
        worst.see(float(size[later]), where, partial(leak, subject, ids, _change(ids, other, later), later))
        deaf = deaf and not size[: t + 1].any()
    if deaf:
        return Finding.mute("no logit has a gradient with respect to any token up to its own")
    return worst.finding(0.0, f"the logits at {len(places)} of {trial.length} positions")


@law(
    "no weight on the future",
    "No attention pattern gives a later token any weight: exactly 0.",
    needs=["causal"],
)
@torch.no_grad()
def by_weight(subject: Subject, trial: Trial) -> Finding:
    """What stands where exact causality does not, as where tokens are sorted by what they are (LSH)."""
    names = [name for name in taps(subject.model) if name.rpartition(".")[2] == "pattern"]
    if not names:
        return Finding.not_applicable("no module of the model has a tap named pattern")
    if "source" in getattr(subject.model, "inputs", ()):
        return Finding.not_applicable("it reads a source, which stands in no order to what it writes")
    with listen(subject.model, *names) as seen:
        subject(trial.ids(2))
    worst, shown = Worst(), 0
    for name, patterns in seen.items():
        for pattern in (p for p in patterns if p.shape[-2:] == (trial.length, trial.length)):
            later, shown = pattern.triu(1).abs().amax(), shown + 1
            worst.see(float(later), f"{name} looks ahead", partial(str, name.rpartition(".")[0]))
    if not shown:
        return Finding.not_applicable("its patterns are not of tokens by tokens")
    return worst.finding(0.0, f"{shown} patterns of {trial.length} tokens")


def run_from_embeddings(subject: Subject, ids: Tensor) -> tuple[Tensor | None, int, Tensor]:
    """Where tokens first stand as vectors: those vectors, the axis along the text, and the logits they give.

    They are what the first module makes of the ids; where no module is given the ids, the first output that runs along
    the text. The vectors are cut off from what made them, so that gradients end there.
    """
    caught: list[Tensor] = []

    def catch(from_ids: bool) -> Callable[..., Tensor | None]:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> Tensor | None:
            if caught or not _runs_along(output, ids) or (from_ids and not any(_same_ids(a, ids) for a in args)):
                return None
            caught.append(output.detach().requires_grad_())
            return caught[0]

        return hook

    inner = [module for module in subject.model.modules() if module is not subject.model]
    logits = ids
    for from_ids in (True, False):
        with contextlib.ExitStack() as stack:
            for module in inner:
                stack.callback(module.register_forward_hook(catch(from_ids)).remove)
            logits = subject(ids).logits
        if caught and logits.requires_grad:
            axis = sequence_axis(caught[0], ids.shape[1])
            return caught[0], 0 if axis is None else axis, logits
        caught.clear()
    return None, 0, logits


def _runs_along(output: Any, ids: Tensor) -> bool:
    """[batch, seq, width] or [seq, batch, width], floating."""
    is_vectors = isinstance(output, Tensor) and output.is_floating_point() and output.ndim == 3
    return is_vectors and set(output.shape[:2]) == set(ids.shape)


def _same_ids(given: Any, ids: Tensor) -> bool:
    return (
        isinstance(given, Tensor) and not given.is_floating_point() and any(torch.equal(given, i) for i in (ids, ids.T))
    )


def leak(subject: Subject, ids: Tensor, changed: Tensor, t: int) -> str | None:
    """The first module whose outputs before `t` depend on what stands at `t`, while its inputs there do not."""
    before = at(ids.shape[1], 0, t)
    return compare(subject, (ids, None), (changed, None), before, before)


def _change(ids: Tensor, other: Tensor, t: int) -> Tensor:
    changed = ids.clone()
    changed[:, t] = other[:, t]
    return changed
