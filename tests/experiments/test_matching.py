"""Models brought to one size: as little is changed as will do, and it is said what."""

from __future__ import annotations

from typing import Any

import pytest

from formers.errors import ConfigError
from formers.experiments.matching import match, match_all, parameters
from formers.recipes import Recipe
from tests.experiments.compared import recipe


def sized(found: Recipe[Any]) -> int:
    """A count of the weights that were really made."""
    return sum(p.numel() for p in found.build().parameters())


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
@pytest.mark.parametrize("target", [7_000, 20_000, 45_000])
def test_a_model_comes_within_one_in_a_hundred(architecture: str, target: int) -> None:
    start = recipe(architecture=architecture, vocab_size=64, d_ff=48)
    found, done = match("it", start, target, parameters, what="parameters", tolerance=0.01)
    assert abs(sized(found) / target - 1) <= 0.01
    assert done.after == sized(found)
    assert done.before == sized(start)
    assert {name: new for name, (_, new) in done.changes.items()} == {
        name: getattr(found.model, name) for name in done.changes
    }
    assert found.model.d_model % (2 * found.model.num_heads) == 0
    assert f"{done.after:,}" in done.words()


def test_what_is_near_enough_stays_as_it_is() -> None:
    start = recipe(vocab_size=64)
    found, done = match("it", start, parameters(start) * 1.005, parameters, what="parameters", tolerance=0.01)
    assert found is start
    assert done.changes == {}
    assert done.words().endswith("as it is")


def test_proportions_are_kept_where_they_can_be() -> None:
    start = recipe(d_model=32, num_layers=2, d_ff=128, vocab_size=64)
    wide = recipe(d_model=64, num_layers=2, d_ff=256, vocab_size=64)
    found, _ = match("it", start, parameters(wide), parameters, what="parameters", tolerance=0.01)
    assert (found.model.d_model, found.model.num_layers) == (64, 2)
    assert abs(found.model.d_ff - 256) <= 8


def test_all_that_cannot_be_matched_stand_in_one_error() -> None:
    named = {"small": recipe(vocab_size=64), "other": recipe(vocab_size=64, num_heads=4)}
    with pytest.raises(ConfigError, match=r"small cannot be brought to 10 parameters.*; other cannot .* \(\+\d+"):
        match_all(named, 10, parameters, what="parameters", tolerance=0.01)
