"""Training a model with a memory: the memory goes on with its row, and nothing else touches it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

import formers
from formers.experiments import evaluation
from formers.experiments.evaluation import evaluate_model
from formers.hub import Resolved
from formers.inspection.anatomy import cost
from formers.inspection.footprint import Ledger
from formers.parts import piecewise, recollection
from formers.parts.approximate import Approximate
from formers.parts.taps import attach
from formers.training import train
from tests.training import small

SIZES: dict[str, Any] = {
    "vocab_size": 257, "d_model": 24, "num_layers": 2, "num_heads": 2, "d_ff": 32, "segment_length": 8,
    "cache_length": 4, "memory_layers": (1,), "memory_size": 20, "neighbours": 5,
}  # fmt: skip


def memorizing(**changes: Any) -> Any:
    return formers.build("memorizing", **SIZES | changes)


def test_evaluations_and_samples_leave_the_training_as_it_is(tmp_path: Path) -> None:
    """Memories of its own for each: the weights after six steps are the same bits."""
    alone, watched = memorizing(), memorizing()
    train(alone, small.settings(carry_state=True), small.streams(), out=tmp_path / "a")
    written: list[Any] = []

    def sample(model: Any) -> list[tuple[str, str]]:
        written.append(formers.generate(model, [[1, 2, 3]], max_new_tokens=40, temperature=0.0))
        return [("", "")]

    settings = small.settings(carry_state=True, eval_every=2, sample_every=3)
    train(watched, settings, small.streams(), small.validation(stride=None), out=tmp_path / "b", sample=sample)
    assert len(written) == 2
    assert small.digest(watched) == small.digest(alone)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_training_that_was_stopped_goes_on_with_its_memories(accumulate: int, tmp_path: Path) -> None:
    settings = small.settings(carry_state=True, accumulate=accumulate, checkpoint_every=3)
    whole, stopped, again = memorizing(), memorizing(), memorizing()
    train(whole, settings, small.streams(), out=tmp_path / "a")

    class Enough(Exception):
        pass

    def stop(row: dict[str, Any]) -> None:
        if row["kind"] == "train" and row["step"] == 5:
            raise Enough

    with pytest.raises(Enough):
        train(stopped, settings, small.streams(), out=tmp_path / "b", on_event=stop)
    assert train(again, settings, small.streams(), out=tmp_path / "b", resume=True).resumed_from == 3
    assert small.digest(again) == small.digest(whole)


def test_what_an_evaluation_sees_does_not_depend_on_the_length_of_its_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Documents are read whole, in order, and carried on: segments of 8 in calls of 8 or of 24. In float32, so that what is
    left is rounding."""
    monkeypatch.setattr(evaluation, "choose_precision", lambda *_: "float32")
    model = memorizing().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    found = []
    for seq_len in (8, 24):
        recipe = {"train": {"seq_len": seq_len, "carry_state": True}, "data": {}}
        found.append(evaluate(model, recipe))
    assert found[0]["tokens"] == found[1]["tokens"]
    assert found[0]["loss"] == pytest.approx(found[1]["loss"], abs=1e-5)
    apart = evaluate(model, {"train": {"seq_len": 24, "carry_state": False}, "data": {}})
    assert apart["tokens"] == found[1]["tokens"]
    assert abs(apart["loss"] - found[1]["loss"]) > 1e-3


def test_an_evaluation_with_approximate_look_ups_says_what_share_they_found(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("faiss", reason="the extra `search` is not installed")
    monkeypatch.setitem(recollection.SEARCHES, "approximate", lambda: Approximate(least=8))
    recipe = {"train": {"seq_len": 8, "carry_state": True}, "data": {}}
    row = evaluate(memorizing(memory_search="approximate").eval(), recipe)
    assert 0 < row["recall"] <= 1
    assert "recall" not in evaluate(memorizing().eval(), recipe)


def test_an_evaluation_with_more_neighbours_than_there_are_is_read_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `formers eval RUN --set neighbours=100000` has it: what is found is the same, and what is held is not."""
    monkeypatch.setattr(evaluation, "choose_precision", lambda *_: "float32")
    model, held, found = memorizing(neighbours=100_000, memory_size=1000).eval(), [], []
    for numbers in (1 << 40, 1 << 16):
        monkeypatch.setitem(piecewise.NUMBERS_AT_A_TIME, "cpu", numbers)
        with Ledger({}) as ledger:
            found.append(evaluate(model, {"train": {"seq_len": 64, "carry_state": True}}))
        held.append(ledger.most)
    assert found[1]["loss"] == pytest.approx(found[0]["loss"], abs=1e-6)
    assert held[0] > 16 * 64 * 1000 * 24 * 4  # keys alone
    assert held[1] < held[0] / 10


def test_a_model_that_comes_without_a_run_and_has_no_limit_is_evaluated_on_whole_documents() -> None:
    model = memorizing().eval()
    assert evaluate(model, None)["loss"] == evaluate(model, {"train": {"seq_len": 512, "carry_state": True}})["loss"]


def test_an_evaluation_has_the_room_that_the_run_asked_for() -> None:
    """A state of 8 tokens holds no document of these, and the run that asked for that is told so."""
    recipe = {"train": {"seq_len": 24, "carry_state": True, "state_length": 8}}
    with pytest.raises(formers.FormersError, match="a state made for 8 tokens"):
        evaluate(small.gpt2(), recipe)
    assert evaluate(small.gpt2(), recipe | {"train": recipe["train"] | {"state_length": 128}})["tokens"] > 0


def evaluate(model: Any, recipe: dict[str, Any] | None) -> dict[str, Any]:
    shards = small.shards()
    shards.meta.setdefault("bytes", {"validation": 1 << 40})  # no gzip of text that is in no folder
    return evaluate_model(Resolved("model", "run", model, recipe), shards)


@pytest.mark.parametrize("preset", ["nano", "tiny", "mini"])
def test_the_bytes_that_show_prints_are_those_of_the_state(preset: str) -> None:
    with torch.device("meta"):
        model = formers.build("memorizing", preset=preset)
    price = cost(model)
    held = sum(tensor.nbytes for name, tensor in full_state(model).tensors().items() if ".memory." in name)
    assert price.memory_bytes == pytest.approx(held, rel=0.05)
    assert price.state_bound == full_state(model).nbytes


def full_state(model: Any) -> Any:
    return model.init_state(1, 10**7, device="meta")


def test_a_token_costs_as_much_after_a_long_text_as_after_a_short_one() -> None:
    """The state is what a step reads, and it does not grow; a prompt of 60 segments is read and gone on from."""
    model = memorizing().eval()
    ids = torch.randint(0, 257, (1, 480), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        state, sizes = model.init_state(1, 10**6), []
        for piece in ids.split(96, 1):
            state = model(piece, state=state).state.commit()
            sizes.append(state.nbytes)
    assert len(set(sizes)) == 1
    assert formers.generate(model, ids, max_new_tokens=30, temperature=0.0)[0].shape[-1] >= 30


BF16 = 2.0**-8
"""A number rounded to bf16 is off by at most this share of it, and so is a vector's length."""


@pytest.mark.slow
def test_a_thousand_steps_in_bf16_stay_finite_and_keys_stay_of_length_one(tmp_path: Path) -> None:
    """Unit keys, and unit queries with a learned scale a head: what the paper has them for (2203.08913, section 3.2)."""
    model = memorizing(num_layers=3, memory_layers=(1, 2), memory_size=64)
    names = list(recollection.memory_attentions(model))
    scales = [p for name, p in model.named_parameters() if name.endswith("turn_memory.scale")]
    begun = [scale.detach().clone() for scale in scales]
    lengths: list[tuple[float, float]] = []
    rows: list[dict[str, Any]] = []

    def see(keys: torch.Tensor) -> None:
        assert keys.dtype == torch.bfloat16
        length = keys.detach().float().norm(dim=-1)
        lengths.append((length.min().item(), length.max().item()))

    settings = small.settings(steps=1000, precision="bf16", carry_state=True, eval_every=250, lr=3e-3, warmup=20)
    with attach(model, {f"{name}.keys": see for name in names}):
        train(
            model, settings, small.streams(), small.validation(stride=None), out=tmp_path / "run", on_event=rows.append
        )
    steps = [row for row in rows if row["kind"] == "train"]
    assert [row["step"] for row in steps] == list(range(1, 1001))
    assert all(math.isfinite(row["loss"]) and math.isfinite(row["grad_norm"]) for row in steps)
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert steps[-1]["loss"] < steps[0]["loss"] / 2
    assert len(lengths) >= 2 * 1000
    assert max(abs(length - 1) for both in lengths for length in both) < BF16
    assert len(scales) == 2
    assert all((now > 0).all() and not torch.equal(now, before) for now, before in zip(scales, begun, strict=True))
