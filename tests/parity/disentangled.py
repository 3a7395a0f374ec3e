"""What the parity tests of DeBERTa's versions share: the reference with its float32 casts lifted, and defects of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import nn
from transformers.models.deberta import modeling_deberta
from transformers.models.deberta_v2 import modeling_deberta_v2

from formers.parts.disentangled import DisentangledScore
from formers.parts.positions import Positions
from tests.parity.encoder_defects import NINE
from tests.parity.encoders import ROWS, SIDES, Batch, batch
from tests.parity.harness import float64_throughout

LIFTED = 1e-9
AS_IT_IS = 5e-6
"""transformers computes scales, and in version 1 norms, in float32 also in a float64 model: the floor is theirs."""
LABELS = {"sequence": 5, "token": 7}


def lift(patch: pytest.MonkeyPatch) -> None:
    float64_throughout(patch, modeling_deberta, modeling_deberta_v2)


def sizes(common: dict[str, Any], head: str, **changes: Any) -> dict[str, Any]:
    """Theirs has one code of attention, by the name of eager."""
    return common | {"num_labels": LABELS.get(head, 2), "attention": "eager"} | changes


def given(side: str, head: str = "masked_token", num_types: int = 0) -> Batch:
    return batch(side, vocab_size=101, num_labels=LABELS.get(head, 2), num_types=num_types)


def sides(heads: Iterable[str]) -> list[tuple[str, str]]:
    """Every head with every side; transformers reads the padding where rows are padded on the left."""
    found = sorted({side for side, _ in SIDES})
    return [(head, side) for head in heads for side in found if side != "left" or head not in ROWS]


# --- defects ----------------------------------------------------------------------------------------------------------


class OneFurther(DisentangledScore):
    """Distances count from one."""

    def prepare(self, project: nn.Module, positions: Positions) -> Any:
        term = super().prepare(project, positions)
        return lambda q, k, q_at, k_at: term(q, k, Positions(q_at.index + 1), k_at)


class AsInEquationFour(DisentangledScore):
    """The distances of the second product the other way round."""

    def prepare(self, project: nn.Module, positions: Positions) -> Any:
        scale, maps = self.scale, self.maps

        def add(q: Any, k: Any, q_at: Positions, k_at: Positions) -> Any:
            told = self.distances.reach
            keys, queries = maps(project, self.distances(told))
            row = self.distances.row(q_at.index[:, :, None] - k_at.index[:, None, :], told)[:, None]
            first = (q @ keys.mT).gather(-1, row.expand(*q.shape[:3], -1))
            second = (k @ (queries * scale).mT).gather(-1, row.expand(*q.shape[:3], -1)).mT
            return first + second

        return add


def of_terms(kind: type[DisentangledScore]) -> Callable[[Any], None]:
    def defect(model: Any) -> None:
        model.trunk.blocks[1]["attention"].score.terms[0].__class__ = kind

    return defect


def scale_of_one_product(model: Any) -> None:
    """As in attention without distances."""
    score = model.trunk.blocks[1]["attention"].score
    score.scale = score.terms[0].scale = score.scale * 3**0.5


def a_table_for_each_layer(model: Any) -> None:
    """The second layer begins with the first one's numbers and goes its own way by a hundredth."""
    term = model.trunk.blocks[1]["attention"].score.terms[0]
    own = type(term.distances)(39, reach=term.distances.reach, max_distance=term.distances.max_distance).double()
    own.norm = term.distances.norm
    with torch.no_grad():
        own.table.weight.copy_(term.distances.table.weight * torch.linspace(1.0, 1.01, 39))
    term.distances = own


EIGHT = {name: defect for name, defect in NINE.items() if name != "positions off by one"}
OWN: dict[str, Callable[[Any], None]] = {
    "distances off by one": of_terms(OneFurther),
    "distances of the second product as in equation 4": of_terms(AsInEquationFour),
    "the scale of one product": scale_of_one_product,
}
