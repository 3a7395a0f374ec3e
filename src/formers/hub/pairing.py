"""Which tensor of one model means the same as which of another: by a paper's table of names, or by equal names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from formers.hub.recording import Trace
from formers.hub.report import Compared, Difference
from formers.models import registry
from formers.weights import Table

Named = dict[str, Tensor]


@dataclass(frozen=True)
class Pairing:
    """activations: names in A and in B, in the order A computes them. table: reads B's tensors as A's, or, if `swapped`, A's
    as B's; None: names are equal."""

    activations: tuple[tuple[str, str], ...]
    table: Table | None = None
    swapped: bool = False

    def align(self, a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> tuple[Named, Named]:
        """Parameters (or their gradients) of both under the names of one."""
        if self.table is None:
            return dict(a), dict(b)
        theirs = self.table.partial(a if self.swapped else b)[0]
        return (theirs, dict(b)) if self.swapped else (dict(a), theirs)

    def unpaired(self, a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Names that only A has, and that only B has."""
        if self.table is None:
            return tuple(n for n in a if n not in b), tuple(n for n in b if n not in a)
        ours, theirs = (b, a) if self.swapped else (a, b)
        read, problems = self.table.partial(theirs)
        known = {name for rule in self.table.rules for name in rule.ours}
        only_ours = tuple(n for n in ours if n not in read)
        only_theirs = (*(p.removeprefix("unknown ") for p in problems if p.startswith("unknown ")),)
        only_theirs += tuple(n for n in read if n in known and n not in ours)
        return (only_theirs, only_ours) if self.swapped else (only_ours, only_theirs)


def pair(a: nn.Module, b: nn.Module, trace_a: Trace, trace_b: Trace) -> Pairing:
    """The pairing under which most activations correspond."""
    shared = tuple((name, name) for name in trace_a.outputs if name in trace_b.outputs)
    candidates = [Pairing(shared)]
    for ours, theirs, swapped in ((a, b, False), (b, a, True)):
        module = _module(ours)
        if module is None or type(ours) is type(theirs):
            continue
        pairs = [(n, m)[:: -1 if swapped else 1] for n, m in module.activations(ours.config)]
        candidates.append(Pairing(_every_call(pairs, trace_a, trace_b), module.weights(ours.config), swapped))
    return max(candidates, key=lambda pairing: len(pairing.activations))


def _every_call(pairs: list[tuple[str, str]], a: Trace, b: Trace) -> tuple[tuple[str, str], ...]:
    """Pairs of a table as they stand in both traces, each call of a module that runs again included, in A's order."""
    place = {name: i for i, name in enumerate(a.outputs)}
    again = {name.partition(" (call")[2] for name in a.outputs}
    names = ((f"{n} (call{call}", f"{m} (call{call}") if call else (n, m) for n, m in pairs for call in again)
    found = [(n, m) for n, m in names if n in a.outputs and m in b.outputs]
    return tuple(sorted(found, key=lambda pair: place[pair[0]]))


def _module(model: nn.Module) -> ModuleType | None:
    """The built-in module that has a table to pair this model by. One of ours alone may have none: equal names do."""
    architecture = getattr(getattr(model, "config", None), "architecture", None)
    module = registry.spec(architecture).load() if architecture in registry.specs() else None
    return module if hasattr(module, "activations") else None


def give_weights(pairing: Pairing, a: nn.Module, b: nn.Module) -> bool:
    """Copy A's parameters into B, those that both have. False, and nothing is copied, where their shapes differ."""
    source, target = {n: p.detach() for n, p in a.named_parameters()}, dict(b.named_parameters())
    if pairing.table is not None:
        source = pairing.table.partial(source)[0] if pairing.swapped else pairing.table.partial_write(source)
    common = [name for name in target if name in source]
    fits = bool(common) and all(source[name].shape == target[name].shape for name in common)
    if fits:
        with torch.no_grad():
            for name in common:
                target[name].copy_(source[name])
    return fits


# --- comparing --------------------------------------------------------------------------------------------------------


def compare(pairs: list[tuple[str, str, Tensor, Tensor]], tolerance: float, **only: Any) -> Compared:
    """Pairs of tensors in their order. Values below a millionth of the largest of all count as noise."""
    floor = 1e-6 * max((t.abs().max().item() for _, _, *ts in pairs for t in ts if t.numel()), default=0.0)
    found = [_difference(*item, floor) for item in pairs]
    different = [d for d in found if d.relative is None or not d.relative <= tolerance]
    return Compared(len(pairs), len(different), different[0] if different else None, **only)


def activation_pairs(pairing: Pairing, a: Trace, b: Trace) -> list[tuple[str, str, Tensor, Tensor]]:
    """Outputs of paired modules, in the order that A computes them."""
    return [(n, m, a.outputs[n], b.outputs[m]) for n, m in pairing.activations if n in a.outputs and m in b.outputs]


def named_pairs(a: Named, b: Named, order: list[str]) -> list[tuple[str, str, Tensor, Tensor]]:
    """Tensors of equal names, in the order given."""
    return [(name, name, a[name], b[name]) for name in order if name in a and name in b]


def by_execution(names: list[str], trace: Trace) -> list[str]:
    """Parameters in the order in which the modules that own them finished."""
    place = {name: i for i, name in enumerate(trace.outputs)}

    def when(name: str) -> int:
        owner = name
        while owner and owner not in place:
            owner = owner.rpartition(".")[0]
        return place.get(owner, len(place))

    return sorted(names, key=when)


def _difference(name_a: str, name_b: str, a: Tensor, b: Tensor, floor: float) -> Difference:
    if a.shape != b.shape and not (a.ndim == b.ndim and a.shape[1:] == b.shape[1:] and 1 in (a.shape[0], b.shape[0])):
        return Difference(name_a, name_b, None, None, f"{tuple(a.shape)} in A, {tuple(b.shape)} in B")
    gap = (a - b).abs()
    largest = gap.max().item() if gap.numel() else 0.0
    size = max(a.abs().max().item(), b.abs().max().item(), floor) if gap.numel() else 0.0
    return Difference(name_a, name_b, largest, largest / size if size else largest, _where(gap, largest))


def _where(gap: Tensor, largest: float) -> str:
    """Which positions of an activation [batch, seq, ..] differ, where not all do."""
    if gap.ndim < 3 or not largest:  # [batch, seq, ..] or [batch, heads, seq, ..]
        return ""
    differs = (gap > 1e-6 * largest).any(-1).flatten(0, -2).any(0)
    positions = differs.nonzero().flatten().tolist()
    if len(positions) in (0, len(differs)):
        return ""
    first, last = positions[0], positions[-1]
    run = last - first + 1 == len(positions)
    return f"at position{'s' * (len(positions) > 1)} " + (
        f"{first} to {last} of 0 to {len(differs) - 1}" if run else ", ".join(map(str, positions[:8]))
    )
