"""Attention whose heads have masks of their own, each run by the pattern that it is (1904.10509, section 4.3)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from formers.axes import Hidden, Keys, Queries, Values
from formers.parts.attend import Case, attend
from formers.parts.attention import Attention, KeyValueCache, Score
from formers.parts.factorised import pays, worth
from formers.parts.masks import ByHead, Mask
from formers.parts.positions import Positions
from formers.parts.states import KeyValueRing


class NarrowProject(nn.Module):
    """q, k and v of every head by one linear map, q and k of `d_key` numbers a head, v of `d_head`. Heads one by one."""

    def __init__(self, d_model: int, num_heads: int, d_key: int, d_head: int, *, bias: bool) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads, self.d_key, self.d_head = num_heads, num_heads, d_key, d_head
        self.linear = nn.Linear(d_model, sum(self.widths), bias=bias)

    @property
    def widths(self) -> tuple[int, int, int]:
        """Output features that are queries, keys and values."""
        return self.num_heads * self.d_key, self.num_heads * self.d_key, self.num_heads * self.d_head

    def forward(self, x: Hidden) -> tuple[Queries, Keys, Values]:
        q, k, v = (t.unflatten(-1, (self.num_heads, -1)) for t in self.linear(x).split(self.widths, -1))
        return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)


class NarrowCache(KeyValueCache):
    """Remember keys of `d_key` and values of `d_head` numbers: the newest `size` of them, or all where that is None."""

    def __init__(self, num_heads: int, d_key: int, d_head: int, size: int | None) -> None:
        super().__init__(num_heads, d_head)
        self.d_key, self.size = d_key, size

    def init_state(self, batch_size: int, max_length: int, **kind: Any) -> KeyValueRing:
        if self.size is None or max_length < self.size:  # a longer text would miss what has no room
            capacity, overflow = max_length, "refuse"
        else:
            capacity, overflow = self.size, "wrap"
        return KeyValueRing.empty(
            batch_size, self.num_kv_heads, capacity, self.d_key, self.d_head, overflow=overflow, **kind
        )


class FactorisedAttention(Attention):
    """Attention with a mask a head. Heads of one mask stand side by side and are run together.

    Whole texts go the fast way of `factorised` where that is worth it, all else (a step of generation, short texts) to
    `attend`. `runner`: ``auto``, ``factorised`` for whole texts of any length, or a runner of `attend`.
    """

    def __init__(self, project: nn.Module, masks: Sequence[Mask], scale: float, mix: nn.Module, **slots: Any) -> None:
        mask = masks[0] if len(set(masks)) == 1 else ByHead(tuple(masks))
        super().__init__(project, Score(mask, scale), mix, **slots)

    def weigh(self, q: Queries, k: Keys, v: Values, positions: Positions, k_positions: Positions) -> Tensor:
        if self.pattern.heard:
            return attend(q, k, v, positions, k_positions, mask=self.score.mask, show=self.pattern)
        parts, start = [], 0
        for mask, heads in self.heads_by_mask(q.shape[1]):
            one = slice(start, start + heads)
            parts.append(self.run(Case(q[:, one], k[:, one], v[:, one], positions, k_positions, mask)))
            start += heads
        return torch.cat(parts, 1)

    def heads_by_mask(self, num_heads: int) -> list[tuple[Mask, int]]:
        """Masks with how many heads in a row have them."""
        mask = self.score.mask
        masks = mask.masks if isinstance(mask, ByHead) else (mask,) * num_heads
        return [(mask, len(list(group))) for mask, group in itertools.groupby(masks)]

    def run(self, case: Case) -> Tensor:
        if self.runner == "auto" and torch.compiler.is_compiling() and case.q_positions.start is None and pays(case):
            return self.run_uncompiled(case)  # type: ignore[call-arg]  # whether tokens stand in runs, tensors alone say
        runner = "factorised" if self.runner == "auto" and worth(case) else self.runner
        return attend(case.q, case.k, case.v, case.q_positions, case.k_positions, mask=case.mask, runner=runner)

    @torch.compiler.disable
    def run_uncompiled(self, case: Case) -> Tensor:
        """Packed and padded texts in compiled code: the graph is left for attention, which would else hold every pair."""
        return self.run(case)
