"""State vectors that take in a block of tokens: the horizontal direction of the Block-Recurrent Transformer (2203.07852).

    k_s, v_s, q, q_e = maps of norm(c) + ids               c: S vectors, the same weights for all; `ids` tell them apart
    h = [softmax(q k_s^T) v_s, softmax(q_e k_e^T) v_e]     of the state vectors, and of the block's tokens, in parallel
    c' = update(c, h)                                      a gate stands where a layer has its residual

Keys and values k_e, v_e are those that the tokens of the layer made for each other. Between a state and a token there is no
distance, so no bias.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from formers.axes import Keys, Queries, Values
from formers.parts.attend import attend
from formers.parts.attention import Project, Turn
from formers.parts.feed_forward import activation
from formers.parts.masks import Everything, Mask
from formers.parts.norms import RMSNorm
from formers.parts.positions import Positions
from formers.parts.taps import Tap

States = Float[Tensor, "batch states d_model"]

# --- gates: (c, h) -> c' ----------------------------------------------------------------------------------------------


class FixedGate(nn.Module):
    """g c + (1 - g) W h, with g = sigmoid(b): a number a feature, so an average that fades over blocks."""

    def __init__(self, d_in: int, d_model: int) -> None:
        super().__init__()
        self.value = nn.Linear(d_in, d_model, bias=False)
        self.bias = nn.Parameter(torch.zeros(d_model))

    def forward(self, c: States, h: Tensor) -> States:
        kept = torch.sigmoid(self.bias)
        return kept * c + (1 - kept) * self.value(h)


class LSTMGate(nn.Module):
    """f c + i tanh(W h), with f = sigmoid(W_f h + b_f + 1) and i = sigmoid(W_i h + b_i - 1), which begin by remembering."""

    def __init__(self, d_in: int, d_model: int) -> None:
        super().__init__()
        self.value = nn.Linear(d_in, d_model, bias=False)
        self.forget, self.write = nn.Linear(d_in, d_model), nn.Linear(d_in, d_model)

    def forward(self, c: States, h: Tensor) -> States:
        kept, written = torch.sigmoid(self.forget(h) + 1), torch.sigmoid(self.write(h) - 1)
        return kept * c + written * torch.tanh(self.value(h))


GATES: dict[str, Callable[[int, int], nn.Module]] = {"fixed": FixedGate, "lstm": LSTMGate}


# --- updates: (c, h) -> c' --------------------------------------------------------------------------------------------


class Layer(NamedTuple):
    """What an update is made of: its gate, and the sizes of a layer. d_heads: of what its attentions give, side by side."""

    gate: Callable[[int, int], nn.Module]
    d_heads: int
    d_model: int
    d_ff: int
    activation_name: str
    eps: float


class Skip(nn.Module):
    """A gate behind the attentions, and no feed-forward."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.gate = layer.gate(layer.d_heads, layer.d_model)

    def forward(self, c: States, h: Tensor) -> States:
        return self.gate(c, h)


class Dual(nn.Module):
    """Both residuals of a layer are gates: behind the attentions, and behind the feed-forward."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.gate, self.second = layer.gate(layer.d_heads, layer.d_model), layer.gate(layer.d_ff, layer.d_model)
        self.norm, self.expand = RMSNorm(layer.d_model, layer.eps), nn.Linear(layer.d_model, layer.d_ff, bias=False)
        self.activation = activation(layer.activation_name)

    def forward(self, c: States, h: Tensor) -> States:
        between = self.gate(c, h)
        return self.second(between, self.activation(self.expand(self.norm(between))))


class Single(nn.Module):
    """The feed-forward reads the attentions as they are, and one gate stands behind it."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.gate, self.expand = layer.gate(layer.d_ff, layer.d_model), nn.Linear(layer.d_heads, layer.d_ff, bias=False)
        self.activation = activation(layer.activation_name)

    def forward(self, c: States, h: Tensor) -> States:
        return self.gate(c, self.activation(self.expand(h)))


UPDATES: dict[str, Callable[[Layer], nn.Module]] = {"skip": Skip, "dual": Dual, "single": Single}


# --- the cell ---------------------------------------------------------------------------------------------------------


class Looked(NamedTuple):
    """State vectors, what tokens and states may see of them, and what they ask of each other and of tokens."""

    c: States
    k: Keys
    v: Values
    q: Queries
    q_tokens: Queries


class StateCell(nn.Module):
    """`num_states` vectors, what they show to tokens (`look`), and what they become by a block (`after`).

    turn, turn_tokens  of the queries for states (and the states' keys), and of the queries for tokens
    mask               which tokens a state vector sees that stands where the block's last token does
    """

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        d_head: int,
        num_states: int,
        update: nn.Module,
        mask: Mask,
        *,
        turn: Turn,
        turn_tokens: Turn,
        eps: float,
    ) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.zeros(num_states, d_model))
        self.ids = nn.Parameter(torch.zeros(num_states, d_model))
        self.norm = RMSNorm(d_model, eps)
        self.project = Project(d_model, num_heads, d_head, bias=False)
        self.ask = Ask(d_model, num_heads, d_head)
        self.update, self.mask, self.turn, self.turn_tokens = update, mask, turn, turn_tokens
        self.states, self.pattern, self.token_pattern = Tap(), Tap(), Tap()

    def begin(self, batch: int) -> States:
        """What a document begins with."""
        return self.first.expand(batch, -1, -1)

    def look(self, c: States) -> Looked:
        x = self.norm(c) + self.ids
        places = Positions.whole(x.shape[1], device=x.device)
        q, k, v = self.project(x)
        q, k = self.turn(q, k, places)
        return Looked(c, k, v, q, turned(self.turn_tokens, self.ask(x), places))

    def after(self, looked: Looked, k: Keys, v: Values, ends: Positions, k_positions: Positions) -> States:
        """The state vectors behind a block. ends: where its last token stands in each row; k, v, k_positions: of tokens."""
        places = Positions.whole(looked.k.shape[2], device=k.device)
        there = ends.map(lambda t: t.expand(-1, places.length))
        among = _attend(looked.q, looked.k, looked.v, places, places, Everything(), self.pattern)
        read = _attend(looked.q_tokens, k, v, there, k_positions, self.mask, self.token_pattern)
        h = torch.cat([among, read], 1).transpose(1, 2).flatten(2)
        return self.states(self.update(looked.c, h))


class Ask(nn.Module):
    """Queries of another kind, of the same inputs."""

    def __init__(self, d_model: int, num_heads: int, d_head: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.linear = nn.Linear(d_model, num_heads * d_head, bias=False)

    def forward(self, x: Float[Tensor, "batch queries d_model"]) -> Queries:
        return self.linear(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


def turned(turn: Turn, q: Queries, positions: Positions) -> Queries:
    """Queries alone, whose keys others have turned."""
    return turn(q, q[:, :, :0], positions)[0]


def _attend(q: Queries, k: Keys, v: Values, at: Positions, k_at: Positions, mask: Mask, pattern: Tap) -> Tensor:
    k, v = k.to(q.dtype), v.to(q.dtype)
    return attend(q, k, v, at, k_at, mask=mask, show=pattern if pattern.heard else None)
