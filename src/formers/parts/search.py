"""Search: for every query the keys with the largest inner products, among those that a mask lets it see."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from formers.axes import Keys, Queries
from formers.parts.masks import Mask
from formers.parts.positions import Positions

KEYS_AT_A_TIME = 4096
"""Scores of so many keys are held at a time."""


@dataclass
class Nearest:
    """scores [batch, heads, queries, k], -inf where there is no such key, and slots, which mean nothing there."""

    scores: Float[Tensor, "batch heads queries k"]
    slots: Int[Tensor, "batch heads queries k"]

    @property
    def present(self) -> Bool[Tensor, "batch heads queries k"]:
        return self.scores > -torch.inf


@torch.no_grad()
def search_exactly(
    q: Queries, keys: Keys, q_positions: Positions, k_positions: Positions, *, mask: Mask, k: int
) -> Nearest:
    """The `k` nearest keys by inner product, nearest first; heads may share keys (grouped). Scores are held in blocks."""
    b, h, t, _ = q.shape
    groups, n = keys.shape[1], keys.shape[2]
    q = q.reshape(b, groups, -1, q.shape[-1])  # heads that share keys, one after another
    best = Nearest(q.new_full((*q.shape[:3], k), -torch.inf), q.new_zeros((*q.shape[:3], k), dtype=torch.long))
    asked = q_positions.as_queries()
    for start in range(0, n, KEYS_AT_A_TIME):
        part = slice(start, min(start + KEYS_AT_A_TIME, n))
        there = k_positions.map(lambda p, part=part: p[:, part])
        visible = (
            mask.allows(asked, there.as_keys()) & there.present[:, None, None] & q_positions.present[:, None, :, None]
        )
        visible = visible.expand(b, 1, t, -1).repeat(1, 1, h // groups, 1)
        scores = (q @ keys[:, :, part].to(q.dtype).transpose(-1, -2)).masked_fill(~visible, -torch.inf)
        top, slots = scores.topk(min(k, part.stop - part.start), -1)
        best = nearest_of_both(best, Nearest(top, slots + start))
    return Nearest(best.scores.view(b, h, t, k), best.slots.view(b, h, t, k))


def nearest_of_both(a: Nearest, b: Nearest) -> Nearest:
    """The nearest of two lists for each query, as many as `a` holds."""
    scores, which = torch.cat([a.scores, b.scores], -1).topk(a.scores.shape[-1], -1)
    return Nearest(scores, torch.cat([a.slots, b.slots], -1).gather(-1, which))
