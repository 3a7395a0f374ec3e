"""Checkpoints exist whole or not at all, whatever happens to the disk."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch

from formers.errors import RunError
from formers.training import checkpoints
from formers.training.checkpoints import Checkpoint, Damaged, load, load_newest, refuse_another, save, steps
from formers.training.randomness import random_tensors, restore_random, seed_torch


def checkpoint(step, **facts):
    generator = torch.Generator().manual_seed(step)
    model = {"a.weight": torch.randn(5, 3, generator=generator), "b": torch.randn(7, generator=generator).bfloat16()}
    return Checkpoint(step, model, {"exp_avg.b": model["b"] * 2}, {"random.torch": torch.arange(9)}, facts)


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) and a[name].dtype == b[name].dtype for name in a)


def test_what_is_loaded_is_what_was_saved(tmp_path):
    saved = checkpoint(3, tokens=12, seconds=0.5, settings={"lr": 1e-3})
    save(tmp_path, saved)
    loaded = load(tmp_path / "step-3")
    assert loaded.step == 3
    assert same(loaded.model, saved.model)
    assert same(loaded.optimizer, saved.optimizer)
    assert same(loaded.mine, saved.mine)
    assert loaded.facts["tokens"] == 12
    assert loaded.facts["settings"] == {"lr": 1e-3}


def test_the_newest_two_are_kept_and_nothing_else_is_left(tmp_path):
    for step in (2, 10, 9, 100):
        save(tmp_path, checkpoint(step))
    assert steps(tmp_path) == [100, 10]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-10", "step-100"]


def test_no_file_is_a_pickle(tmp_path):
    save(tmp_path, checkpoint(1))
    assert {path.suffix for path in (tmp_path / "step-1").iterdir()} == {".safetensors", ".json"}


FILES = ("model.safetensors", "optimizer.safetensors", "rank-0.safetensors", "checkpoint.json", "manifest.json")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("how", ["cut", "flip", "gone"])
def test_a_damaged_file_is_named_and_the_checkpoint_before_is_used(tmp_path, name, how):
    for step in (1, 2):
        save(tmp_path, checkpoint(step))
    path = tmp_path / "step-2" / name
    content = path.read_bytes()
    if how == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif how == "flip":
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 4]) + content[middle + 1 :])
    else:
        path.unlink()
    with pytest.raises(Damaged, match=r"step-2.*is damaged"):
        load(tmp_path / "step-2")
    told = []
    loaded = load_newest(tmp_path, on_damage=told.append)
    assert loaded is not None
    assert loaded.step == 1
    assert len(told) == 1
    assert "damaged-step-2" in told[0]
    assert steps(tmp_path) == [1]
    save(tmp_path, checkpoint(2))
    assert load_newest(tmp_path, on_damage=told.append).step == 2


def test_where_all_are_damaged_there_is_none(tmp_path):
    save(tmp_path, checkpoint(1))
    (tmp_path / "step-1" / "checkpoint.json").unlink()
    assert load_newest(tmp_path, on_damage=lambda message: None) is None


def test_a_checkpoint_of_another_version_is_refused_and_left_where_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "VERSION", 99)
    save(tmp_path, checkpoint(1))
    monkeypatch.undo()
    with pytest.raises(RunError, match="version 99"):
        load_newest(tmp_path, on_damage=lambda message: None)
    assert steps(tmp_path) == [1]


def test_leftovers_of_dead_writers_go_and_those_of_living_ones_stay(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for pid in (dead.pid, os.getppid()):
        (tmp_path / f".step-4.tmp-{pid}").mkdir()
    save(tmp_path, checkpoint(5))
    assert sorted(path.name for path in tmp_path.iterdir()) == [f".step-4.tmp-{os.getppid()}", "step-5"]


def test_a_kill_while_writing_leaves_the_one_before(tmp_path):
    """SIGKILL at the last moment: all files are there, but the folder has not been renamed."""
    save(tmp_path, checkpoint(1))
    code = f"""
import os, signal, torch
from pathlib import Path
from formers.training import checkpoints as c
c._take_place = lambda *args: os.kill(os.getpid(), signal.SIGKILL)
c.save(Path({str(tmp_path)!r}), c.Checkpoint(2, {{"a": torch.ones(3)}}, {{}}, {{"r": torch.ones(1)}}))
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    assert load_newest(tmp_path, on_damage=lambda message: None).step == 1
    save(tmp_path, checkpoint(3))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-1", "step-3"]


def test_a_full_disk_is_one_clear_error_and_the_checkpoint_before_survives(tmp_path):
    """No file may grow past 64 kB in the child: the system refuses the write as a full disk does."""
    save(tmp_path, checkpoint(1))

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))

    code = f"""
import torch
from pathlib import Path
from formers.errors import RunError
from formers.training import checkpoints as c
try:
    c.save(Path({str(tmp_path)!r}), c.Checkpoint(2, {{"a": torch.ones(1 << 18)}}, {{}}, {{"r": torch.ones(1)}}))
except RunError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, preexec_fn=limit, check=True)
    assert "step 2 could not be written" in done.stdout
    assert "room for about 2 MB" in done.stdout
    assert "--resume" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["step-1"]
    load(tmp_path / "step-1")


@pytest.mark.parametrize("broken", ["_write_shared", "_write_manifest", "sync_folder", "_take_place"])
def test_no_space_at_any_moment_leaves_no_trace(tmp_path, monkeypatch, broken):
    save(tmp_path, checkpoint(1))

    def refuse(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, broken, refuse)
    with pytest.raises(RunError, match="No space left"):
        save(tmp_path, checkpoint(2))
    assert [path.name for path in tmp_path.iterdir()] == ["step-1"]


def test_another_run_is_refused_with_everything_that_differs():
    stored = {"model": {"d_model": 192, "eps": 1e-5}, "train": {"lr": 0.1}, "architecture": "gpt2"}
    refuse_another(stored, json.loads(json.dumps(stored)))
    with pytest.raises(RunError) as caught:
        refuse_another(
            stored, {"model": {"d_model": 384, "eps": 1e-5}, "train": {"lr": 0.1, "x": 2}, "architecture": "llama"}
        )
    for part in ("architecture: 'gpt2'", "model.d_model: 192 in the checkpoint, 384 asked for", "train.x: None"):
        assert part in str(caught.value)
    assert "eps" not in str(caught.value)


def test_every_random_generator_goes_on_where_it_was():
    random.gauss(0, 1), np.random.standard_normal()  # leaves one number of a pair waiting in both
    stored = random_tensors()

    def draw():
        return random.gauss(0, 1), random.random(), np.random.standard_normal(3).tolist(), torch.randn(3).tolist()

    first = draw()
    assert draw() != first
    restore_random({name: tensor.clone() for name, tensor in stored.items()})
    assert draw() == first


def test_dropout_is_a_function_of_seed_step_and_lane():
    def draw(*where):
        seed_torch(*where)
        return torch.rand(4).tolist()

    assert draw(0, 5, 1) == draw(0, 5, 1)
    assert len({tuple(draw(*where)) for where in [(0, 5, 1), (1, 5, 1), (0, 6, 1), (0, 5, 2)]}) == 4
