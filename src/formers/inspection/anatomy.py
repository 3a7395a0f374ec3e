"""What a model is made of and what it costs: a tree of modules, and products, state and attention counted by running it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from formers.parts.attention import Attention
from formers.parts.memory import memory_bytes
from formers.parts.mosaic import ContextMemory, PersistentMemory
from formers.parts.recollection import STORAGES, MemoryAttention, memory_attentions
from formers.parts.storage import storage_for
from formers.parts.trunk import Trunk

PROBE = 16
"""Tokens of the forward in which products are counted, or a segment: of more, a part may be called once a segment."""

SOURCE = 1024
"""Tokens of the source whose keys and values are counted in the state of an encoder-decoder."""

ENDLESS = 1 << 40
"""Tokens of a text that no window or memory holds."""


@dataclass(frozen=True)
class Weight:
    """One tensor of a module. `shared_with` names the module that showed it first, where one did."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    bytes: int
    shared_with: str | None = None


@dataclass
class Part:
    """One module: its own tensors, its children, and the parameters of all below it, shared ones counted once."""

    name: str
    kind: str
    parameters: int
    bytes: int
    weights: list[Weight] = field(default_factory=list)
    children: list[Part] = field(default_factory=list)
    alike: int = 1
    """How many neighbours of the same structure this part stands for, itself included."""
    runs: int = 1
    """How many layers a block is, where the trunk's order says that it is several."""

    def signature(self) -> tuple[Any, ...]:
        """Equal for modules of the same structure that share nothing."""
        shapes = tuple((w.name, w.shape, w.shared_with) for w in self.weights)
        return (
            self.kind,
            shapes,
            self.alike,
            self.runs,
            tuple((child.name, child.signature()) for child in self.children),
        )


def tree(model: nn.Module) -> Part:
    """The modules that hold parameters, neighbours of the same structure folded into one."""
    trunks = [(path, trunk) for path, trunk in model.named_modules() if isinstance(trunk, Trunk)]
    runs = {f"{path}.blocks.{i}".lstrip("."): n for path, trunk in trunks for i, n in Counter(trunk.order).items()}
    return _part(type(model).__name__, "", model, {}, runs)


def _part(name: str, path: str, module: nn.Module, seen: dict[int, str], runs: Mapping[str, int]) -> Part:
    """seen: of every tensor the path that showed it first."""
    weights, own = [], 0
    for label, tensor in module.named_parameters(recurse=False, remove_duplicate=False):
        first = seen.setdefault(id(tensor), f"{path}.{label}".lstrip("."))
        is_first = first == f"{path}.{label}".lstrip(".")
        own += tensor.numel() * is_first
        weights.append(_weight(label, tensor, None if is_first else first))
    below = [(label, f"{path}.{label}".lstrip("."), child) for label, child in module.named_children()]
    children = [_part(label, where, child, seen, runs) for label, where, child in below]
    children = [child for child in children if child.weights or child.children]
    parameters = own + sum(child.parameters for child in children)
    size = sum(w.bytes for w in weights if w.shared_with is None) + sum(child.bytes for child in children)
    return Part(name, type(module).__name__, parameters, size, weights, list(_folded(children)), runs=runs.get(path, 1))


def _weight(name: str, tensor: torch.Tensor, shared_with: str | None) -> Weight:
    dtype = str(tensor.dtype).removeprefix("torch.")
    return Weight(name, tuple(tensor.shape), dtype, tensor.numel() * tensor.element_size(), shared_with)


def _folded(children: list[Part]) -> Iterator[Part]:
    """Numbered neighbours that are alike become one part named ``0..3``."""
    run: list[Part] = []
    for child in [*children, None]:
        if run and (child is None or not child.name.isdigit() or child.signature() != run[0].signature()):
            yield _fold(run)
            run = []
        if child is not None:
            run.append(child)


def _fold(run: list[Part]) -> Part:
    first = run[0]
    if len(run) == 1:
        return first
    name, parameters, size = f"{first.name}..{run[-1].name}", sum(p.parameters for p in run), sum(p.bytes for p in run)
    return Part(name, first.kind, parameters, size, first.weights, first.children, len(run), first.runs)


@dataclass(frozen=True)
class Held:
    """The memory of one layer, when it is full: of one row.

    kv_heads, entries, d_head   a key and a value of d_head numbers for each
    vector_bytes                of one key or value as it is held
    bytes                       of all, by `parts.memory.memory_bytes`: entries x (kv_heads x 2 x vector_bytes + 24) + 8
    look_up_per_token           operations of comparing a token's queries with every key, exactly (the mean, if not all look up)
    stride, query_stride        of so many tokens one is an entry, of so many one looks up
    shared                      look-ups go through the memories of all rows of a batch, as many times more operations
    """

    layer: str
    kv_heads: int
    entries: int
    d_head: int
    vector_bytes: int
    bytes: int
    look_up_per_token: int
    stride: int = 1
    shared: bool = False
    query_stride: int = 1


@dataclass(frozen=True)
class Cost:
    """What a token costs in a forward, and what the model remembers. None: the model does not say.

    products_per_token   floating-point operations of matrix products with weights; a multiplication and an addition are two
    attention_per_token  operations for each token that a token attends to, all layers together
    state_per_token      bytes the state grows by with each token of one row
    state_bytes          bytes of one row's state with room for `state_tokens`, and of an encoder-decoder the keys and values
                         of a source of `SOURCE` tokens
    state_bound          bytes that one row's state never exceeds, however long the text; None: it grows with it
    memories             of the layers that have one
    source_tokens        of an encoder-decoder: how long a source `state_bytes` counts
    """

    products_per_token: int
    attention_per_token: int | None
    state_per_token: float | None
    state_bytes: int | None
    state_tokens: int | None
    state_bound: int | None = None
    memories: tuple[Held, ...] = ()
    source_tokens: int | None = None

    @property
    def memory_bytes(self) -> int:
        """Of all memories of one row, when they are full."""
        return sum(held.bytes for held in self.memories)

    def forward(self, context: int) -> int:
        """Operations of one token's forward with `context` tokens to attend to."""
        return self.products_per_token + (self.attention_per_token or 0) * context


@torch.no_grad()
def cost(model: nn.Module) -> Cost:
    """Counted in one forward over a few tokens (and a source of as many), so that shared layers count as often as they
    run."""
    per_key: list[int] = []
    learned: list[int] = []
    hooks = [m.register_forward_hook(lambda part, *_: per_key.append(_per_key(part))) for m in _attentions(model)]
    memories = [module for module in model.modules() if isinstance(module, PersistentMemory)]
    hooks += [m.register_forward_hook(lambda part, *_: learned.append(_of_slots(part))) for m in memories]
    was_training = model.training
    try:
        segment = getattr(getattr(model, "config", None), "segment_length", PROBE)
        probe = min(PROBE, segment)  # of more, a layer may be called several times
        ids = torch.zeros(1, probe, dtype=torch.long, device=next(model.parameters()).device)
        source = {"source": ids} if writes_from_source(model) else {}
        with FlopCounterMode(display=False) as counter:
            model.eval()(ids, **source)
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()
    counts = counter.get_flop_counts().get("Global", {})
    products = sum(count for op, count in counts.items() if str(op) in ("aten.mm", "aten.addmm"))
    source_tokens = SOURCE if writes_from_source(model) else None
    products = products // probe + sum(learned)
    return Cost(products, sum(per_key) if per_key else None, *_state(model), _held(model), source_tokens)


def writes_from_source(model: nn.Module) -> bool:
    """An encoder-decoder: its costs are of a token of the source and one of the text together."""
    return "source" in getattr(model, "inputs", ())


def _attentions(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(module, Attention | MemoryAttention | ContextMemory)]


def _per_key(attention: nn.Module) -> int:
    """Scores take 2 operations a head and number of a key, the weighted sum of values as many a number of a value."""
    if isinstance(attention, ContextMemory):
        return 4 * attention.key.linear.out_features
    project: Any = attention.project
    return 2 * project.num_heads * (getattr(project, "d_key", project.d_head) + project.d_head)


def _of_slots(memory: Any) -> int:
    """A token asks every learned pair, so each of their numbers counts as a weight of a map does."""
    return 2 * (memory.slot_keys.numel() + memory.slot_values.numel())


def _state(model: Any) -> tuple[float | None, int | None, int | None, int | None]:
    if "state" not in getattr(model, "inputs", ()):
        return None, None, None, None
    limit = getattr(model.config, "max_length", None)
    tokens = limit or 1024
    model = _on_meta(model) if writes_from_source(model) else model
    short, long = (_state_bytes(model, length) for length in (tokens // 2, tokens))
    most = None if limit else _state_bytes(model, ENDLESS)
    bounded = most is not None and most == _state_bytes(model, ENDLESS // 2)
    return (long - short) / (tokens - tokens // 2), long, tokens, most if bounded else None


def _state_bytes(model: Any, length: int) -> int:
    kind: dict[str, Any] = {"device": "meta"}
    if writes_from_source(model):
        kind["source"] = torch.zeros(1, SOURCE, dtype=torch.long, device="meta")
    return model.init_state(1, length, **kind).nbytes


def _on_meta(model: Any) -> Any:
    """The same model without weights: to count the keys of a source, an encoder has to run."""
    with torch.device("meta"):
        return type(model)(model.config).to(next(model.parameters()).dtype).eval()


def _held(model: nn.Module) -> tuple[Held, ...]:
    return tuple(_memory_of(name, layer) for name, layer in memory_attentions(model).items())


def _memory_of(name: str, layer: MemoryAttention) -> Held:
    project: Any = layer.project
    entries, groups, d_head = layer.memory.entries, project.num_kv_heads, project.d_head
    stride, every, shared = layer.memory.stride, layer.memory.query_stride, layer.memory.scope == "batch"
    operations = 2 * project.num_heads * d_head * entries // every
    dtype = STORAGES[layer.memory.storage] or next(layer.parameters()).dtype
    vector = storage_for(dtype).bytes_each(d_head, dtype)
    size = memory_bytes(1, groups, entries, d_head, d_head, dtype=dtype)
    return Held(name, groups, entries, d_head, vector, size, operations, stride, shared, every)
