"""Multi-head attention as five slots, each an object:

    project    x -> q, k, v by head; grouped key/value heads live here
    turn       q, k -> q, k by position: rotary, norms, nothing
    remember   k, v -> the keys and values that queries may see, remembered ones included, and what to commit
    score      the scale, the mask and the terms added to the logits
    mix        heads -> x

Vaswani et al. (1706.03762) section 3.2; grouped heads: Ainslie et al. (2305.13245).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from formers.axes import Hidden, Keys, Queries, Values
from formers.parts.attend import Term, attend
from formers.parts.masks import Mask
from formers.parts.positions import Positions
from formers.parts.states import KeyValueRing
from formers.parts.taps import Tap


class Project(nn.Module):
    """q, k and v of every head by one linear map, q first, then k, then v, heads one after another.

    `num_kv_heads` fewer than `num_heads` makes grouped heads: query heads i*n .. i*n+n-1 share key/value head i.
    """

    def __init__(
        self, d_model: int, num_heads: int, d_head: int, *, num_kv_heads: int | None = None, bias: bool
    ) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads, self.d_head = num_heads, num_kv_heads or num_heads, d_head
        self.linear = nn.Linear(d_model, (num_heads + 2 * self.num_kv_heads) * d_head, bias=bias)

    @property
    def widths(self) -> tuple[int, int, int]:
        """Output features that are queries, keys and values."""
        return self.num_heads * self.d_head, self.num_kv_heads * self.d_head, self.num_kv_heads * self.d_head

    def forward(self, x: Hidden) -> tuple[Queries, Keys, Values]:
        q, k, v = self.linear(x).split(self.widths, dim=-1)
        return self._heads(q), self._heads(k), self._heads(v)

    def apart(self, x: Hidden, seen: Float[Tensor, "batch keys d_model"]) -> tuple[Queries, Keys, Values]:
        """Queries of `x`, keys and values of `seen`: what is remembered as inputs is not asked for its queries."""
        weight, bias, rows = self.linear.weight, self.linear.bias, self.widths[0]
        q = F.linear(x, weight[:rows], None if bias is None else bias[:rows])
        k, v = F.linear(seen, weight[rows:], None if bias is None else bias[rows:]).split(self.widths[1:], dim=-1)
        return self._heads(q), self._heads(k), self._heads(v)

    def _heads(self, t: Tensor) -> Tensor:
        return t.unflatten(-1, (-1, self.d_head)).transpose(1, 2)


Turn: TypeAlias = Callable[[Tensor, Tensor, Positions], tuple[Tensor, Tensor]]
"""(q, k, positions) -> q, k turned by their positions."""


class Score(nn.Module):
    """The scale of q, the mask, and the terms added to the scaled logits. `terms` own their parameters."""

    def __init__(self, mask: Mask, scale: float, *, terms: Sequence[nn.Module] = (), dropout: float = 0.0) -> None:
        super().__init__()
        self.mask, self.scale, self.dropout = mask, scale, dropout
        self.terms = nn.ModuleList(terms)

    def scaled(self, q: Queries) -> Queries:
        """q times the scale; q itself where that is 1 (T5)."""
        return q if self.scale == 1 else q * self.scale

    def prepare(self, project: nn.Module, positions: Positions) -> list[Term]:
        """The terms, ready for this forward."""
        return [term.prepare(project, positions) for term in self.terms]  # type: ignore[operator]


class KeyValueCache:
    """Remember every key and value: room for `max_length` tokens, and an error at commit when a text is longer."""

    def __init__(self, num_kv_heads: int, d_head: int) -> None:
        self.num_kv_heads, self.d_head = num_kv_heads, d_head

    def init_state(self, batch_size: int, max_length: int, **kind: Any) -> KeyValueRing:
        heads, d = self.num_kv_heads, self.d_head
        return KeyValueRing.empty(batch_size, heads, max_length, d, d, overflow="refuse", **kind)


class KeyValueWindow(KeyValueCache):
    """Remember the newest `size` keys and values, for attention that sees no further.

    segment  calls that begin at a multiple of it see only the newest size - segment (masks of `Segments`); None: no such
    """

    def __init__(self, num_kv_heads: int, d_head: int, size: int, segment: int | None = None) -> None:
        super().__init__(num_kv_heads, d_head)
        self.size, self.segment = size, segment

    def init_state(self, batch_size: int, max_length: int, **kind: Any) -> KeyValueRing:
        room, d = _room(self.size, max_length, self.segment), self.d_head
        return KeyValueRing.empty(batch_size, self.num_kv_heads, d_key=d, d_value=d, **room, **kind)


def _room(size: int, max_length: int, segment: int | None) -> dict[str, Any]:
    """Of a ring for windows of `size`. Where a whole text is to be shorter than that, a longer one is refused: it would miss
    what has no room."""
    if max_length < size:
        return {"capacity": max_length, "overflow": "refuse"}
    return {"capacity": size, "segment": segment}


class Mix(nn.Module):
    """Heads side by side, then one linear map."""

    def __init__(self, num_heads: int, d_head: int, d_model: int, *, bias: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(num_heads * d_head, d_model, bias=bias)

    def forward(self, heads: Tensor) -> Hidden:
        return self.linear(heads.transpose(1, 2).flatten(2))


class Attention(nn.Module):
    """Self-attention of the slots above. A sublayer: (x, positions, state, source) -> (y, staged state)."""

    def __init__(
        self,
        project: nn.Module,
        score: Score,
        mix: nn.Module,
        *,
        turn: Turn | None = None,
        remember: KeyValueCache | InputWindow | None = None,
        runner: str = "auto",
    ) -> None:
        super().__init__()
        self.project, self.score, self.mix = project, score, mix
        self.turn, self.remember, self.runner = turn, remember, runner
        self.queries, self.keys, self.values, self.pattern, self.heads = Tap(), Tap(), Tap(), Tap(), Tap()

    def init_state(self, batch_size: int, max_length: int, **kind: Any) -> KeyValueRing | None:
        return None if self.remember is None else self.remember.init_state(batch_size, max_length, **kind)

    def forward(
        self, x: Hidden, positions: Positions, state: KeyValueRing | None = None, source: Any = None
    ) -> tuple[Hidden, Any]:
        q, k, v, k_positions, staged = self.look(x, positions, state)
        return self.mix(self.heads(self.weigh(q, k, v, positions, k_positions))), staged

    def weigh(self, q: Queries, k: Keys, v: Values, positions: Positions, k_positions: Positions) -> Tensor:
        """What each head makes of the values that it may see [batch, heads, queries, d_value]."""
        return attend(
            q,
            k,
            v,
            positions,
            k_positions,
            mask=self.score.mask,
            terms=self.score.prepare(self.project, positions),
            dropout=self.score.dropout if self.training else 0.0,
            runner=self.runner,
            show=self.pattern if self.pattern.heard else None,
        )

    def look(
        self, x: Hidden, positions: Positions, state: KeyValueRing | None
    ) -> tuple[Queries, Keys, Values, Positions, Any]:
        """Scaled queries, the keys and values they may see with their positions, and what to commit."""
        q, k, v = self.project(x)
        if self.turn is not None:
            q, k = self.turn(q, k, positions)
        q, k, v = self.queries(self.score.scaled(q)), self.keys(k), self.values(v)
        return (q, k, v, positions, None) if state is None else (q, *state.extend(k, v, positions))


class InputWindow:
    """Remember the newest `size` inputs of a sublayer, as a ring of one head of width d_model without values. `segment` as
    of `KeyValueWindow`."""

    def __init__(self, d_model: int, size: int, segment: int | None = None) -> None:
        self.d_model, self.size, self.segment = d_model, size, segment

    def init_state(self, batch_size: int, max_length: int, **kind: Any) -> KeyValueRing:
        return self.ring(batch_size, max_length, d_value=0, **kind)

    def ring(self, batch_size: int, max_length: int, *, d_value: int, **kind: Any) -> KeyValueRing:
        room = _room(self.size, max_length, self.segment)
        return KeyValueRing.empty(batch_size, 1, d_key=self.d_model, d_value=d_value, **room, **kind)


class InputAttention(Attention):
    """Attention that remembers the inputs it was given, and projects their keys and values afresh at every call.

    So gradients reach the key and value maps through what is remembered, and none reaches the remembered inputs
    themselves (Transformer-XL, 1901.02860, section 3.2). `remember` is an `InputWindow`; `project` tells queries `apart`.
    """

    def look(
        self, x: Hidden, positions: Positions, state: KeyValueRing | None
    ) -> tuple[Queries, Keys, Values, Positions, Any]:
        if state is None:
            return super().look(x, positions, None)
        inputs, _, k_positions, staged = state.extend(x[:, None], x[:, None, :, :0], positions)
        q, k, v = self.project.apart(x, inputs[:, 0])  # type: ignore[operator]
        return self.queries(q * self.score.scale), self.keys(k), self.values(v), k_positions, staged


def scale_of(d_head: int) -> float:
    """1 / sqrt(d_head): the usual scale of q (1706.03762, equation 1)."""
    return d_head**-0.5


def initialise_normal(module: nn.Module, std: float, generator: torch.Generator) -> None:
    """Weights of linear maps, convolutions and embeddings from N(0, std^2), biases 0, norms 1 and 0."""
    for child in module.modules():
        if isinstance(child, nn.Linear | nn.Embedding | nn.Conv1d):
            nn.init.normal_(child.weight, 0.0, std, generator=generator)
        if isinstance(child, nn.Linear | nn.Conv1d) and child.bias is not None:
            nn.init.zeros_(child.bias)
