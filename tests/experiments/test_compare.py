"""Comparisons: the same rows for all, a verdict that is honest, and nothing done twice."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from formers.data import Shards
from formers.errors import ConfigError, DataError, FormersError, RunError
from formers.experiments import compare, contest, outcome, run
from formers.experiments.budget import Budget, parse, steps_of
from formers.experiments.compare import make_plan
from formers.experiments.entrants import Entry, entries
from formers.experiments.text import training_view
from tests.experiments.compared import recipe, settings, shards, texts


@pytest.fixture(scope="module", autouse=True)
def short_samples() -> Iterator[None]:
    """Trainings here write three tokens at their end, not 360."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "SAMPLE_TOKENS", 1)
        patch.setattr(outcome, "SAMPLE_TOKENS", 4)
        yield


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    return shards(tmp_path_factory.mktemp("text"))


def finished(named: list[Entry], out: Path, text: Shards | None, **changes: Any) -> dict[str, Any]:
    """A whole comparison."""
    plan = make_plan(named, settings(**changes), data=text and text.folder)
    costs = compare.estimate(plan, out)
    assert compare.train(plan, out, progress=False) is None
    return outcome.summarise(plan, compare.read(plan, out), out, costs)


# --- what it finds ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def handicap(text: Shards, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """A recipe, the same again (with other seeds), and one that learns at a tenth of the rate."""
    out = tmp_path_factory.mktemp("handicap")
    named = [Entry("good", recipe()), Entry("again", recipe()), Entry("slow", recipe(lr=1e-3))]
    return finished(named, out, text, amount=40, seeds=3), out


def test_a_recipe_against_itself_under_other_seeds_cannot_be_told(handicap: tuple[dict[str, Any], Path]) -> None:
    found, _ = handicap
    pair = next(p for p in found["pairs"] if {p["better"], p["worse"]} == {"good", "again"})
    assert not pair["told"]
    assert "Cannot tell which is best" in found["verdict"]
    assert set(found["entrants"]["good"]["seeds"]).isdisjoint(found["entrants"]["again"]["seeds"])


def test_a_tenth_of_the_learning_rate_loses_for_sure(handicap: tuple[dict[str, Any], Path]) -> None:
    found, _ = handicap
    assert found["ranking"][-1] == "slow"
    told = [p for p in found["pairs"] if p["worse"] == "slow"]
    assert len(told) == 2
    assert all(p["told"] and p["difference"]["low"] > 0 for p in told)
    assert "slow by " in found["verdict"]


def test_figures_are_those_of_the_rows(handicap: tuple[dict[str, Any], Path]) -> None:
    found, out = handicap
    rows = [json.loads(line) for line in (out / "scores.jsonl").read_text().splitlines()]
    mine = [row for row in rows if row["contestant"] == "slow.seed-1"]
    bits = sum(row["loss"] / math.log(2) / row["scored_bytes"] * row["bytes"] for row in mine)
    assert found["entrants"]["slow"]["of_seeds"][1] == pytest.approx(bits / sum(row["bytes"] for row in mine))
    entrant = found["entrants"]["good"]
    assert entrant["top1"] < entrant["top5"] <= 1
    assert entrant["operations_per_token"] > 6 * (entrant["parameters"] - 64 * 16)
    assert entrant["at_equal"]["tokens"] < found["entrants"]["slow"]["at_equal"]["tokens"]


def test_finished_runs_are_reused_and_another_recipe_in_their_place_is_refused(
    handicap: tuple[dict[str, Any], Path], text: Shards
) -> None:
    found, out = handicap
    before = {path: path.stat().st_mtime_ns for path in out.rglob("model.safetensors")}
    again = finished([Entry("good", recipe()), Entry("slow", recipe(lr=1e-3))], out, text, amount=40, seeds=3)
    assert again["entrants"]["slow"]["of_seeds"] == found["entrants"]["slow"]["of_seeds"]
    assert {path: path.stat().st_mtime_ns for path in out.rglob("model.safetensors")} == before
    with pytest.raises(RunError, match=r"train\.lr is 0\.01, wanted 0\.02"):
        finished([Entry("good", recipe(lr=2e-2))], out, text, amount=40, seeds=3)


def test_a_comparison_and_single_runs_join_a_later_one(handicap: tuple[dict[str, Any], Path], tmp_path: Path) -> None:
    found, out = handicap
    (out / "compare.json").write_text(json.dumps(found))
    joined = finished(entries([str(out)]), tmp_path / "all", None, budget=None)
    assert joined["ranking"] == found["ranking"]
    assert joined["entrants"]["slow"]["bits_per_byte"] == pytest.approx(found["entrants"]["slow"]["bits_per_byte"])
    later = make_plan(
        [*entries([str(out)]), Entry("large", recipe(d_model=32))], settings(amount=40, seeds=3), data=None
    )
    assert later.shards.folder == Path(found["data"])  # the text of what joins
    assert abs(later.matches[0].off) <= 0.01  # and its size
    assert later.matches[0].target == found["entrants"]["good"]["parameters"]
    pair = entries([f"one={out / 'good.seed-0'}", f"{out / 'good.seed-1'},{out / 'good.seed-2'}"])
    assert [(entry.label, len(entry.runs)) for entry in pair] == [("one", 1), ("good.seed-1", 2)]
    verdict = finished(pair, tmp_path / "pair", None, budget=None)["verdict"]
    assert "Cannot tell" in verdict
    assert "One seed each" in verdict


def test_samples_and_predictions_stand_side_by_side(handicap: tuple[dict[str, Any], Path], text: Shards) -> None:
    _, out = handicap
    plan = make_plan(
        [Entry("good", recipe()), Entry("slow", recipe(lr=1e-3))], settings(amount=40, seeds=3), data=text.folder
    )
    found = outcome.texts(plan, out, "the quick brown fox")
    assert found["samples"].keys() == {"good", "slow"}
    assert all(len(written) == len(found["prompts"]) == 2 for written in found["samples"].values())
    assert "".join(row["true"] for row in found["predictions"]["good"]) == "he quick brown fox"
    assert all((row["true"] == row["predicted"]) <= (row["rank"] == 0) for row in found["predictions"]["good"])


def test_four_sizes_of_an_architecture_give_a_power_with_its_interval() -> None:
    rng, sizes = np.random.default_rng(0), [50_000, 100_000, 200_000, 400_000, 402_000]
    found = {
        str(size): {"parameters": size, "of_seeds": [9 * size**-0.1 * float(rng.normal(1, 0.01)) for _ in range(3)]}
        for size in sizes
    }
    entrants = [SimpleNamespace(label=label, recipe=SimpleNamespace(architecture="gpt2")) for label in found]
    (row,) = outcome.scaling(SimpleNamespace(entrants=entrants), found)  # type: ignore[arg-type]
    assert row["low"] < -0.1 < row["high"] < 0
    assert row["exponent"] == pytest.approx(-0.1, abs=0.02)
    assert row["sizes"] == sizes[:4]  # what was brought to one size is one size
    assert "4 sizes from 50,000 to 400,000" in row["words"]
    assert outcome.scaling(SimpleNamespace(entrants=entrants[1:]), found) == []  # type: ignore[arg-type]


# --- fair -------------------------------------------------------------------------------------------------------------------


def test_all_read_the_same_rows_in_the_same_order(text: Shards) -> None:
    other = recipe("xl", "transformer_xl", max_length=None, d_ff=32, segment_length=32, memory_length=32)
    train = dataclasses.replace(other.train, carry_state=True, batch_size=4, seq_len=16)
    other = dataclasses.replace(other, train=train, data=dataclasses.replace(other.data, view="streams", longest=100))
    plan = make_plan([Entry("gpt2", recipe()), Entry("xl", other)], settings(), data=text.folder)
    for first, second in zip(*(entrant.contestants for entrant in plan.entrants), strict=True):
        views = [training_view(text, c.recipe.data, c.recipe.train) for c in (first, second)]
        for step in (0, 7):
            one, two = (view.batch(step) for view in views)
            assert np.array_equal(one.input_ids, two.input_ids)
            assert np.array_equal(one.targets, two.targets)
        assert first.recipe.seed == second.recipe.seed
    assert plan.contestants[0].recipe.seed == plan.contestants[1].recipe.seed != plan.contestants[2].recipe.seed
    assert [c.recipe.train.carry_state for c in plan.contestants[:2]] == [False, True]
    sizes = [m.after for m in plan.matches]
    assert abs(sizes[0] / sizes[1] - 1) <= 0.01
    assert "streams of 8 rows of 32 tokens" in plan.notes[0]


def test_each_budget_pays_for_what_it_says(text: Shards) -> None:
    small, large = Entry("small", recipe()), Entry("large", recipe(d_model=32))

    def steps(kind: str, amount: float) -> list[int]:
        plan = make_plan([small, large], settings(kind, amount, match="nothing"), data=text.folder)
        return [entrant.recipe.train.steps for entrant in plan.entrants]

    assert steps("tokens", 2560) == [10, 10]
    assert steps("steps", 7) == [7, 7]
    assert steps("bytes", 2560)[0] in (10, 11)  # a document's end is a token of no bytes
    few, fewer = reversed(steps("flops", 1e9))
    plan = make_plan([small, large], settings("flops", 1e9, match="nothing"), data=text.folder)
    assert fewer > few
    for entrant in plan.entrants:
        spent = entrant.recipe.train.steps * 256 * plan.operations[entrant.label]
        assert 0.9 < spent / 1e9 <= 1
    timed = make_plan([small], settings("minutes", 0.5), data=text.folder).entrants[0].recipe.train
    assert timed.minutes == 0.5


def test_equal_operations_are_matched_too(text: Shards) -> None:
    plan = make_plan(
        [Entry("small", recipe(d_model=32)), Entry("deep", recipe(num_layers=2))],
        settings(match="operations", tolerance=0.02),
        data=text.folder,
    )
    counted = list(plan.operations.values())
    assert abs(counted[0] / counted[1] - 1) <= 0.02


def test_tokenizers_of_their_own_are_compared_in_bits_per_byte(tmp_path: Path) -> None:
    text = shards(tmp_path / "text")
    file = str(tmp_path / "text" / "text.jsonl")
    bytes_ = recipe()
    bytes_ = dataclasses.replace(bytes_, data=dataclasses.replace(bytes_.data, sources=(file,), validation=0.3))
    bpe = dataclasses.replace(bytes_, data=dataclasses.replace(bytes_.data, tokenizer="bpe", vocab_size=300))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FORMERS_CACHE", str(tmp_path / "cache"))
        found = finished(
            [Entry("bytes", bytes_), Entry("bpe", bpe)], tmp_path / "out", None, own_tokenizers=True, amount=3,
            match="nothing",
        )  # fmt: skip
    assert {row["tokenizer"] for row in found["entrants"].values()} == {"byte of 257", "bpe of 300"}
    bits = {row["tokenizer"][:3]: row["bits_per_byte"] for row in found["entrants"].values()}
    assert 6 < bits["byt"] < 9  # hardly trained: 8 bits a token, which is a byte
    assert 1.5 < bits["bpe"] < bits["byt"]  # and more than a byte
    assert found["entrants"]["bytes"]["at_equal"] is None  # nats a token do not compare
    assert text.meta["documents"]["validation"] > 2


# --- what it refuses ----------------------------------------------------------------------------------------------------------


def test_what_cannot_be_matched_is_said_with_how_far_it_is(text: Shards) -> None:
    with pytest.raises(ConfigError, match=r"b cannot be brought to \d.* the nearest has .*\(\+\d+") as error:
        make_plan(
            [Entry("a", recipe()), Entry("b", recipe(d_model=512, num_heads=64, num_layers=6, d_ff=2048))],
            settings(),
            data=text.folder,
        )
    assert "--tolerance" in str(error.value)


def test_a_budget_too_small_for_one_step_is_refused_at_once(text: Shards, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not pay for one step of small, which takes 256 tokens"):
        make_plan([Entry("small", recipe())], settings("tokens", 200), data=text.folder)
    plan = make_plan([Entry("small", recipe())], settings("minutes", 1e-6), data=text.folder)
    with pytest.raises(ConfigError, match="does not pay for one step: small takes"):
        compare.estimate(plan, tmp_path)


def test_runs_of_other_text_are_not_ranked_together(text: Shards, tmp_path: Path) -> None:
    other = shards(tmp_path / "other", documents=texts(30, seed=5))
    plan = make_plan([Entry("run", recipe())], settings(amount=1, seeds=1), data=other.folder)
    assert contest.train_all(plan.contestants, other, tmp_path, progress=False) is None
    trained = tmp_path / "run.seed-0"
    with pytest.raises(DataError, match="was trained on other text, so it cannot be ranked"):
        make_plan([Entry("small", recipe()), *entries([str(trained)])], settings(), data=text.folder)


def test_missing_and_half_written_runs_are_refused(text: Shards, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="there is no run"):
        entries([str(tmp_path / "nowhere" / "run")])
    half = tmp_path / "half"
    half.mkdir()
    (half / "recipe.json").write_text(json.dumps({"name": "x", "train": {"steps": 10}}))
    with pytest.raises(RunError, match=r"has not ended: it is not started|has not ended: it is running"):
        entries([str(half)])
    (half / "recipe.json").write_text("{")
    with pytest.raises(RunError, match="is not JSON"):
        entries([str(half)])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["tokens=4M", "minutes=3"], "one of tokens"),
        (["parameters=4M"], "no amount"),
        (["tokens=many"], "a number above 0"),
        (["token=4M"], "did you mean 'tokens'"),
        (["tokens=0"], "above 0"),
        (["tokens=1", "tokens=2"], "twice"),
    ],
)
def test_budgets_that_say_nothing_or_too_much(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse(words)


def test_budgets_are_read_with_their_units() -> None:
    assert parse(["tokens=4M", "parameters=2.6M"]) == Budget("tokens", 4e6, 2_600_000)
    assert parse(["time=10m"]) == Budget("minutes", 10)
    assert parse(["minutes=90s"]) == Budget("minutes", 1.5)
    assert parse(["bytes=12MB"]) == Budget("bytes", 12e6)
    assert parse(["flops=1e12"]) == Budget("flops", 1e12)
    assert steps_of(parse(["tokens=1000"]), "x", step_tokens=100, bytes_per_token=3, operations=1) == 10


def test_models_that_do_not_predict_the_next_token_and_rows_that_are_too_long(text: Shards) -> None:
    masked = Entry(
        "bert", dataclasses.replace(recipe(), train=dataclasses.replace(recipe().train, objective="masked_token"))
    )
    with pytest.raises(ConfigError, match="has no bits per byte"):
        make_plan([masked], settings(), data=text.folder)
    with pytest.raises(ConfigError, match="positions for 64"):
        make_plan([Entry("small", recipe())], settings(seq_len=65), data=text.folder)
    with pytest.raises(ConfigError, match="no budget"):
        make_plan([Entry("small", recipe())], settings(budget=None), data=text.folder)
    with pytest.raises(FormersError, match="two or more"):
        make_plan([Entry("small", recipe())], settings(longest=20), data=text.folder)
