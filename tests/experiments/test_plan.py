"""Plans: made of the recipe alone, they say what a training takes and what would take less."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from formers.errors import ConfigError
from formers.experiments import plan as planning
from formers.experiments.plan import Plan, alternatives, fact, most_rows, plan
from formers.recipes import find
from formers.training.precision import Numerics

EAGER = Numerics("cpu", "float32", compile=False, threads=1)


def planned(name: str, **train: Any) -> Plan:
    recipe = find.get(name)
    return plan(dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, **train)), numerics=EAGER)


def test_the_parts_add_up_to_the_peak() -> None:
    found = planned("gpt2.nano")
    assert sum(found.parts().values()) == found.peak
    assert found.fits
    assert found.seconds > 0
    assert found.footprint.parameters * 4 == found.footprint.weights
    assert found.tokens == 16 * 128


@pytest.mark.parametrize(
    "name", ["bert.nano", "albert.nano", "t5.nano", "t5.long_nano", "transformer_xl.nano", "memorizing.nano"]
)
def test_recipes_of_every_objective_can_be_planned(name: str) -> None:
    found = planned(name)
    assert found.footprint.activations > 10**6
    assert (found.footprint.state > 0) == found.recipe.train.carry_state


def test_with_windows_activations_grow_with_the_source_and_not_with_its_square() -> None:
    def activations(name: str) -> list[int]:
        lengths = [{"seq_len": n, "target_len": 32, "batch_size": 1} for n in (2048, 4096)]
        return [planned(name, **settings).footprint.activations for settings in lengths]

    shorter, longer = activations("t5.long_nano")
    assert longer <= 2.1 * shorter
    shorter, longer = activations("t5.nano")
    assert longer > 3 * shorter


def test_a_generator_and_a_discriminator_are_refused() -> None:
    with pytest.raises(ConfigError, match="a generator and a discriminator"):
        planned("deberta_v2.nano")


def test_a_memory_is_planned_with_what_it_holds_and_what_looking_it_up_takes() -> None:
    recipe = find.get("memorizing.nano")

    def of(**model: Any) -> Plan:
        return plan(dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, **model)), numerics=EAGER)

    found, larger, seldom = of(), of(memory_size=8192), of(memory_size=8192, memory_query_stride=4)
    entry = 2 * 2 * 32 * 4 + 24  # key and value of two heads; place, document, number
    grown = 8192 - recipe.model.memory_size
    assert larger.footprint.state - found.footprint.state == 16 * grown * entry
    products = 2 * 16 * 64 * 64 * grown  # 16 rows of 64 queries of two heads' 32 numbers with each entry
    assert larger.footprint.traffic.products - found.footprint.traffic.products == products
    assert larger.footprint.traffic.products - seldom.footprint.traffic.products > 0.74 * products


def test_a_step_that_numbers_decide_is_refused() -> None:
    recipe = find.get("memorizing.nano")
    model = dataclasses.replace(recipe.model, memory_search="approximate")
    with pytest.raises(ConfigError, match="depends on numbers"):
        plan(dataclasses.replace(recipe, model=model), numerics=EAGER)


def test_more_rows_take_more_and_more_micro_batches_less() -> None:
    sizes = [planned("gpt2.nano", batch_size=rows).footprint.activations for rows in (4, 8, 16)]
    assert sizes[2] - sizes[1] == pytest.approx(2 * (sizes[1] - sizes[0]), rel=0.1)
    split = planned("gpt2.nano", batch_size=16, accumulate=4).footprint.activations
    assert split == pytest.approx(sizes[0], rel=0.15)


def test_compiled_code_holds_less_and_the_compiler_something() -> None:
    recipe = find.get("gpt2.nano")
    eager, compiled = (plan(recipe, numerics=dataclasses.replace(EAGER, compile=on)) for on in (False, True))
    assert compiled.footprint.activations < eager.footprint.activations
    assert compiled.program > eager.program
    assert compiled.seconds < eager.seconds


def test_what_does_not_fit_gets_alternatives_that_take_less(monkeypatch: pytest.MonkeyPatch) -> None:
    roomy = planned("gpt2.nano", batch_size=64)
    room = roomy.peak - roomy.footprint.activations // 4
    monkeypatch.setattr(planning, "memory_to_take", lambda _: room)
    found = planned("gpt2.nano", batch_size=64)
    assert not found.fits
    others = dict(alternatives(found))
    assert {"--train.accumulate 2", "--train.recompute", "--model.ff-chunks 4", "--model.trunk reversible"} <= set(
        others
    )
    assert all(other.peak < found.peak for other in others.values())
    assert others["--train.accumulate 8"].fits
    rows = most_rows(found)
    assert 0 < rows < 64
    assert planned("gpt2.nano", batch_size=rows - 1).fits
    assert not planned("gpt2.nano", batch_size=rows + 2).fits


def test_where_not_even_one_row_fits_that_is_what_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "memory_to_take", lambda _: 10**6)
    assert most_rows(planned("gpt2.nano")) == 0


def test_a_fact_is_the_median_step_and_the_peak_that_was_written_down() -> None:
    rows = [{"tokens_per_second": speed} for speed in (1.0, 2.0, 3.0, 4.0, 100.0, 200.0, 50.0)]
    was = fact({"peak_bytes": 5}, rows, 1000)
    assert (was.peak, was.seconds) == (5, 10.0)
    assert fact({}, [], 1000) == planning.Fact(None, None)
