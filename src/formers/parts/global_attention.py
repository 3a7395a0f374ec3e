"""Attention of which some tokens are global: they see everything by maps of their own, and everything sees them.

Beltagy et al. (2004.05150), section 3.1.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from formers.axes import Hidden
from formers.parts.attend import attend
from formers.parts.attention import Attention, Project, Score
from formers.parts.blocks import put
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

    def forward(self, x: Hidden, positions: Positions, state: None = None, source: Any = None) -> tuple[Hidden, None]:
        q, k, v, _, _ = self.look(x, positions, None)
        heads = self.weigh(q, k, v, replace(positions, is_global=None), positions)
        slots = positions.global_slots
        if slots.shape[1]:
            slots = slots.expand(len(x), -1)
            heads = put(heads, slots, self.of_global_tokens(x, positions, slots))
        return self.mix(self.heads(heads)), None

    def of_global_tokens(self, x: Hidden, positions: Positions, slots: Tensor) -> Tensor:
        """What each head makes of the whole text for the tokens in `slots` [batch, globals]: [batch, heads, globals, d]."""
        rows = x.gather(1, slots.clamp(min=0)[..., None].expand(-1, -1, x.shape[-1]))
        q, k, v = self.project_global.apart(rows, x)
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
