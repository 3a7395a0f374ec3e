"""Nine seeded defects that every encoder can have; each model's test adds a tenth of its own. Parity must catch all ten."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from formers.parts.embeddings import LearnedPositions
from formers.parts.feed_forward import gelu_tanh
from formers.parts.masks import Causal, SameDocument
from formers.parts.positions import Positions
from tests.parity.encoders import Batch, compare, twins

TOLERANCE = 1e-9
HIDDEN_WHEN_FRESH = {"two norms swapped", "a dropped bias"}
"""With the weights of a fresh model (biases 0, gains 1) these change nothing at all."""


class OffByOne(LearnedPositions):
    def forward(self, positions: Positions) -> torch.Tensor:
        return self.table(positions.table_index + 1) * positions.present[..., None]


def swap_norms(model: Any) -> None:
    norms = model.trunk.norms[1]
    norms["attention"], norms["feed_forward"] = norms["feed_forward"], norms["attention"]


def drop_a_bias(model: Any) -> None:
    torch.nn.init.zeros_(model.trunk.blocks[1]["attention"].mix.linear.bias)


def other_gelu(model: Any) -> None:
    feed_forward = model.trunk.blocks[1]["feed_forward"]
    feed_forward.activation = gelu_tanh if feed_forward.activation is F.gelu else F.gelu


def wrong_epsilon(model: Any) -> None:
    model.trunk.norms[1]["attention"].eps = 1e-5


@torch.no_grad()
def swap_q_and_k(model: Any) -> None:
    linear = model.trunk.blocks[1]["attention"].project.linear
    for tensor in (linear.weight, linear.bias):
        q, k, v = tensor.chunk(3)
        tensor.copy_(torch.cat([k, q, v]))


def forget_the_scale(model: Any) -> None:
    model.trunk.blocks[1]["attention"].score.scale = 1.0


@torch.no_grad()
def transpose_a_square_map(model: Any) -> None:
    weight = model.trunk.blocks[1]["attention"].mix.linear.weight
    weight.copy_(weight.T.clone())


def hide_what_follows(model: Any) -> None:
    model.trunk.blocks[1]["attention"].score.mask = Causal() & SameDocument()


def shift_positions(model: Any) -> None:
    model.embedding.places.__class__ = OffByOne


NINE: dict[str, Callable[[Any], None]] = {
    "two norms swapped": swap_norms,
    "a dropped bias": drop_a_bias,
    "another form of GELU": other_gelu,
    "wrong epsilon": wrong_epsilon,
    "q and k swapped": swap_q_and_k,
    "missing scale": forget_the_scale,
    "transposed square projection": transpose_a_square_map,
    "a causal mask": hide_what_follows,
    "positions off by one": shift_positions,
}


def check_defect(name: str, seed_it: Callable[[Any], None], model: str, given: Batch, sizes: dict[str, Any]) -> None:
    """Parity catches the defect in random weights; in fresh ones it shows in the logits, but for the two that hide there."""
    for random in (True, False):
        ours, theirs, table = twins(model, "masked_token", random=random, **sizes)
        compare(ours, theirs, table, given).assert_within(TOLERANCE)
        seed_it(ours)
        found = compare(ours, theirs, table, given)
        if random:
            print(f"{model}, {name}: {found.worst:.1e}")
            assert found.worst > 1e3 * TOLERANCE, "no tolerance that a careless hand may choose should hide it"
        else:
            assert (found.logits > TOLERANCE) == (name not in HIDDEN_WHEN_FRESH), f"logits differ by {found.logits:.1e}"
