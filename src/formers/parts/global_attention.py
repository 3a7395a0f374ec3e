"""Attention of which some tokens are global: they see everything by maps of their own, and everything sees them.

Beltagy et al. (2004.05150), section 3.1.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from formers.axes import Hidden
from formers.parts.attend import attend
from formers.parts.attention import Attention, Project, Score
from formers.parts.blocks import put
from formers.parts.kernels import Case, safe_softmax
from formers.parts.masks import Everything, SameDocument
from formers.parts.positions import Positions


class GlobalAttention(Attention):
    """Attention under a mask that lets keys of global tokens through (`Window(w) | GlobalTokens()`), and global tokens.

    Queries that are not global see by `project`, global keys too. Global queries see everything by `project_global`, three
    maps of their own. Which tokens are global, positions say; without any, `project_global` is not used. It keeps no state:
    a global token sees what follows it.

    A listener to `pattern` is given two patterns where there are global tokens: [batch, heads, queries, keys] of all queries
    as if none were global, then [batch, heads, globals, keys] of the global ones, in the order of `Positions.global_slots`.
    """

    def __init__(self, project: Project, project_global: Project, score: Score, mix: nn.Module, **slots: Any) -> None:
        super().__init__(project, score, mix, **slots)
        self.project_global = project_global

    def forward(self, x: Hidden, positions: Positions, state: Any = None, source: Any = None) -> tuple[Hidden, None]:
        q, k, v, _, _ = self.look(x, positions, None)
        heads = self.weigh(q, k, v, replace(positions, is_global=None), positions)
        slots = positions.global_slots
        if slots.shape[1]:
            slots = slots.expand(len(x), -1)
            heads = put(heads, slots, self.of_global_tokens(x, positions, slots))
        return self.mix(self.heads(heads)), None

    def of_global_tokens(self, x: Hidden, positions: Positions, slots: Tensor) -> Tensor:
        """What each head makes of the whole text for the tokens in `slots` [batch, globals]: [batch, heads, globals, d]."""
        few = slots.shape[1] * self.project_global.num_heads <= x.shape[-1] // 2
        return (self.of_few if few else self.of_many)(x, positions, slots)

    def of_many(self, x: Hidden, positions: Positions, slots: Tensor) -> Tensor:
        """Every token gives a key and a value: the slow twin, and faster where many tokens are global."""
        q, k, v = self.project_global.apart(_rows(x, slots), x)
        return attend(
            q * self.score.scale,
            k,
            v,
            positions.at(slots),
            positions,
            mask=Everything() & SameDocument(),
            dropout=self.score.dropout if self.training else 0.0,
            show=self.pattern if self.pattern.heard else None,
        )

    def of_few(self, x: Hidden, positions: Positions, slots: Tensor) -> Tensor:
        """Queries are taken through the key map to the tokens, and what they gather through the value map.

        q.(W x_j) = (W^T q).x_j, and the sum of p_j (W x_j + b) is W (sum of p_j x_j) + b sum of p_j: for one global token of
        twelve heads a thirtieth of what keys and values of every token cost. The bias of keys adds the same to every score.
        """
        maps, heads = self.project_global, self.project_global.num_heads
        of_q, of_k, of_v = maps.linear.weight.split(maps.widths)
        bias_q, _, bias_v = maps.linear.bias.split(maps.widths)
        q = F.linear(_rows(x, slots), of_q, bias_q).unflatten(-1, (heads, -1)).transpose(1, 2) * self.score.scale
        asked = q @ of_k.unflatten(0, (heads, -1))  # [b, h, n, d_model]
        scores = (asked.flatten(1, 2) @ x.transpose(1, 2)).unflatten(1, (heads, -1))
        visible = Case(q, q, q, positions.at(slots), positions, Everything() & SameDocument()).visible()
        pattern = F.dropout(safe_softmax(scores, visible), self.score.dropout, self.training).to(x.dtype)
        pattern = self.pattern(pattern)
        found = (pattern.flatten(1, 2) @ x).unflatten(1, (heads, -1)) @ of_v.unflatten(0, (heads, -1)).transpose(1, 2)
        return found + bias_v.view(heads, 1, -1) * pattern.sum(-1, keepdim=True)


def _rows(x: Hidden, slots: Tensor) -> Tensor:
    return x.gather(1, slots.clamp(min=0)[..., None].expand(-1, -1, x.shape[-1]))
