"""Whole trainings: what they leave, how they stop, how they go on."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from formers.comparison.runs import read_run
from formers.errors import ConfigError, DataError, RunError
from formers.training import checkpoints, train, trainer
from tests.training import small


def rows_of(out: Path, kind: str | None = None) -> list[dict]:
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if kind in (None, row["kind"])]


def events(out: Path, level: str) -> list[str]:
    return [row["message"] for row in rows_of(out, "event") if row["level"] == level]


def run(out: Path, *, model=None, view=None, validation=None, resume=False, changes=None, **how):
    return train(
        small.gpt2() if model is None else model,
        small.settings(**(changes or {})),
        small.windows() if view is None else view,
        validation,
        out=out,
        resume=resume,
        **how,
    )


def save_model(model, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "saved").write_text(small.digest(model))


class StopAfter:
    """A view during whose batch for update `step` this process is sent a signal."""

    def __init__(self, step: int, number: int = signal.SIGINT, inner=None) -> None:
        self.step, self.number = step, number
        self.inner = small.windows() if inner is None else inner
        self.lengths, self.shards, self.split = self.inner.lengths, self.inner.shards, self.inner.split

    def batch(self, number: int):
        if number + 1 == self.step:
            os.kill(os.getpid(), self.number)
        return self.inner.batch(number)


def test_a_run_leaves_what_its_readers_expect(tmp_path):
    out, seen = tmp_path / "run", []
    result = run(
        out,
        validation=small.validation(),
        changes={"steps": 6, "eval_every": 3, "checkpoint_every": 2, "sample_every": 4},
        recipe={"name": "gpt2.test", "seed": 7, "data": {"view": "windows"}, "code": None},
        save_model=save_model,
        sample=lambda model: [("a ", "b"), ("c ", f"{model.training}")],
        baselines={"gzip_bits_per_byte": 2.5},
        on_event=seen.append,
    )
    assert {p.name for p in out.iterdir()} == {
        *("recipe.json", "environment.json", "metrics.jsonl", "samples.txt", "checkpoints", "model", ".lock")
    }
    assert rows_of(out) == json.loads(json.dumps(seen))
    assert [row["step"] for row in rows_of(out, "train")] == [1, 2, 3, 4, 5, 6]
    assert rows_of(out, "train")[0].keys() == {
        *("kind", "step", "tokens", "seconds", "loss", "lr", "grad_norm", "tokens_per_second")
    }
    assert [row["tokens"] for row in rows_of(out, "train")] == [192 * step for step in range(1, 7)]
    assert [(row["step"], row["split"]) for row in rows_of(out, "eval")] == [(3, "validation"), (6, "validation")]
    assert rows_of(out, "eval")[0]["baselines"] == {"gzip_bits_per_byte": 2.5}
    assert [row["step"] for row in rows_of(out, "sample")] == [4, 4, 6, 6]
    assert {row["text"] for row in rows_of(out, "sample")} == {"b", "False"}
    assert checkpoints.steps(out / "checkpoints") == [6, 4]
    recipe = json.loads((out / "recipe.json").read_text())
    assert recipe["name"] == "gpt2.test"
    assert (recipe["architecture"], recipe["seed"], recipe["model"]["d_model"]) == ("gpt2", 7, 24)
    assert recipe["train"]["steps"] == 6
    assert recipe["parameters"] == sum(p.numel() for p in result.model.parameters())
    assert (out / "model" / "saved").read_text() == small.digest(result.model)
    assert (result.steps, result.tokens, result.interrupted, result.resumed_from) == (6, 6 * 192, None, None)
    assert result.evaluation == rows_of(out, "eval")[-1]
    assert result.loss == rows_of(out, "train")[-1]["loss"]
    assert read_run(out).status == "finished"


def test_before_it_starts_it_says_what_it_will_cost_and_then_how_long(tmp_path):
    run(tmp_path / "run", changes={"steps": 12})
    said = rows_of(tmp_path / "run", "event")
    assert said[0]["step"] == 0
    for part in ("23.7 k parameters", "12 steps of 192 tokens (2.3 k tokens", "passes over", "MB on the disk"):
        assert part in said[0]["message"]
    assert said[1]["step"] == 4
    assert "s a step: about" in said[1]["message"]
    assert len(said) == 2, "nothing to warn of"


def test_the_rate_that_is_recorded_is_the_one_applied_and_the_schedules(tmp_path):
    """Without decay and clipping, AdamW's first update moves every weight with a gradient by exactly the rate."""
    model = small.gpt2(dtype=torch.float64)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    changes = {"steps": 1, "warmup": 4, "weight_decay": 0.0, "clip": None, "adam_eps": 1e-30}
    run(tmp_path / "run", model=model, changes=changes)
    recorded = rows_of(tmp_path / "run", "train")[0]["lr"]
    assert recorded == small.settings(**changes).learning_rate.lr_at(1) == 3e-3 / 4
    moved = (model.trunk.final_norm.weight - before["trunk.final_norm.weight"]).abs()
    assert torch.allclose(moved, torch.full_like(moved, recorded), rtol=1e-9)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_two_trainings_of_one_seed_are_the_same_bits_and_of_another_are_not(tmp_path, precision):
    found = [
        small.digest(
            run(tmp_path / name, model=small.gpt2(dropout=0.1), changes={"seed": seed, "precision": precision}).model
        )
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    ]
    assert found[0] == found[1] != found[2]


def test_it_learns(tmp_path):
    """The loss starts at that of a guess and falls well below that of the frequencies of letters, 2.8 nats."""
    result = run(tmp_path / "run", validation=small.validation(), changes={"steps": 150, "lr": 1e-2})
    assert rows_of(tmp_path / "run", "train")[0]["loss"] == pytest.approx(math.log(257), rel=0.02)
    assert result.evaluation is not None
    assert result.evaluation["loss"] < 2.0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_step_and_leaves_a_checkpoint_and_the_command_to_resume(tmp_path, number):
    out, before = tmp_path / "run", signal.getsignal(number)
    stopped = run(out, view=StopAfter(3, number), save_model=save_model, resume_command="formers train x --resume")
    assert (stopped.steps, stopped.interrupted) == (3, number.name)
    assert checkpoints.steps(out / "checkpoints") == [3]
    assert "Go on with: formers train x --resume" in events(out, "warning")[-1]
    assert not (out / "model").exists()
    assert signal.getsignal(number) is before
    resumed = run(out, resume=True, save_model=save_model)
    whole = run(tmp_path / "whole")
    assert (resumed.resumed_from, resumed.interrupted) == (3, None)
    assert small.digest(resumed.model) == small.digest(whole.model)
    assert [row["step"] for row in rows_of(out, "train")] == [1, 2, 3, 4, 5, 6]


def test_a_signal_before_the_first_step_leaves_a_checkpoint_of_the_start(tmp_path):
    out = tmp_path / "run"
    stopped = run(
        out, on_event=lambda row: os.kill(os.getpid(), signal.SIGINT) if "parameters" in row["message"] else None
    )
    assert (stopped.steps, stopped.interrupted) == (0, "SIGINT")
    resumed = run(out, resume=True)
    assert resumed.resumed_from == 0
    assert small.digest(resumed.model) == small.digest(run(tmp_path / "whole").model)


def test_what_a_kill_after_the_last_checkpoint_left_goes_with_the_resume(tmp_path, monkeypatch):
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "tidy", lambda folder: None)  # killed before it: nothing old was removed
        run(out, changes={"checkpoint_every": 2})
    assert checkpoints.steps(out / "checkpoints") == [6, 4, 2]
    run(out, resume=True, changes={"checkpoint_every": 2})
    assert checkpoints.steps(out / "checkpoints") == [6, 4]


def test_a_second_signal_stops_at_once(tmp_path):
    class Twice(StopAfter):
        def batch(self, number: int):
            super().batch(number)
            return super().batch(number)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run", view=Twice(2))


def test_carried_states_are_resumed_to_the_same_bits(tmp_path):
    changes = {"carry_state": True, "accumulate": 2, "steps": 8}
    whole = run(tmp_path / "whole", view=small.streams(), validation=small.validation(stride=None), changes=changes)
    out = tmp_path / "run"
    run(out, view=StopAfter(5, inner=small.streams()), validation=small.validation(stride=None), changes=changes)
    stored = load_file(out / "checkpoints" / "step-5" / "rank-0.safetensors")
    assert {name.partition(".")[0] for name in stored} == {"lane0", "lane1", "random"}
    resumed = run(out, view=small.streams(), validation=small.validation(stride=None), changes=changes, resume=True)
    assert resumed.resumed_from == 5
    assert small.digest(resumed.model) == small.digest(whole.model)
    assert resumed.evaluation is not None
    assert whole.evaluation is not None
    assert resumed.evaluation["loss"] == whole.evaluation["loss"]


def test_a_damaged_checkpoint_is_said_and_the_one_before_used(tmp_path):
    out = tmp_path / "run"
    whole = run(out, changes={"checkpoint_every": 2})
    expected = small.digest(whole.model)
    path = out / "checkpoints" / "step-6" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    resumed = run(out, resume=True, changes={"checkpoint_every": 2})
    assert resumed.resumed_from == 4
    assert small.digest(resumed.model) == expected
    assert "model.safetensors is damaged" in events(out, "warning")[-1]
    assert [row["step"] for row in rows_of(out, "train")] == [1, 2, 3, 4, 5, 6]


def test_a_finished_run_that_is_resumed_does_nothing_again(tmp_path):
    out = tmp_path / "run"
    first = run(out, validation=small.validation(), save_model=save_model)
    shutil.rmtree(out / "model")
    again = run(out, validation=small.validation(), save_model=save_model, resume=True)
    assert small.digest(again.model) == small.digest(first.model)
    assert again.evaluation == first.evaluation
    assert [row["step"] for row in rows_of(out, "eval")] == [6]
    assert (out / "model" / "saved").exists()


def test_resuming_nothing_begins_at_the_start_and_says_so(tmp_path):
    out = tmp_path / "run"
    result = run(out, resume=True)
    assert result.resumed_from is None
    assert "no checkpoint" in events(out, "info")[0]
    assert small.digest(result.model) == small.digest(run(tmp_path / "whole").model)


def test_resuming_with_shards_of_another_tokenizer_is_refused(tmp_path):
    run(tmp_path / "run")
    other = small.windows()
    tokenizer = {"tokenizer_fingerprint": "f" * 64, "tokenizer_kind": "char"}
    other.shards = dataclasses.replace(other.shards, meta={**other.shards.meta, **tokenizer})
    with pytest.raises(DataError, match="built with another tokenizer: char"):
        run(tmp_path / "run", view=other, resume=True)


@pytest.mark.parametrize(
    ("model", "changes", "named"),
    [
        ({}, {"lr": 1e-2, "weight_decay": 0.0}, ["train.lr: 0.003 in the checkpoint, 0.01 asked for", "weight_decay"]),
        ({"d_model": 12}, {}, ["model.d_model: 24 in the checkpoint, 12 asked for"]),
        ({}, {"accumulate": 2}, ["train.accumulate"]),
    ],
)
def test_a_checkpoint_of_another_run_is_refused_with_all_that_differs(tmp_path, model, changes, named):
    run(tmp_path / "run")
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    with pytest.raises(RunError) as caught:
        run(tmp_path / "run", model=small.gpt2(**model), resume=True, changes=changes)
    assert all(name in str(caught.value) for name in named)
    assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()} == before


def test_settings_that_no_weight_depends_on_may_change_and_numerics_are_kept_with_a_warning(tmp_path):
    out = tmp_path / "run"
    run(out, view=StopAfter(3), changes={"threads": 1})
    changed = {"eval_every": 5, "checkpoint_every": 1, "precision": "bf16", "threads": 2}
    resumed = run(out, resume=True, changes=changed, validation=small.validation())
    assert small.digest(resumed.model) == small.digest(run(tmp_path / "whole", changes={"threads": 1}).model)
    warned = " ".join(events(out, "warning"))
    assert "precision bf16 was asked for, but the run has float32" in warned
    assert "threads 2 was asked for, but the run has 1" in warned
    assert json.loads((out / "environment.json").read_text())["precision"] == "float32"


def test_overfitting_trains_and_evaluates_on_the_same_batches(tmp_path):
    out = tmp_path / "run"
    result = run(out, validation=small.validation(), changes={"steps": 80, "overfit_batches": 1, "lr": 1e-2})
    assert result.evaluation is not None
    assert result.evaluation["split"] == "train"
    assert result.evaluation["loss"] < 1.0
    assert {row["split"] for row in rows_of(out, "eval")} == {"train"}


def test_limit_batches_is_a_limit_of_steps_and_of_an_evaluation(tmp_path):
    view = small.validation()
    result = run(tmp_path / "run", validation=view, changes={"steps": 50, "limit_batches": 2, "eval_batches": 0})
    assert result.steps == 2
    assert result.evaluation is not None
    assert (
        sum(part["count"] for part in result.evaluation["by_position"]) == view.batch(0).scored + view.batch(1).scored
    )


def test_minutes_end_the_training_and_drive_the_schedule(tmp_path, monkeypatch):
    read = itertools.count(step=2.0)  # two seconds at each look, however busy the machine is
    monkeypatch.setattr(trainer, "time", SimpleNamespace(perf_counter=lambda: next(read)))
    changes = {"minutes": 1, "steps": 1, "warmup": 1, "schedule": "linear", "min_lr_ratio": 0.0}
    result = run(tmp_path / "run", changes=changes)
    assert result.steps > 5
    assert 60 <= result.seconds < 70
    for row in rows_of(tmp_path / "run", "train")[1:]:
        assert 0.0 <= row["lr"] <= 3e-3
    last = rows_of(tmp_path / "run", "train")[-1]
    assert last["lr"] < 0.5 * 3e-3


def test_a_loss_that_is_no_number_stops_the_run_before_the_weights_and_names_the_module(tmp_path):
    out, model = tmp_path / "run", small.gpt2()
    expand = model.trunk.blocks[1]["feed_forward"].expand
    calls = []

    def spoil(module, inputs, output):
        calls.append(1)
        return output * math.nan if len(calls) >= 4 else output

    expand.register_forward_hook(spoil)
    with pytest.raises(RunError, match=r"step 4: loss nan.*output of model\.trunk\.blocks\.1\.feed_forward\.expand"):
        run(out, model=model, changes={"checkpoint_every": 2})
    assert all(torch.isfinite(p).all() for p in model.parameters())
    assert [row["step"] for row in rows_of(out, "train")] == [1, 2, 3]
    assert "that of step 2" in events(out, "error")[0]
    assert read_run(out).status == "failed"


def test_a_first_loss_that_is_far_off_is_warned_of_unless_the_weights_are_trained(tmp_path):
    for name, fresh in (("fresh", True), ("trained", False)):
        run(tmp_path / name, model=small.gpt2(init_std=2.0), changes={"steps": 2}, fresh=fresh)
    assert "standard deviation" in events(tmp_path / "fresh", "warning")[0]
    assert events(tmp_path / "trained", "warning") == []


def test_dropout_in_evaluation_stops_the_run(tmp_path):
    model = small.gpt2()
    model.trunk.blocks[0]["attention"].mix.register_forward_hook(lambda m, i, out: F.dropout(out, 0.5))
    with pytest.raises(RunError, match="dropout is active in evaluation"):
        run(tmp_path / "run", model=model, validation=small.validation(), changes={"steps": 2})


def test_a_dead_parameter_is_warned_of_by_name(tmp_path):
    model = small.gpt2()
    model.spare = torch.nn.Parameter(torch.ones(3))
    run(tmp_path / "run", model=model)
    assert "in 6 steps: spare." in events(tmp_path / "run", "warning")[0]


def test_what_cannot_be_trained_is_refused_before_a_folder_is_made(tmp_path):
    out = tmp_path / "run"
    with pytest.raises(ConfigError, match="positions for 16"):
        run(out, model=small.gpt2(max_length=16))
    with pytest.raises(DataError, match="vocabulary of 100"):
        run(out, model=small.gpt2(vocab_size=100))
    assert not out.exists()


def test_a_folder_with_a_run_in_it_is_refused(tmp_path):
    run(tmp_path / "run")
    with pytest.raises(RunError, match="holds a run already"):
        run(tmp_path / "run")


def test_a_disk_that_fills_up_at_a_checkpoint_is_one_error_and_loses_nothing(tmp_path, monkeypatch):
    def refuse(*arguments):
        raise OSError(28, "No space left on device")

    out, write = tmp_path / "run", checkpoints._write_shared
    full_at_four = lambda aside, saved: refuse() if saved.step == 4 else write(aside, saved)  # noqa: E731
    monkeypatch.setattr(checkpoints, "_write_shared", full_at_four)
    with pytest.raises(RunError, match="No space left on device"):
        run(out, changes={"checkpoint_every": 2})
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["step-2"]
    monkeypatch.undo()
    resumed = run(out, resume=True, changes={"checkpoint_every": 2})
    assert resumed.resumed_from == 2
    assert small.digest(resumed.model) == small.digest(run(tmp_path / "whole").model)


@pytest.mark.slow
def test_compiled_training_with_carried_states_and_recomputation_is_near_the_plain_one(tmp_path):
    command = [sys.executable, "-m", "tests.training.compiled_run", str(tmp_path)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
    _, plain, fast, _, apart = done.stdout.split()
    assert float(fast) == pytest.approx(float(plain), rel=1e-5)
    assert float(apart) < 1e-5
