"""What two implementations of one paper usually differ in, each as a function that yields variants of a model.

A variant is a sentence and the changes that make it true of the model. Parts of this library are changed by their attributes,
as are torch's and transformers' where they have the same ones, weights by their names.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from formers.parts.feed_forward import ACTIVATIONS
from formers.parts.masks import And, Block, Everything, Mask, Not, Or, SameDocument, Span, StrictlyPast, Window
from formers.parts.positions import Place, Positions

EPSILONS = (1e-5, 1e-6, 1e-8, 1e-12)


@dataclass(frozen=True)
class Change:
    """owner.attribute becomes value."""

    owner: Any
    attribute: str
    value: Any


@dataclass(frozen=True)
class Variant:
    """A model with changes. text: how the models differ if it makes them agree; {here} is the model that is
    changed, {other} the other one. inputs: what forward is given too."""

    text: str
    changes: tuple[Change, ...] = ()
    inputs: Mapping[str, Any] = field(default_factory=dict)


Hypothesis = Callable[[nn.Module, "int | None", Tensor], Iterator[Variant]]
"""(model, layer or None for all, input_ids) -> variants."""


@contextlib.contextmanager
def applied(variant: Variant) -> Iterator[None]:
    """Make the changes of a variant, and undo them."""
    old = [(change, getattr(change.owner, change.attribute)) for change in variant.changes]
    try:
        for change in variant.changes:
            setattr(change.owner, change.attribute, change.value)
        yield
    finally:
        for change, value in reversed(old):
            setattr(change.owner, change.attribute, value)


def layer_of(name: str) -> int | None:
    """The first number in a module's name: its layer."""
    found = re.search(r"(?:^|\.)(\d+)(?:\.|$| )", name)
    return int(found[1]) if found else None


def _within(model: nn.Module, layer: int | None) -> Iterator[tuple[str, nn.Module]]:
    for name, module in model.named_modules():
        if layer is None or layer_of(name) == layer:
            yield name, module


def _place(layer: int | None) -> str:
    return "" if layer is None else f" in layer {layer}"


def gelu_form(model: nn.Module, layer: int | None, input_ids: Tensor) -> Iterator[Variant]:
    """Another activation function: exact, tanh or quick GELU, ReLU, SiLU."""
    attributes = ("activation", "act", "act_fn")
    found = [(m, name) for _, m in _within(model, layer) for name in attributes if form_of(getattr(m, name, None))]
    now = {id(m): form_of(getattr(m, name)) for m, name in found}
    words = " and ".join(sorted(str(form) for form in set(now.values())))
    for form, function in ACTIVATIONS.items():
        changes = tuple(Change(m, n, _like(getattr(m, n), function)) for m, n in found if now[id(m)] != form)
        if changes:
            yield Variant(f"activation: {{here}} has {words}{_place(layer)}, {{other}} {form}", changes)


def form_of(function: Any) -> str | None:
    """Which of our activations a function computes, by trying it; None if it is none of them."""
    if not callable(function):
        return None
    x = torch.linspace(-4, 4, 17, dtype=torch.float64)
    try:
        y = function(x)
    except (RuntimeError, TypeError, ValueError):
        return None
    known = (
        name for name, ours in ACTIVATIONS.items() if isinstance(y, Tensor) and torch.allclose(y, ours(x), atol=1e-12)
    )
    return next(known, None)


class _Function(nn.Module):
    """A function where a module is wanted."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def _like(old: Any, function: Callable[[Tensor], Tensor]) -> Any:
    return _Function(function) if isinstance(old, nn.Module) else function


def epsilon(model: nn.Module, layer: int | None, input_ids: Tensor) -> Iterator[Variant]:
    """Another epsilon in the norms."""
    for attribute in ("eps", "variance_epsilon"):
        modules = [m for _, m in _within(model, layer) if isinstance(getattr(m, attribute, None), float)]
        now = ", ".join(f"{value:g}" for value in sorted({getattr(m, attribute) for m in modules}))
        for value in EPSILONS:
            changes = tuple(Change(m, attribute, value) for m in modules if getattr(m, attribute) != value)
            if changes:
                yield Variant(f"epsilon of the norms: {{here}} has {now}{_place(layer)}, {{other}} {value:g}", changes)


def scale(model: nn.Module, layer: int | None, input_ids: Tensor) -> Iterator[Variant]:
    """Another scale of the attention scores: none, 1/sqrt(d_head), 1/d_head, 1/sqrt(d_model)."""
    found = [(owner, name, d) for _, m in _within(model, layer) for owner, name, d in _scales(m)]
    if not found:
        return
    d_model = getattr(getattr(model, "config", None), "d_model", found[0][2])
    forms: dict[str, Callable[[int], float]] = {
        "1/sqrt(d_head)": lambda d: d**-0.5,
        "1 (no scale)": lambda d: 1.0,
        "1/d_head": lambda d: 1.0 / d,
        "1/sqrt(d_model)": lambda d: d_model**-0.5,
    }
    now = ", ".join(f"{value:.4g}" for value in sorted({getattr(owner, name) for owner, name, _ in found}))
    for words, form in forms.items():
        changes = tuple(Change(owner, name, form(d)) for owner, name, d in found if getattr(owner, name) != form(d))
        if changes:
            yield Variant(f"scale of the scores: {{here}} has {now}{_place(layer)}, {{other}} {words}", changes)


def _scales(module: nn.Module) -> Iterator[tuple[Any, str, int]]:
    """Who holds the scale of an attention, under which name, and its d_head: ours, then transformers'."""
    score, project = getattr(module, "score", None), getattr(module, "project", None)
    if isinstance(getattr(score, "scale", None), float) and hasattr(project, "d_head"):
        yield score, "scale", project.d_head  # type: ignore[union-attr]
    if isinstance(getattr(module, "scaling", None), float) and isinstance(getattr(module, "head_dim", None), int):
        yield module, "scaling", module.head_dim  # type: ignore[misc]


@dataclass(frozen=True)
class Ahead(Mask):
    """Keys up to `by` places after the query: what a mask that is off by so many lets through."""

    by: int

    def allows(self, q: Place, k: Place) -> Tensor:
        return k.index <= q.index + self.by

    def block(self, q: Span, k: Span) -> Block:
        return Block.SOME


def mask(model: nn.Module, layer: int | None, input_ids: Tensor) -> Iterator[Variant]:
    """A mask that leaks, hides the query itself, or has a window off by one."""
    scores = [m for _, m in _within(model, layer) if isinstance(getattr(m, "mask", None), Mask)]
    forms: dict[str, Callable[[Mask], Mask]] = {
        "lets every query see one token ahead": lambda m: m | (Ahead(1) & SameDocument()),
        "hides one token more (the query itself)": lambda m: m & StrictlyPast(),
        "hides what is ahead": lambda m: m & Ahead(0),
        "hides nothing": lambda m: Everything() & SameDocument(),
        "has a window one wider": lambda m: _resized(m, 1),
        "has a window one narrower": lambda m: _resized(m, -1),
    }
    for words, form in forms.items():
        changes = tuple(Change(m, "mask", form(m.mask)) for m in scores if form(m.mask) != m.mask)  # type: ignore[arg-type]
        if changes:
            yield Variant(f"mask{_place(layer)}: beside that of {{here}}, the mask of {{other}} {words}", changes)


def _resized(mask: Mask, by: int) -> Mask:
    """The mask with every window wider by `by`."""
    if isinstance(mask, Window):
        return Window(max(mask.size + by, 1))
    if isinstance(mask, And | Or):
        return type(mask)(_resized(mask.a, by), _resized(mask.b, by))
    return Not(_resized(mask.a, by)) if isinstance(mask, Not) else mask


def position(model: nn.Module, layer: int | None, input_ids: Tensor) -> Iterator[Variant]:
    """Positions that begin at another number."""
    if layer is not None or "positions" not in getattr(model, "inputs", ()):
        return
    index = torch.arange(input_ids.shape[1])[None]
    for offset in (1, -1, 2, -2):
        inputs = {"positions": Positions(index, place=index + offset)}
        yield Variant(f"positions: those of {{other}} stand {offset:+d} from those of {{here}}", inputs=inputs)


def transposed(model: nn.Module, layer: int | None, input_ids: Tensor) -> Iterator[Variant]:
    """A square matrix used the wrong way round."""
    for name, matrices in _alike(model, layer, lambda p: p.ndim == 2):
        for words, flip in _flips(matrices[0]):
            changes = tuple(Change(matrix, "data", flip(matrix.data)) for matrix in matrices)
            yield Variant(f"{{here}} uses {words}{name}{_place(layer)} as it is, {{other}} its transpose", changes)


def _flips(matrix: Tensor) -> Iterator[tuple[str, Callable[[Tensor], Tensor]]]:
    rows, columns = matrix.shape
    if rows == columns:
        yield "", lambda m: m.T.contiguous()
    if rows == 3 * columns:
        for part, word in enumerate(("query", "key", "value")):
            yield f"the {word} part of ", lambda m, part=part: _with_part(m, part, lambda block: block.T)


def _with_part(matrix: Tensor, part: int, change: Callable[[Tensor], Tensor]) -> Tensor:
    """One of the three blocks of rows changed."""
    blocks = list(matrix.chunk(3))
    blocks[part] = change(blocks[part])
    return torch.cat(blocks)


def bias(model: nn.Module, layer: int | None, input_ids: Tensor) -> Iterator[Variant]:
    """A bias that is not added."""
    for name, biases in _alike(model, layer, lambda p: p.ndim == 1):
        if name.endswith("bias"):
            changes = tuple(Change(b, "data", torch.zeros_like(b)) for b in biases)
            yield Variant(f"{{other}} does not add {name}{_place(layer)}", changes)


def swapped(model: nn.Module, layer: int | None, input_ids: Tensor) -> Iterator[Variant]:
    """Query and key, or two norms of a block, in each other's place."""
    for name, tensors in _alike(model, layer, lambda p: p.shape[0] % 3 == 0):
        if re.search(r"project|c_attn|qkv", name) and name.endswith("weight"):
            owners = [
                p for n, ps in _alike(model, layer, lambda p: p.shape[0] % 3 == 0) for p in ps if _sibling(n, name)
            ]
            changes = tuple(Change(p, "data", _query_for_key(p.data)) for p in owners or tensors)
            yield Variant(f"query and key are in each other's place{_place(layer)} ({name})", changes)
    for (first, ones), (second, others) in _norm_pairs(model, layer):
        changes = [Change(x, "data", y.data) for x, y in zip(ones, others, strict=True)]
        changes += [Change(y, "data", x.data) for x, y in zip(ones, others, strict=True)]
        yield Variant(f"{first} and {second} are in each other's place{_place(layer)}", tuple(changes))


def _sibling(name: str, other: str) -> bool:
    """Weight and bias of one map."""
    return name.rpartition(".")[0] == other.rpartition(".")[0]


def _query_for_key(tensor: Tensor) -> Tensor:
    q, k, v = tensor.chunk(3)
    return torch.cat([k, q, v])


Group = tuple[str, list[nn.Parameter]]


def _norm_pairs(model: nn.Module, layer: int | None) -> Iterator[tuple[Group, Group]]:
    """Every two norms of a block, with weight and bias of each in one list."""
    norms: dict[str, list[nn.Parameter]] = {}
    for name, parameters in _alike(model, layer, lambda p: p.ndim == 1):
        if re.search(r"norm|ln", name):
            norms.setdefault(name.rpartition(".")[0], []).extend(parameters)
    groups = [item for item in norms.items() if "*" in item[0]]
    for i, first in enumerate(groups):
        for second in groups[i + 1 :]:
            if [p.shape for p in first[1]] == [p.shape for p in second[1]]:
                yield first, second


def _alike(model: nn.Module, layer: int | None, wanted: Callable[[Tensor], bool]) -> list[Group]:
    """Parameters of the layers, those that differ only in the layer's number together: ``blocks.*.norm.weight``."""
    groups: dict[str, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if wanted(parameter) and (layer is None or layer_of(name) == layer):
            groups.setdefault(re.sub(r"(?<=\.)\d+(?=\.)", "*", name, count=1), []).append(parameter)
    return list(groups.items())


HYPOTHESES: dict[str, Hypothesis] = {
    "gelu": gelu_form,
    "epsilon": epsilon,
    "scale": scale,
    "mask": mask,
    "position": position,
    "bias": bias,
    "transposed": transposed,
    "swapped": swapped,
}
