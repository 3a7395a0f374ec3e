"""Likely causes of a difference, found by trying: change one thing in one model and see whether the two agree again.

The variant (see hypotheses.py) after which the two models agree longest is the cause; it stays made, and the search goes on
until they agree or nothing helps.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from formers.errors import FormersError
from formers.hub.hypotheses import HYPOTHESES, Hypothesis, Variant, applied, layer_of
from formers.hub.pairing import Pairing, activation_pairs, compare
from formers.hub.recording import Trace, run
from formers.hub.report import Cause, Compared

MOST_CAUSES = 4


def of_code(a: nn.Module, b: nn.Module, input_ids: Tensor, pairing: Pairing, tolerance: float) -> list[Cause]:
    """Why two models with equal weights differ. Empty where they do not."""
    search = _Search((a, b), input_ids, pairing, tolerance)
    causes: list[Cause] = []
    with contextlib.ExitStack() as kept:
        while search.progress() < search.goal and len(causes) < MOST_CAUSES:
            found = search.best()
            if found is None:
                if not causes:
                    causes.append(Cause("unknown", "none of the usual causes, tried one by one, makes the two agree"))
                break
            kind, side, variant = found
            kept.enter_context(search.keep(side, variant))
            causes.append(Cause(kind, search.sentence(side, variant), search.progress() == search.goal))
    return causes


class _Search:
    """Two models, and how far they agree under changes."""

    def __init__(
        self, models: tuple[nn.Module, nn.Module], input_ids: Tensor, pairing: Pairing, tolerance: float
    ) -> None:
        self.models, self.input_ids, self.pairing, self.tolerance = models, input_ids, pairing, tolerance
        self.inputs: list[dict[str, Any]] = [{}, {}]
        self.traces = [self._run(0), self._run(1)]

    @property
    def goal(self) -> int:
        """Progress of two models whose logits agree."""
        return len(activation_pairs(self.pairing, *self.traces)) + 1

    def progress(self, traces: tuple[Trace, Trace] | None = None) -> int:
        """How many activations agree before the first that differs; `goal` where the logits agree, whatever lies before
        (rows that were exchanged in a weight to try something show in its own output)."""
        a, b = traces or (self.traces[0], self.traces[1])
        if not compare([("logits", "logits", a.logits, b.logits)], self.tolerance).differ:
            return self.goal
        pairs = activation_pairs(self.pairing, a, b)
        first = compare(pairs, self.tolerance).first
        return len(pairs) if first is None else [name for name, *_ in pairs].index(first.a)

    def best(self) -> tuple[str, int, Variant] | None:
        """The variant of either model that carries the agreement furthest beyond where it ends now. Among equals one of all
        layers, then the one that leaves the logits nearest (of two epsilons both may do)."""
        now, best, found = self.progress(), (0, False, 0.0), None
        for kind, hypothesis in HYPOTHESES.items():
            for side, everywhere, variant in self._variants(hypothesis):
                progress, gap = self._try(side, variant)
                if progress > now and (progress, everywhere, -gap) > best:
                    best, found = (progress, everywhere, -gap), (kind, side, variant)
            if best[0] == self.goal:
                break
        return found

    def _try(self, side: int, variant: Variant) -> tuple[int, float]:
        """Progress under a variant, and the difference of the logits."""
        try:
            with applied(variant):
                trace = self._run(side, variant)
        except FormersError:
            return 0, 0.0  # a model that cannot be run so explains nothing
        traces = (trace, self.traces[1]) if side == 0 else (self.traces[0], trace)
        gap = (traces[0].logits - traces[1].logits).abs().max().item()
        return self.progress(traces), gap

    def _variants(self, hypothesis: Hypothesis) -> Iterator[tuple[int, bool, Variant]]:
        """For either model, in all layers at once (True) and then in the layer that differs first."""
        pairs = activation_pairs(self.pairing, *self.traces)
        names = pairs[min(self.progress(), len(pairs) - 1)][:2] if pairs else ("", "")
        for side in (0, 1):
            for scope in dict.fromkeys((None, layer_of(names[side]))):
                for variant in hypothesis(self.models[side], scope, self.input_ids):
                    yield side, scope is None, variant

    @contextlib.contextmanager
    def keep(self, side: int, variant: Variant) -> Iterator[None]:
        """Leave a variant made while the search goes on."""
        with applied(variant):
            self.inputs[side] |= variant.inputs
            self.traces[side] = self._run(side)
            yield

    def sentence(self, side: int, variant: Variant) -> str:
        here, other = ("A", "B") if side == 0 else ("B", "A")
        return variant.text.replace("{here}", here).replace("{other}", other)

    def _run(self, side: int, variant: Variant | None = None) -> Trace:
        inputs = self.inputs[side] | dict(variant.inputs if variant else {})
        return run(self.models[side], self.input_ids, **inputs)


# --- weights ----------------------------------------------------------------------------------------------------------


def of_weights(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> list[Cause]:
    """What is plain from differing weights alone: transposed, zero in one, or in another's place."""
    different = [name for name in a if name in b and not _equal(a[name], b[name])]
    causes = [cause for name in different if (cause := _of_weight(name, a[name], b[name])) is not None]
    for i, name in enumerate(different):
        for other in different[i + 1 :]:
            if _equal(a[name], b[other]) and _equal(a[other], b[name]):
                causes.append(Cause("swapped", f"{name} and {other} are in each other's place"))
    return causes[:MOST_CAUSES]


def _of_weight(name: str, a: Tensor, b: Tensor) -> Cause | None:
    if a.ndim == 2 and _equal(a.T, b):
        return Cause("transposed", f"{name} of B is the transpose of A's")
    if not a.any() or not b.any():
        kind = "bias" if name.endswith("bias") else "weights"
        return Cause(kind, f"{name} is all zero in {'B' if a.any() else 'A'}")
    return None


def of_absence(weights: Compared) -> list[Cause]:
    """Parameters that one of the models does not have."""
    return [
        Cause("bias" if all(n.endswith("bias") for n in names) else "weights", f"{side} has no {_some(names)}")
        for side, names in (("A", weights.only_b), ("B", weights.only_a))
        if names
    ]


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.equal(a, b)


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
