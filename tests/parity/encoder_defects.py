"""Nine seeded defects that every encoder can have; each model's test adds a tenth of its own. Parity must catch all ten."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F

from formers.parts.feed_forward import gelu_tanh
from formers.parts.masks import Causal, SameDocument
from tests.parity.defects import (
    OffByOne,
    drop_a_bias,
    forget_the_scale,
    swap_norms,
    swap_q_and_k,
    transpose_a_square_map,
)
from tests.parity.encoders import Batch, compare, twins

TOLERANCE = 1e-9
HIDDEN_WHEN_FRESH = {"two norms swapped", "a dropped bias"}
"""With the weights of a fresh model (biases 0, gains 1) these change nothing at all."""


def other_gelu(model: Any) -> None:
    feed_forward = model.trunk.blocks[1]["feed_forward"]
    feed_forward.activation = gelu_tanh if feed_forward.activation is F.gelu else F.gelu


def wrong_epsilon(model: Any) -> None:
    model.trunk.norms[1]["attention"].eps = 1e-5


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
