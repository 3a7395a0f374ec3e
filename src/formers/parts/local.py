"""Local attention of the Reformer: tokens see their chunk and chunks beside it, with queries, keys and values of their own."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from formers.axes import Keys, Queries, Values
from formers.parts.attention import Attention, KeyValueWindow, Mix, Project, Score, scale_of
from formers.parts.chunked import Window, attend_chunks
from formers.parts.masks import Causal, Everything, SameDocument, Segments
from formers.parts.positions import Positions


def local_attention(d_model: int, num_heads: int, d_head: int, window: Window, *, dropout: float) -> Attention:
    """Attention within `window`, without biases: by positions where it is causal, in a ring of chunks where it is not."""
    kind = LocalAttention if window.causal else RingAttention
    remembered = window.before * window.chunk
    mask = Causal() & Segments(window.chunk, remembered) if window.causal else Everything()
    made = kind(
        project=Project(d_model, num_heads, d_head, bias=False),
        remember=KeyValueWindow(num_heads, d_head, remembered + window.chunk) if window.causal else None,
        score=Score(mask & SameDocument(), scale_of(d_head), dropout=dropout),
        mix=Mix(num_heads, d_head, d_model, bias=False),
    )
    made.window = window
    return made


class LocalAttention(Attention):
    """Causal: a query sees its chunk and `before` chunks before it, counted by positions, so that it does not matter how a
    text was cut into calls or padded."""

    window: Window

    def weigh(self, q: Queries, k: Keys, v: Values, positions: Positions, k_positions: Positions) -> Tensor:
        """By chunks where they are all of a text, else as any mask."""
        whole = positions.start == 0 and k.shape[2] == q.shape[2] > self.window.chunk
        if not whole or self.pattern.heard or self.runner != "auto":
            return super().weigh(q, k, v, positions, k_positions)
        window = replace(self.window, multiple=self.window.chunk)
        chunks = window.filled(q.shape[2]) // window.chunk
        window = replace(window, before=min(window.before, chunks - 1))
        return by_chunks(self, q, k, v, positions, window)


class RingAttention(Attention):
    """From both sides, as Hugging Face has it: a row's chunks stand in a ring, whose first and last see each other."""

    window: Window

    def weigh(self, q: Queries, k: Keys, v: Values, positions: Positions, k_positions: Positions) -> Tensor:
        n, window = q.shape[2], self.window
        if n <= window.chunk:
            return super().weigh(q, k, v, positions, k_positions)
        return by_chunks(self, q, k, v, positions, window) * positions.present[:, None, :, None]


def by_chunks(attention: Attention, q: Queries, k: Keys, v: Values, positions: Positions, window: Window) -> Tensor:
    """Attention in chunks of the tokens as they come [batch, heads, queries, d_value]."""
    batch, heads, n, _ = q.shape
    order = torch.arange(n, device=q.device).expand(batch, heads, 1, n)
    dropout = attention.score.dropout if attention.training else 0.0
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    return attend_chunks(q, k, v, order, positions.index, positions.document, window, dropout).transpose(1, 2)
