"""Attention with a memory: what a layer sees near by, and what it recalls from long ago, mixed (2203.08913, section 3).

`MemoryAttention` is ordinary attention (the slots of parts/attention.py) with three objects more:

    turn_memory  q, k as the memory knows them: normalised with a learned scale, or as they are; never by position
    shows        the mask that says which entries a query may find, by position: earlier segments of its own document
    merge        what becomes of the two results: a gate a head, one joint softmax, ...

Look-up comes before writing, and both go by positions, so what is found does not depend on how a text was cut into calls.
A memory in which a query finds nothing takes no weight.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from formers.axes import Hidden, Keys, Queries, Values
from formers.parts.approximate import Approximate
from formers.parts.attend import Case, attend, expand_groups, safe_softmax
from formers.parts.attention import KeyValueCache, Score, Turn
from formers.parts.looking import Askers
from formers.parts.masks import Mask, Summary
from formers.parts.memory import Memory, StagedMemory, recall
from formers.parts.piecewise import budget, numbers_of, recall_together
from formers.parts.positions import EMPTY, Positions
from formers.parts.rings import KeyValueRing
from formers.parts.search import Exact, Search
from formers.parts.states import State
from formers.parts.storage import storage_for
from formers.parts.taps import Tap

Heads = Float[Tensor, "batch heads queries d_value"]
Logits = Float[Tensor, "batch heads queries keys"]


@dataclass
class Recalled:
    """What a merge may use: logits [b, h, m, k] of the entries found, which of them are there, and their values; and which m
    tokens of the call looked up."""

    logits: Logits
    present: Bool[Tensor, "batch heads queries k"]
    values: Float[Tensor, "batch heads queries k d_value"]
    askers: Askers

    @property
    def any(self) -> Bool[Tensor, "batch heads tokens 1"]:
        """Whether a token of the call found anything."""
        return self.askers.spread(self.present.any(-1, keepdim=True))

    def together(self, pattern: Float[Tensor, "batch heads queries k"]) -> Float[Tensor, "batch heads tokens d_value"]:
        """The values that were found, weighed; 0 for a token that does not look up."""
        return self.askers.spread((pattern[..., None] * self.values).sum(-2))


# --- merges: (local, recalled, pattern) -> heads --------------------------------------------------------------------


class Gate(nn.Module):
    """c + w (m - c), with one weight w a head, whatever the content, that follows from the parameter `logit`."""

    def __init__(self, num_heads: int, initial: float = 0.0) -> None:
        super().__init__()
        self.logit = nn.Parameter(torch.full((num_heads,), initial))

    @property
    def weight(self) -> Float[Tensor, " heads"]:
        raise NotImplementedError

    def forward(self, local: Heads, remembered: Heads) -> Heads:
        return local + self.weight[:, None, None].to(local.dtype) * (remembered - local)


class SigmoidGate(Gate):
    """g m + (1 - g) c, with g = sigmoid(a) (2203.08913, section 3.2)."""

    @property
    def weight(self) -> Float[Tensor, " heads"]:
        return torch.sigmoid(self.logit)


class TanhGate(Gate):
    """c + tanh(a) (m - c), a = 0 at first: a memory can be grafted onto a trained model and changes nothing yet, while the
    gradient of a is live (after Flamingo, 2204.14198, section 2.2)."""

    @property
    def weight(self) -> Float[Tensor, " heads"]:
        return torch.tanh(self.logit)


class Sum(nn.Module):
    """c + m."""

    def forward(self, local: Heads, remembered: Heads) -> Heads:
        return local + remembered


class StraightThrough(nn.Module):
    """The value of m, and the gradient of c + m: what is near by goes on learning, but only the memory is heard (the
    authors' code, STOP_FORWARD)."""

    def forward(self, local: Heads, remembered: Heads) -> Heads:
        return remembered + (local - local.detach())


MERGES: dict[str, Callable[[int], nn.Module | None]] = {
    "gate": SigmoidGate,
    "tanh": TanhGate,
    "sum": lambda num_heads: Sum(),
    "straight": lambda num_heads: StraightThrough(),
    "joint": lambda num_heads: None,
}
"""By name. `joint` is one softmax over what is near and what is recalled, and has no parameters."""


# --- the layer ------------------------------------------------------------------------------------------------------


@dataclass
class MemoryNode:
    """What the layer remembers: the keys and values near by, and the memory."""

    local: KeyValueRing
    memory: Memory

    def map_rows(self, function: Callable[[Tensor], Tensor]) -> MemoryNode:
        return MemoryNode(self.local.map_rows(function), self.memory.map_rows(function))

    def reset(self, rows: Tensor) -> MemoryNode:
        return MemoryNode(self.local.reset(rows), self.memory.reset(rows))

    def dynamic(self) -> MemoryNode:
        return MemoryNode(self.local.dynamic(), self.memory.dynamic())

    def keep(self, length: int) -> MemoryNode:
        return MemoryNode(self.local.keep(length), self.memory.keep(length))

    def tensors(self) -> dict[str, Tensor]:
        parts = {field.name: getattr(self, field.name).tensors() for field in fields(self)}
        return {f"{part}.{name}": tensor for part, named in parts.items() for name, tensor in named.items()}

    def with_tensors(self, tensors: dict[str, Tensor]) -> MemoryNode:
        def of(part: str) -> dict[str, Tensor]:
            return {name[len(part) + 1 :]: t for name, t in tensors.items() if name.startswith(part + ".")}

        return MemoryNode(self.local.with_tensors(of("local")), self.memory.with_tensors(of("memory")))


@dataclass
class StagedNode:
    node: MemoryNode
    local: Any
    memory: StagedMemory | None  # None: nothing is written to a memory that is only read

    def check(self) -> None:
        if self.memory is not None:
            self.memory.check()

    def commit(self) -> MemoryNode:
        memory = self.node.memory if self.memory is None else self.memory.commit()
        return MemoryNode(self.local.commit(), memory)


SEARCHES: dict[str, Callable[[], Search]] = {"exact": Exact, "approximate": Approximate}
STORAGES = {None: None, "float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.int8}
"""None: the type of the weights."""


SCOPES = ("row", "batch")
"""Whose memory a query looks into: its own row's, or those of all rows of the batch."""


def unknown_ways(search: str, storage: str | None, stride: int = 1, scope: str = "row", every: int = 1) -> list[str]:
    """What is wrong with these settings of a config."""
    strides = {"memory_stride": stride, "memory_query_stride": every}
    problems = [f"{name} is {value}, wanted at least 1" for name, value in strides.items() if value < 1]
    if scope not in SCOPES:
        problems.append(f"memory_scope is {scope!r}, wanted one of {', '.join(SCOPES)}")
    if search not in SEARCHES:
        problems.append(f"memory_search is {search!r}, wanted one of {', '.join(SEARCHES)}")
    if storage not in STORAGES:
        problems.append(f"memory_storage is {storage!r}, wanted none or one of {', '.join(filter(None, STORAGES))}")
    return problems


BATCH_BREAKS = dict.fromkeys(
    (
        "rows independent",
        "padding changes nothing",
        "documents stay apart",
        "step by step equals whole",
        "a row that is reset begins anew",
    ),
    'memory_scope="batch": a query finds what other rows, which are other documents, have read by then',
)
"""Laws that say nothing of a model whose rows share their memories, and why. What a query finds depends on what it is batched
with, and where rows stand at different places also on how the text was cut into calls; rows in step may be cut anywhere."""


def recall_of(state: State) -> float | None:
    """The share of the truly nearest that approximate look-ups of a state found, measured on its own queries; None: all are
    exact, or none was measured."""
    nodes = [node for block in state.nodes for node in block if isinstance(node, MemoryNode)]
    searches = [node.memory.search for node in nodes if isinstance(node.memory.search, Approximate)]
    found = [search.recall for search in searches if search.recall is not None]
    return sum(found) / len(found) if found else None


@dataclass(frozen=True)
class MemorySettings:
    """How much a layer remembers, and what of it a query is given.

    entries     that a row's memory holds beside what `shows` hides from every query yet
    neighbours  that a query is given: k
    shows       which entries a query may find
    search      how they are found, and                      storage  how they are held, by name (SEARCHES, STORAGES)
    stride      of so many tokens one is remembered, the last of every `stride` of its document. Writing takes so many times
                fewer entries, their bytes and their part of a look-up; every query still looks up
    query_stride  of so many tokens one looks up, the first of every `query_stride` of its document; the others are given
                what is near by alone, as where a memory is empty
    scope       "row": a query finds what its own row read. "batch": what any row of the batch read, each row's entries as if
                they stood in its own, whatever their document (`shows` must not tell documents apart); see `BATCH_BREAKS`
    """

    entries: int
    neighbours: int
    shows: Mask
    search: str = "exact"
    storage: str | None = None
    stride: int = 1
    scope: str = "row"
    query_stride: int = 1

    @property
    def visible(self) -> Mask:
        """What `shows` shows of what is remembered: of the tokens of the call itself, too, no others are found."""
        return self.shows if self.stride == 1 else self.shows & Summary(self.stride, 1)

    @property
    def kept(self) -> dict[str, Any]:
        """A search of its own for each memory: it measures what it finds there."""
        return {"search": SEARCHES[self.search](), "storage": STORAGES[self.storage], "stride": self.stride}

    def rounded(self, x: Tensor) -> Tensor:
        """Keys or values as they would read once they were stored."""
        dtype = STORAGES[self.storage]
        return x if dtype is None else storage_for(dtype).empty(1, 1, 1, 1, dtype=dtype, device=x.device).rounded(x)

    @property
    def most(self) -> int:
        """Entries that a query can be given: no more than there are, however many were asked for. How many rows there are to
        share, a batch says."""
        return min(self.neighbours, self.entries) if self.scope == "row" else self.neighbours

    def empty(self, batch_size: int, max_length: int, num_kv_heads: int, d_head: int, **kind: Any) -> Memory:
        """Where a whole text is to have fewer than `entries` there is room for it alone, and a longer one is refused."""
        most = -(-max_length // self.stride)
        slots, overflow = (self.entries, "forget") if self.entries <= most else (most, "refuse")
        return Memory.empty(batch_size, num_kv_heads, slots, d_head, d_head, overflow=overflow, **self.kept, **kind)


class MemoryAttention(nn.Module):
    """Self-attention near by and in a memory. A sublayer: (x, positions, state, source) -> (y, staged state).

    turn_memory  what is done to q and k before the memory sees them, and the local attention too
    turn         what is done to q and k for the local attention alone: rotary positions, which a memory must not store
    """

    def __init__(
        self,
        project: nn.Module,
        score: Score,
        mix: nn.Module,
        *,
        remember: KeyValueCache,
        memory: MemorySettings,
        merge: nn.Module | None,
        turn: Turn | None = None,
        turn_memory: Turn | None = None,
        runner: str = "auto",
    ) -> None:
        super().__init__()
        self.project, self.score, self.mix, self.merge = project, score, mix, merge
        self.remember, self.memory, self.runner = remember, memory, runner
        self.turn, self.turn_memory = turn, turn_memory
        self.queries, self.keys, self.values, self.pattern, self.heads = Tap(), Tap(), Tap(), Tap(), Tap()
        self.found, self.memory_pattern, self.remembered, self.local = Tap(), Tap(), Tap(), Tap()

    def init_state(self, batch_size: int, max_length: int, **kind: Any) -> MemoryNode:
        groups, d_head = self.remember.num_kv_heads, self.remember.d_head
        local = self.remember.init_state(batch_size, max_length, **kind)
        return MemoryNode(local, self.memory.empty(batch_size, max_length, groups, d_head, **kind))

    def forward(
        self, x: Hidden, positions: Positions, state: MemoryNode | None = None, source: None = None
    ) -> tuple[Hidden, Any]:
        q, k, v = self.project(x)
        if self.turn_memory is not None:
            q, k = self.turn_memory(q, k, positions)
        near_q, near_k = (q, k) if self.turn is None else self.turn(q, k, positions)
        near_q = near_q * self.score.scale  # after the turn, as in Attention: the same bits
        q, k, v = self.queries(q * self.score.scale), self.keys(k), self.values(v)
        recalled, staged_memory = self._recall(q, k, v, positions, state)
        near_v, k_positions, staged = v, positions, None
        if state is not None:
            near_k, near_v, k_positions, staged_local = state.local.extend(near_k, v, positions)
            staged = StagedNode(state, staged_local, staged_memory)
        heads = self._merged(near_q, near_k, near_v, positions, k_positions, recalled)
        return self.mix(self.heads(heads)), staged

    def _recall(
        self, q: Queries, k: Keys, v: Values, positions: Positions, state: MemoryNode | None
    ) -> tuple[Recalled, StagedMemory | None]:
        memory, settings = None if state is None else state.memory, self.memory
        askers = Askers.first_of_every(settings.query_stride, positions)
        q, asking = askers.pick(q), askers.places(positions)
        ask = {"mask": settings.visible, "most": settings.most, "shared": settings.scope == "batch", "asking": asking}
        if memory is None:
            k, v = self.memory.rounded(k), self.memory.rounded(v)
        if self._together(q, memory):
            one, staged = recall_together(memory, q, k, v, positions, **ask)
            return Recalled(one.logit[..., None], one.present[..., None], one.value[..., None, :], askers), staged
        found, staged = recall(memory, q, k, v, positions, **ask)
        if self.found.heard:
            self.found(askers.spread(found.index, EMPTY))
        return Recalled((q[..., None, :] * found.keys).sum(-1), found.present, found.values, askers), staged

    def _together(self, q: Queries, memory: Memory | None) -> bool:
        """Whether what queries find is put together in pieces. Who learns, listens or counts wants each entry by itself."""
        if torch.compiler.is_compiling() or torch.is_grad_enabled() or self.training:
            return False
        each = self.found.heard or self.memory_pattern.heard or (memory is not None and memory.policy.counts)
        return not each and numbers_of(q, self.memory.most) > budget(q)

    def _merged(
        self, q: Queries, k: Keys, v: Values, positions: Positions, k_positions: Positions, recalled: Recalled
    ) -> Heads:
        terms = self.score.prepare(self.project, positions)
        dropout = self.score.dropout if self.training else 0.0
        if self.merge is None:
            case = Case(q, k, v, positions, k_positions, self.score.mask, terms)
            return self._joint(case, recalled)
        show = self.pattern if self.pattern.heard else None
        near = {"mask": self.score.mask, "terms": terms, "dropout": dropout, "runner": self.runner, "show": show}
        local = self.local(attend(q, k, v, positions, k_positions, **near))
        pattern = safe_softmax(recalled.logits, recalled.present)
        if self.memory_pattern.heard:
            pattern = recalled.askers.pick(self.memory_pattern(recalled.askers.spread(pattern)))
        remembered = self.remembered(recalled.together(pattern.to(v.dtype)))
        return torch.where(recalled.any, self.merge(local, remembered), local)

    def _joint(self, case: Case, recalled: Recalled) -> Heads:
        """One softmax over the keys near by and the entries found, with no bias on the latter."""
        near = case.q @ expand_groups(case.k, case.q).transpose(-1, -2)
        bias = case.bias()
        near = near if bias is None else near + bias
        far, present = recalled.askers.spread(recalled.logits), recalled.askers.spread(recalled.present)
        visible = torch.cat([case.visible().expand_as(near), present], -1)
        pattern = safe_softmax(torch.cat([near, far], -1), visible).to(case.v.dtype)
        here, there = pattern.split([near.shape[-1], far.shape[-1]], -1)
        here, there = self.pattern(here), recalled.askers.pick(self.memory_pattern(there))
        return here @ expand_groups(case.v, case.q) + recalled.together(there)


def memory_attentions(model: nn.Module) -> dict[str, MemoryAttention]:
    """The layers of `model` that have a memory, by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, MemoryAttention)}


class UnitVectors(nn.Module):
    """q and k of length one, q times a learned positive scale a head: old keys stay comparable while the maps that made
    them move on (2203.08913, section 3.2; the scale is the authors' code's)."""

    def __init__(self, num_heads: int, initial: float, eps: float = 1e-6) -> None:
        super().__init__()
        self.scale, self.eps = nn.Parameter(torch.full((num_heads,), initial)), eps

    def forward(self, q: Tensor, k: Tensor, positions: Positions) -> tuple[Tensor, Tensor]:
        scale = self.scale.abs()[:, None, None].to(q.dtype)
        return self._unit(q) * scale, self._unit(k)

    def _unit(self, x: Tensor) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        return (wide * torch.rsqrt(wide.pow(2).sum(-1, keepdim=True) + self.eps)).to(x.dtype)
