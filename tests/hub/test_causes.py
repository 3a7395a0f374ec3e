"""Every defect of this file is seeded into one of two models that are equal otherwise; diff must say where and why."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from torch import Tensor

from formers.hub import diff
from formers.hub.hypotheses import Ahead
from formers.parts.attention import Mix
from formers.parts.masks import Causal, StrictlyPast, Window
from tests.hub.defects import (
    dropped_bias,
    exact_gelu,
    key_for_query,
    masked,
    missing_scale,
    positions_off_by_one,
    transposed_projection,
    why,
    wrong_epsilon,
)
from tests.hub.models import small

DEFECTS: dict[str, tuple[Callable[[Any], None], str, str, str]] = {
    # name: defect, kind of the cause, part of its sentence, the first activation that differs
    "exact gelu": (exact_gelu, "gelu", "A has gelu_tanh, B gelu", "trunk.blocks.0.feed_forward.neurons"),
    "epsilon": (wrong_epsilon, "epsilon", "A has 1e-05, B 1e-12", "trunk.norms.0.attention"),
    "scale": (missing_scale, "scale", "B 1 (no scale)", "trunk.blocks.0.attention.queries"),
    "mask leaks": (
        masked(Ahead(1)),
        "mask",
        "B lets every query see one token ahead",
        "trunk.blocks.0.attention.heads",
    ),
    "mask hides itself": (masked(StrictlyPast()), "mask", "the query itself", "trunk.blocks.0.attention.heads"),
    "transposed": (transposed_projection, "transposed", "B its transpose", "trunk.blocks.1.attention.mix"),
    "dropped bias": (
        dropped_bias,
        "bias",
        "B does not add trunk.blocks.*.attention.mix",
        "trunk.blocks.1.attention.mix",
    ),
    "q and k": (key_for_query, "swapped", "query and key", "trunk.blocks.1.attention.project"),
    "positions": (positions_off_by_one, "position", "those of B stand +1 from those of A", "places.table"),
}


@pytest.mark.parametrize("name", DEFECTS)
def test_a_seeded_defect_is_found_with_its_place_and_cause(name: str) -> None:
    defect, kind, says, place = DEFECTS[name]
    a = small("gpt2")
    b = copy.deepcopy(a)
    defect(b)
    report = diff(a, b)
    assert not report.same
    assert report.weights.differ == 0
    assert report.activations.first is not None
    assert report.activations.first.name == place
    assert report.logits.first is not None
    assert report.gradients.first is not None
    assert why(report) == [kind]
    assert says in report.causes[0].text
    assert report.causes[0].complete


@pytest.mark.parametrize("defect", [exact_gelu, wrong_epsilon, missing_scale, masked(Ahead(1)), transposed_projection])
def test_a_defect_in_a_llama_is_found_too(defect: Callable[[Any], None]) -> None:
    a = small("llama", d_model=24)
    b = copy.deepcopy(a)
    defect(b)
    assert why(diff(b, a)) in (["gelu"], ["epsilon"], ["scale"], ["mask"], ["transposed"])


def test_a_window_off_by_one_is_found() -> None:
    a, b = small("gpt2"), small("gpt2")
    masked(Causal() & Window(7))(a)
    masked(Causal() & Window(8))(b)
    report = diff(a, b)
    assert "B has a window one wider" in report.causes[0].text
    assert report.activations.first is not None
    assert report.activations.first.where == "at positions 7 to 30 of 0 to 30"


def test_two_defects_are_found_one_after_the_other() -> None:
    a, b = small("gpt2"), small("gpt2")
    exact_gelu(b)
    wrong_epsilon(b)
    report = diff(a, b)
    assert why(report) == ["epsilon", "gelu"]
    assert [cause.complete for cause in report.causes] == [False, True]


def test_a_cause_that_nobody_thought_of_is_called_unknown() -> None:
    class Louder(Mix):
        def forward(self, heads: Tensor) -> Tensor:
            return 1.25 * super().forward(heads)

    a, b = small("gpt2"), small("gpt2")
    b.trunk.blocks[0]["attention"].mix.__class__ = Louder
    report = diff(a, b)
    assert why(report) == ["unknown"]
    assert report.agreed == "trunk.blocks.0.attention.mix.linear"
