"""Memory by compression: each window of a text is read with a summary of the one before it (MELODI, 2410.03156).

    [x; u] <- block([x; u] | z)         a window's tokens x, its summary u behind them, before them the short-term memory z
    z' = u + M_z [norm x; norm u]       the next window's short-term memory in this layer        (short-term layers, section 2)
    u  = u + M_u [norm x; norm u]       the summary that the next layer is given
    m  = M_m [x; u]                     in the layers with a long-term memory, whose keys and values join a queue

M are token mixers: maps along the text, the same for every channel. A layer with a long-term memory also attends to its queue,
with the queries that look near by, and a gate a channel mixes the two results. Windows of one call follow each other with their
gradients, which is how mixers learn; none crosses from call to call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from formers.axes import Hidden, Keys, Queries, Values
from formers.parts.attend import attend
from formers.parts.attention import Attention, Score, Turn
from formers.parts.masks import Everything, Segments
from formers.parts.positions import Positions
from formers.parts.recurrence import by_segment
from formers.parts.states import Tree
from formers.parts.taps import Tap
from formers.parts.trunk import Blocks, PreNorm
from formers.parts.windows import InWindow, Rows, StagedNode, WindowNode, Windows

Tokens = Float[Tensor, "batch tokens d_model"]
"""A summary, or what is made of it: of another length than the text beside it."""


class TokenMixer(nn.Module):
    """`outputs` tokens, each a weighted sum of a window's tokens and its summary, the same weights for every channel.

    make_norm  makes one norm; then both are normed and the summary is added. None: neither (long-term memory)
    """

    def __init__(self, windows: Windows, outputs: int, make_norm: Callable[[], nn.Module] | None = None) -> None:
        super().__init__()
        self.linear = nn.Linear(windows.kept, outputs)
        self.norms = None if make_norm is None else nn.ModuleList((make_norm(), make_norm()))

    def forward(self, x: Hidden, summary: Tokens) -> Float[Tensor, "batch made d_model"]:
        if self.norms is None:
            return self.linear(torch.cat([x, summary], 1).mT).mT
        normed = [norm(t) for norm, t in zip(self.norms, (x, summary), strict=True)]
        return summary + self.linear(torch.cat(normed, 1).mT).mT


class ChannelGate(nn.Module):
    """a local + (1 - a) remembered, with a = sigmoid(logit) for each channel of each head, whatever the content."""

    def __init__(self, num_heads: int, d_head: int) -> None:
        super().__init__()
        self.logit = nn.Parameter(torch.zeros(num_heads, d_head))

    def forward(self, local: Tensor, remembered: Tensor) -> Tensor:
        return remembered + torch.sigmoid(self.logit)[:, None].to(local.dtype) * (local - remembered)


class WindowAttention(Attention):
    """Causal attention within a window, its short-term memory and its summary; with `recalls`, to a long-term memory too.

    unit  what is done to q and k, by content alone: what is remembered is asked by later windows
    A sublayer whose positions are `InWindow`; it gives the node with these tokens, and `Compressing` does the rest.
    """

    def __init__(
        self, project: nn.Module, score: Score, mix: nn.Module, *, unit: Turn, windows: Windows, recalls: bool
    ) -> None:
        super().__init__(project, score, mix, turn=unit)
        self.windows, self.recalls = windows, recalls
        self.gate = ChannelGate(project.num_heads, project.d_head) if recalls else None  # type: ignore[arg-type]
        self.memory_pattern, self.local, self.remembered = Tap(), Tap(), Tap()

    def init_state(self, batch_size: int, max_length: int, **kind: Any) -> WindowNode:  # type: ignore[override]
        project: Any = self.project
        sizes = project.num_heads, project.d_head, project.linear.in_features
        return WindowNode.empty(batch_size, *sizes, self.windows, self.windows.entries if self.recalls else 0, **kind)

    def forward(
        self, x: Hidden, positions: Positions, state: Any = None, source: Any = None
    ) -> tuple[Hidden, WindowNode]:
        assert isinstance(positions, InWindow)
        q, k, v, _, _ = self.look(x, positions, None)
        keys, values, node = state.see(k, v, positions)
        heads = self.weigh(q, keys, values, positions, positions.near)
        if self.gate is not None:
            local, remembered = self.local(heads), self.remembered(self.recall(q, node, positions))
            there = positions.far.present.any(-1)[:, None, None, None]
            heads = torch.where(there, self.gate(local, remembered), local)
        return self.mix(self.heads(heads)), node

    def recall(self, q: Queries, node: WindowNode, p: InWindow) -> Tensor:
        """What each head makes of the long-term memory, whose entries stand nowhere [batch, heads, queries, d_head]."""
        k, v = node.long_keys.to(q.dtype), node.long_values.to(q.dtype)
        dropout = self.score.dropout if self.training else 0.0
        show = self.memory_pattern if self.memory_pattern.heard else None
        return attend(q, k, v, p, p.far, mask=Everything(), dropout=dropout, show=show)

    def keys_and_values(self, tokens: Tokens, positions: Positions) -> tuple[Keys, Values]:
        """Of memory tokens, as those of any token."""
        project: Any = self.project
        _, k, v = project.apart(tokens[:, :0], tokens)
        assert self.turn is not None
        return self.turn(k, k, positions)[1], v


class Compressing(PreNorm):
    """A trunk that reads window by window, compresses each, and hands that on: to the next window in the same layer, and in
    layers with a long-term memory to as many windows as it holds. Its state begins with `Rows`, the layers' nodes follow.

    summary  tokens that stand behind every window, as the first layer is given them [S, d_model]
    short    what makes a layer's next short-term memory     upward  its summary for the next layer     long  its increment
    """

    def __init__(
        self, blocks: Blocks, make_norm: Callable[[], nn.Module], *, windows: Windows, d_model: int, **settings: Any
    ) -> None:
        super().__init__(blocks, make_norm, **settings)
        self.windows = windows
        self.summary = nn.Parameter(torch.zeros(windows.summary, d_model))
        self.short = nn.ModuleList(TokenMixer(windows, windows.summary, make_norm) for _ in blocks)
        self.upward = nn.ModuleList(TokenMixer(windows, windows.summary, make_norm) for _ in blocks[1:])
        recalls = [str(i) for i, block in enumerate(blocks) if block["attention"].recalls]
        self.long = nn.ModuleDict({i: TokenMixer(windows, windows.increment) for i in recalls})
        self.reads = Segments(windows.size, 2 * windows.size)
        """Laws try texts beyond this: what reaches a fourth window has been compressed twice."""

    def init_state(self, batch_size: int, max_length: int, *, source: Any = None, **kind: Any) -> Tree:
        rows = Rows.empty(batch_size, self.windows, kind.get("device"))
        return (rows,), *super().init_state(batch_size, max_length, source=source, **kind)

    def forward(
        self, x: Hidden, positions: Positions, state: Tree | None = None, source: Any = None
    ) -> tuple[Hidden, Tree | None]:
        pieces = by_segment(positions, self.windows.size)
        first = self.init_state(len(x), 0, dtype=x.dtype, device=x.device) if state is None else state
        if not pieces:  # nothing but padding
            return torch.zeros_like(x), None if state is None else _staged(state, state)
        ((rows,), *nodes), found = first, []
        for number, (slots, place) in enumerate(pieces, 1):
            p, rows = rows.enter(place, self.windows, close=state is not None or number < len(pieces))
            y = x.gather(1, _columns(slots, x))
            if p.closes is not None:
                y = torch.cat([y, self.summary.to(y.dtype).expand(len(y), -1, -1)], 1)
            y, staged = super().forward(y, p, tuple(nodes), source)
            nodes = list(staged or ())
            found.append((slots, y[:, : slots.shape[1]]))
        return _in_order(found, x.shape[1]), None if state is None else _staged(state, ((rows,), *nodes))

    def apply_block(
        self, i: int, x: Hidden, positions: Positions, nodes: tuple[Any, ...], source: Any
    ) -> tuple[Hidden, tuple[Any, ...]]:
        assert isinstance(positions, InWindow)
        x, (node, *others) = super().apply_block(i, x, positions, nodes, source)
        x, node = self.compress(i, x, positions, node)
        return x, (node, *others)

    def compress(self, i: int, x: Hidden, p: InWindow, node: WindowNode) -> tuple[Hidden, WindowNode]:
        """What the layer gave is kept while its window is open, and becomes memory where it closes."""
        x, summary = x.split([x.shape[1] - p.summaries, p.summaries], 1)
        node = node.gave(x, p)
        if p.closes is None:
            return x, node
        window = node.outputs * p.read
        node = node.close(p, *self._kept(i, self.short[i](window, summary), p))
        if str(i) in self.long:
            node = node.queue(p, *self._kept(i, self.long[str(i)](window, summary), p))
        if i < len(self.upward):
            summary = self.upward[i](window, summary)
        return torch.cat([x, summary], 1), node

    def _kept(self, i: int, tokens: Tokens, p: InWindow) -> tuple[Keys, Values]:
        """Keys and values of what a layer remembers, normed as all that it attends to."""
        attention, norm = self._block(i)["attention"], self.norms[i]["attention"]  # type: ignore[index]
        return attention.keys_and_values(norm(tokens), p)  # type: ignore[operator]


def _staged(before: Tree, after: Tree) -> Tree:
    """Each node as it was and as it would be."""
    pairs = (zip(old, new, strict=True) for old, new in zip(before, after, strict=True))
    return tuple(tuple(None if old is None else StagedNode(old, new) for old, new in pair) for pair in pairs)


def _columns(slots: Tensor, x: Hidden) -> Tensor:
    """As `gather` and `scatter` along the text take them."""
    return slots.clamp(min=0)[..., None].expand(len(x), -1, x.shape[-1])


def _in_order(found: list[tuple[Tensor, Tensor]], width: int) -> Hidden:
    """What was found for the pieces of a call, each token in its place; 0 for padding."""
    slots, y = torch.cat([s.expand(len(y), -1) for s, y in found], 1), torch.cat([y for _, y in found], 1)
    whole = y.new_zeros(len(y), width + 1, y.shape[-1])  # one more for what is padding in a piece
    return whole.scatter(1, _columns(torch.where(slots < 0, width, slots), y), y)[:, :-1]
