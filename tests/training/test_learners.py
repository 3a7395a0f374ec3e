"""What learns is what was asked for, and nothing else moves by a bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import formers
from formers.errors import ConfigError
from formers.models.grafted import graft_memory
from formers.training import train
from formers.training.learners import learners, lr_factors, only_these_learn
from formers.training.objective import parameter_count
from formers.training.optimizer import decay_names, make_optimizer, set_lr
from formers.training.settings import TrainSettings
from tests.training import small

GATE = "base.trunk.blocks.1.attention.merge.logit"


def grafted(**changes: Any) -> Any:
    return graft_memory(small.gpt2(**changes), [-1], 40, segment_length=8, neighbours=5)


def moved(model: Any, settings: Any, out: Path, view: Any = None) -> set[str]:
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    train(model, settings, view or small.streams(), out=out)
    return {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}


def test_words_and_patterns_mean_what_they_say() -> None:
    model = grafted()
    named = dict(model.named_parameters(remove_duplicate=False))
    assert learners(model, ["all"]).keys() == named.keys()
    assert learners(model, ["gates"]).keys() == {GATE}
    layer = {name for name in named if name.startswith("base.trunk.blocks.1.attention.")}
    assert learners(model, ["memory"]).keys() == layer
    assert learners(model, ["gates", "*.final_norm.bias"]).keys() == {GATE, "base.trunk.final_norm.bias"}


def test_a_tied_weight_is_meant_by_either_name() -> None:
    model = small.gpt2()
    assert learners(model, ["head.*"])["head.linear.weight"] is model.tokens.weight


@pytest.mark.parametrize(
    ("model", "only", "said"),
    [
        (small.gpt2, ("gates",), "the model has no memory"),
        (small.gpt2, ("trunk.final_nrom.bias",), "did you mean 'trunk.final_norm.bias'"),
        (grafted, ("gates", "nothing.*"), r"trunk\.blocks\.\*\.attention\.merge\.logit"),
        (lambda: formers.build("memorizing", "nano", merge="joint"), ("gates",), "no gates"),
    ],
)
def test_what_means_nothing_is_refused_with_the_names_there_are(model: Any, only: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        learners(model(), only)


def test_within_only_these_want_gradients_and_afterwards_all_do() -> None:
    model = grafted()
    with only_these_learn(model, ["gates"]):
        assert parameter_count(model) == 2
        assert parameter_count(model, frozen=True) > 2
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(
    ("only", "wanted"), [(("gates",), {GATE}), (("*.final_norm.*", "gates"), {GATE, "w", "b"}), (("memory",), None)]
)
def test_a_training_moves_what_learns_and_nothing_else(only: Any, wanted: set[str] | None, tmp_path: Path) -> None:
    model = grafted()
    meant = set(learners(model, only))
    assert moved(model, small.settings(only=only, carry_state=True), tmp_path / "run") == meant
    assert wanted is None or len(meant) == len(wanted)


def test_a_resumed_training_holds_the_same_still_and_ends_where_one_never_stopped_ends(tmp_path: Path) -> None:
    """Weights, optimizer and memories: twelve steps in one go, and six and six."""
    asked = {"only": ("memory",), "carry_state": True}
    straight, halves = grafted(), grafted()
    train(straight, small.settings(steps=12, **asked), small.streams(), out=tmp_path / "a")
    stopped: list[int] = []

    def stop(row: dict[str, Any]) -> None:
        if row["kind"] == "train" and row["step"] == 6 and not stopped:
            import os
            import signal

            stopped.append(6)
            os.kill(os.getpid(), signal.SIGINT)

    first = train(halves, small.settings(steps=12, **asked), small.streams(), out=tmp_path / "b", on_event=stop)
    assert (first.interrupted, first.steps) == ("SIGINT", 6)
    again = grafted(seed=0)
    second = train(again, small.settings(steps=12, **asked), small.streams(), out=tmp_path / "b", resume=True)
    assert second.resumed_from == 6
    assert small.digest(again) == small.digest(straight)


def test_recipe_json_counts_what_is_held_still_too(tmp_path: Path) -> None:
    import json

    model = grafted()
    train(model, small.settings(steps=1, only=("gates",), carry_state=True), small.streams(), out=tmp_path / "run")
    recipe = json.loads((tmp_path / "run" / "recipe.json").read_text())
    assert recipe["parameters"] == parameter_count(model, frozen=True)
    assert recipe["train"]["only"] == ["gates"]


def test_what_learns_at_a_multiple_of_the_rate() -> None:
    model = grafted()
    factors = lr_factors(model, ("*.norm*=0.1", "gates=30"))
    gates = [name for name in dict(model.named_parameters()) if ".merge." in name]
    assert gates
    assert all(factors[name] == 30 for name in gates)
    settings = TrainSettings(lr=1e-3, lr_factors=("gates=30",))
    optimizer = make_optimizer(model.named_parameters(), decay_names(model), settings, factors)
    set_lr(optimizer, 2e-3)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    named = dict(model.named_parameters())
    assert len(rates) == len(named)
    assert {rates[id(named[name])] for name in gates} == {30 * 2e-3}
    assert {round(rates[id(p)] / 2e-3, 6) for name, p in named.items() if name not in gates} == {1.0, 0.1}


def test_recipes_name_gates_that_a_model_may_lack_and_patterns_must_mean_something() -> None:
    model = small.gpt2()
    assert lr_factors(model, ("gates=30",)) == {}
    with pytest.raises(ConfigError, match="nothing_here"):
        lr_factors(model, ("nothing_here*=2",))
    for wrong in ("gates", "gates=fast", "gates=-1", "=3"):
        with pytest.raises(ConfigError, match="WHAT=FACTOR"):
            TrainSettings(lr_factors=(wrong,))
