"""Where each token of a document looked: its window, the cache, or the memory, what it found there, and what that bought.

    found = lookups(model, tokenizer.encode(text), tokenizer=tokenizer)
    found.at(700, layer=8, head=0)      # shares, gate, and the best entries with their text

The document is read as a model with a memory reads it, a segment a call, and the taps of its memory layers are heard. What is
kept are a few numbers a token and head, never a square of the length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from formers.errors import DataError, TargetError
from formers.inspection.looked import SHARES, LayerLookups
from formers.inspection.looked import Lookups as Lookups
from formers.parts.model import Model
from formers.parts.recollection import MemoryAttention, MemoryNode, StraightThrough, Sum, memory_attentions
from formers.parts.taps import attach

if TYPE_CHECKING:
    from formers.text import Tokenizer

# --- reading a document ---------------------------------------------------------------------------------------------


def lookups(
    model: nn.Module,
    ids: Sequence[int] | np.ndarray | Tensor,
    *,
    tokenizer: Tokenizer | None = None,
    top: int = 4,
    without: bool = True,
) -> Lookups:
    """Read one document and say where each token looked in every memory layer and head.

    tokenizer  gives tokens their text            top  entries kept for each token and head, the best
    without    read it once more without memory, for `loss_without`

    Raises TargetError for a model that has no memory, DataError for ids that are no document of its vocabulary.
    """
    layers = memory_layers(model)
    each = segment_length(layers)
    assert isinstance(model, Model)
    document = _document(model, ids)
    reader = _Reader(layers, document.shape[1], max(1, top))
    training = model.training
    model.eval()
    try:
        with reader.listening(model):
            loss = _read(model, document, each, reader.after_segment)
        with _without_memory(model, layers):
            loss_without = _read(model, document, each) if without else None
    finally:
        model.train(training)
    pieces = () if tokenizer is None else _pieces(tokenizer, document[0].tolist())
    return Lookups(document[0].cpu().numpy(), pieces, loss, loss_without, each, reader.layers())


def memory_layers(model: nn.Module) -> dict[str, MemoryAttention]:
    """The layers that have a memory, by name. Raises TargetError where there are none."""
    found = memory_attentions(model)
    if not found or not isinstance(model, Model):
        raise TargetError(
            f"{type(model).__name__} has no memory to look things up in",
            "a model with memory layers: memorizing, or a decoder that a memory was grafted onto",
            "formers graft RUN --out DIR",
        )
    return found


def segment_length(layers: dict[str, MemoryAttention]) -> int:
    """Tokens that see the same of the memory: a call of so many reads only what calls before it wrote. Raises TargetError
    where layers differ."""
    lengths = {module.memory.shows.grain for module in layers.values()}
    if len(lengths) > 1 or min(lengths) < 2:
        raise TargetError(f"memory layers with segments of {sorted(lengths)} tokens", "one length of 2 or more for all")
    return lengths.pop()


def _document(model: Model, ids: Any) -> Tensor:
    """ids as [1, T] on the model's device."""
    row = torch.as_tensor(np.asarray(ids) if not isinstance(ids, Tensor) else ids)
    if row.ndim != 1 or not len(row) or row.is_floating_point():
        raise DataError(f"ids of shape {tuple(row.shape)} and type {row.dtype}", "one document of at least one token")
    vocab_size = model.config.vocab_size
    low, high = int(row.min()), int(row.max())
    if low < 0 or high >= vocab_size:
        raise DataError(f"token id {low if low < 0 else high}", f"0 to {vocab_size - 1}", "the model's own tokenizer")
    return row.long()[None].to(next(model.parameters()).device)


def _pieces(tokenizer: Tokenizer, ids: list[int]) -> tuple[str, ...]:
    """The text of each token; a character of several tokens stands at the last of them."""
    stream = tokenizer.stream(show_special=True)
    pieces = [stream.feed(i) for i in ids]
    pieces[-1] += stream.finish()
    return tuple(pieces)


@torch.no_grad()
def _read(
    model: Model, document: Tensor, segment_length: int, after_segment: Callable[[int, Any], None] | None = None
) -> np.ndarray:
    """Read segment by segment; the loss of each token. after_segment: (place of its first token, the state it read)."""
    length = document.shape[1]
    state = model.init_state(1, length)
    loss = np.full(length, np.nan, np.float32)
    for start in range(0, length, segment_length):
        segment = document[:, start : start + segment_length]
        out = model(segment, state=state)
        if after_segment is not None:
            after_segment(start, state)
        targets = document[0, start + 1 : start + 1 + segment_length]
        scored = nn.functional.cross_entropy(out.logits[0, : len(targets)].float(), targets, reduction="none")
        loss[start + 1 : start + 1 + len(targets)] = scored.cpu().numpy()
        assert out.state is not None
        state = out.state.commit()
    return loss


@contextmanager
def _without_memory(model: Model, layers: dict[str, MemoryAttention]) -> Iterator[None]:
    """Every memory layer gives what is near by alone."""
    near: dict[str, Tensor] = {}
    listeners: dict[str, Callable[[Tensor], Tensor | None]] = {}
    for name, module in layers.items():
        if module.merge is None:  # one softmax: the rest of it, to a sum of 1 again
            listeners[f"{name}.pattern"] = _normalised
            listeners[f"{name}.memory_pattern"] = torch.zeros_like
        else:
            listeners[f"{name}.local"] = lambda local, name=name: near.__setitem__(name, local)
            listeners[f"{name}.heads"] = lambda heads, name=name: near.pop(name)
    with attach(model, listeners):
        yield


def _normalised(pattern: Tensor) -> Tensor:
    return pattern / pattern.sum(-1, keepdim=True).clamp(min=torch.finfo(pattern.dtype).tiny)


# --- what the taps say ----------------------------------------------------------------------------------------------

HEARD = ("queries", "found", "pattern", "memory_pattern")


@dataclass
class _Layer:
    """Arrays being filled; see LayerLookups."""

    name: str
    module: MemoryAttention
    shares: np.ndarray
    index: np.ndarray
    score: np.ndarray
    weight: np.ndarray

    @classmethod
    def empty(cls, name: str, module: MemoryAttention, length: int, heads: int, top: int) -> _Layer:
        shape = (length, heads, min(top, module.memory.most))
        index, score, weight = (np.zeros(shape, kind) for kind in (np.int32, np.float32, np.float32))
        return cls(name, module, np.zeros((length, heads, len(SHARES)), np.float32), index, score, weight)


class _Reader:
    """Hears the memory layers of a forward, in the order in which they are applied, and keeps what is asked for."""

    def __init__(self, modules: dict[str, MemoryAttention], length: int, top: int) -> None:
        self.modules, self.length, self.top = modules, length, top
        self.heard: list[tuple[str, dict[str, Tensor]]] = []
        self.filled: dict[int, _Layer] = {}

    def listening(self, model: Model) -> Any:
        return attach(model, {f"{name}.{tap}": self._hears(name, tap) for name in self.modules for tap in HEARD})

    def _hears(self, name: str, tap: str) -> Callable[[Tensor], None]:
        def hear(tensor: Tensor) -> None:
            if tap == HEARD[0]:
                self.heard.append((name, {}))
            self.heard[-1][1][tap] = tensor.detach()

        return hear

    def after_segment(self, start: int, state: Any) -> None:
        nodes = [(i, node) for i, block in enumerate(state.nodes) for node in block if isinstance(node, MemoryNode)]
        for (i, node), (name, seen) in zip(nodes, self.heard, strict=True):
            if i not in self.filled:
                heads = seen["queries"].shape[1]
                self.filled[i] = _Layer.empty(name, self.modules[name], self.length, heads, self.top)
            _fill(self.filled[i], start, seen, node)
        self.heard.clear()

    def layers(self) -> tuple[LayerLookups, ...]:
        return tuple(
            LayerLookups(i, made.name, _gates(made.module), made.shares, made.index, made.score, made.weight)
            for i, made in sorted(self.filled.items())
        )


def _fill(into: _Layer, start: int, seen: dict[str, Tensor], node: MemoryNode) -> None:
    """One segment of one layer: its queries [1, H, t, d], found [1, H, t, k], pattern [1, H, t, keys]."""
    q, found = seen["queries"][0], seen["found"][0]
    given = torch.where(found >= 0, seen["memory_pattern"][0].float(), 0.0)
    shares, scale = _shares(into.module.merge, seen["pattern"][0].float(), given)
    weight, best = (given * scale).topk(into.index.shape[-1], dim=-1)
    index = found.gather(-1, best)
    score = _scores(q, index, node)
    rows = slice(start, start + q.shape[1])
    by_token = (t.transpose(0, 1).cpu().numpy() for t in (shares, index, score, weight))
    into.shares[rows], into.index[rows], into.score[rows], into.weight[rows] = by_token


def _shares(merge: nn.Module | None, pattern: Tensor, given: Tensor) -> tuple[Tensor, Tensor]:
    """Shares [H, t, 4], and what a weight among the entries given is of the whole [H, t, 1].

    The keys of this call, which is a segment, are the last ones of the pattern.
    """
    own = pattern[..., pattern.shape[-1] - pattern.shape[-2] :].sum(-1, keepdim=True)
    near = pattern.sum(-1, keepdim=True)
    far = given.sum(-1, keepdim=True)
    if merge is None:
        of_near, of_far = near, far
    else:
        a, b = _weights(merge, pattern.shape[0], pattern.device)
        of_near, of_far = torch.where(far > 0, a, 1.0), torch.where(far > 0, b, 0.0)
    total = of_near + of_far
    blind = total <= 0
    of_near, of_far = (torch.where(blind, 0.0, part / total.where(~blind, 1.0)) for part in (of_near, of_far))
    nothing = torch.where(near > 0, 0.0, 1.0 - of_far)
    window = torch.where(near > 0, of_near * own / near.where(near > 0, 1.0), 0.0)
    cache = 1.0 - nothing - of_far - window
    shares = torch.cat([window, cache.clamp(min=0.0), of_far, nothing], -1)
    return shares, torch.where(far > 0, of_far / far.where(far > 0, 1.0), 0.0)


def _weights(merge: nn.Module, heads: int, device: Any) -> tuple[Tensor, Tensor]:
    """What near by and memory weigh in each head, [H, 1, 1] each, by size."""
    if isinstance(merge, Sum | StraightThrough):
        near, far = (1.0, 1.0) if isinstance(merge, Sum) else (0.0, 1.0)
        return torch.full((heads, 1, 1), near, device=device), torch.full((heads, 1, 1), far, device=device)
    gate = _gate(merge)
    if gate is None:
        raise TargetError(f"a merge {type(merge).__name__} without a `weight`", "one that says what the memory weighs")
    gate = gate[:, None, None].to(device)
    return (1.0 - gate).abs(), gate.abs()


def _gate(merge: nn.Module | None) -> Tensor | None:
    weight = getattr(merge, "weight", None)
    return weight.detach().float() if isinstance(weight, Tensor) else None


def _gates(module: MemoryAttention) -> np.ndarray | None:
    gate = _gate(module.merge)
    return None if gate is None else gate.cpu().numpy()


def _scores(q: Tensor, index: Tensor, node: MemoryNode) -> Tensor:
    """Inner products [H, t, n] of queries with the stored keys of those places, exactly as they are stored."""
    memory = node.memory
    groups, slots = memory.keys.shape[1:3]
    there = memory.index[0]
    slot_of = torch.zeros(int(max(there.max(), index.max())) + 2, dtype=torch.long, device=there.device)
    slot_of[there] = torch.arange(slots, device=there.device)  # empty slots, -1, write to the last place, unused
    group = torch.arange(len(q), device=q.device)[:, None, None] // (len(q) // groups)
    keys = memory.keys.gather(group * slots + slot_of[index]).to(q.dtype)
    return torch.where(index >= 0, (q[:, :, None] * keys).sum(-1), 0.0).float()
