"""What can go wrong with a memory, seeded: each is caught by a law, which names the layer."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import pytest
from torch import Tensor

import formers
from formers.laws import certify
from formers.parts.masks import Causal, EarlierSegment, Everything, Mask, SameDocument, Segments
from formers.parts.positions import Positions
from formers.parts.recollection import MemoryAttention, MemoryNode

LENGTH = 19
"""More than six segments, and more than the memory holds."""

LAYER = "trunk.blocks.1.attention"
SIZES: dict[str, Any] = {
    "vocab_size": 97, "d_model": 26, "num_layers": 2, "num_heads": 2, "d_ff": 31, "segment_length": 3, "cache_length": 2,
    "memory_layers": (1,), "memory_size": 5, "neighbours": 3, "num_buckets": 6, "max_distance": 9,
}  # fmt: skip


def model(**changes: Any) -> Any:
    return formers.build("memorizing", **SIZES | changes)


def shows(mask: Mask) -> Any:
    def seed(made: Any) -> None:
        attention = made.trunk.blocks[1]["attention"]
        attention.memory = replace(attention.memory, shows=mask)

    return seed


class WritingFirst(MemoryAttention):
    """Writes what this call reads, and then looks up."""

    def _recall(self, q: Tensor, k: Tensor, v: Tensor, positions: Positions, state: MemoryNode | None) -> Any:
        found, staged = super()._recall(q, k, v, positions, state)
        if state is None or staged is None:
            return found, staged
        written = MemoryNode(state.local, staged.commit())
        return super()._recall(q, k, v, positions, written)[0], staged


def write_first(made: Any) -> None:
    made.trunk.blocks[1]["attention"].__class__ = WritingFirst


class Clinging(MemoryNode):
    def reset(self, rows: Tensor) -> MemoryNode:
        return Clinging(self.local.reset(rows), self.memory)


class ClingingAttention(MemoryAttention):
    """Clears the cache of a row that begins anew, and not its memory."""

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Any]:
        y, staged = super().forward(*args, **kwargs)
        return y, None if staged is None else _Staged(staged)


class _Staged:
    def __init__(self, staged: Any) -> None:
        self.staged = staged

    def commit(self) -> MemoryNode:
        node = self.staged.commit()
        return Clinging(node.local, node.memory)


def cling(made: Any) -> None:
    made.trunk.blocks[1]["attention"].__class__ = ClingingAttention


DEFECTS = [
    ("causal by perturbation", shows(SameDocument())),  # the present segment too
    ("causal by perturbation", shows(Segments(3, 5) & SameDocument())),
    ("documents stay apart", shows(EarlierSegment(3, 0, 5))),
    ("documents stay apart", shows(Everything())),
    ("step by step equals whole", shows(EarlierSegment(3, 0, 40) & SameDocument())),  # beyond what is kept
    ("step by step equals whole", write_first),
    ("a state stays as it is until commit", write_first),
    ("a row that is reset begins anew", cling),
]


@functools.cache
def holds(law: str) -> bool:
    return certify(model(), laws=[law], length=LENGTH).ok


@pytest.mark.parametrize(("law", "seed"), DEFECTS, ids=[f"{d[0]}-{i}" for i, d in enumerate(DEFECTS)])
def test_a_law_catches_the_defect_and_names_the_layer(law: str, seed: Any) -> None:
    assert holds(law)
    made = model()
    seed(made)
    found = certify(made, laws=[law], length=LENGTH).laws[law]
    assert (found.status, found.blame) == ("fail", LAYER), found


def test_gradients_alone_do_not_show_a_leak_through_what_is_stored() -> None:
    """No gradient enters a memory, so that one law of causality would not do."""
    made = model()
    shows(SameDocument())(made)
    report = certify(made, laws=["causal by gradient", "causal by perturbation"], length=LENGTH)
    assert [v.name for v in report.failed] == ["causal by perturbation"]


def test_with_other_settings_too_all_laws_hold() -> None:
    other = model(merge="joint", seen_twice=False, num_kv_heads=1, own_token=False)
    report = certify(other, fresh=True, length=LENGTH)
    assert report.ok, report.failed


def test_the_law_of_segments_holds_of_a_cache_beside_a_memory_and_catches_one_that_shows_too_little() -> None:
    law, made = "segments equal whole", model(cache_length=3)
    assert certify(made, laws=[law], length=LENGTH).laws[law].status == "pass"
    made.trunk.blocks[1]["attention"].score.mask = Causal() & Segments(3, 2) & SameDocument()
    found = certify(made, laws=[law], length=LENGTH).laws[law]
    assert (found.status, found.blame) == ("fail", LAYER), found
