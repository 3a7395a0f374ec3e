"""`formers train`: from words on a command line to a run folder, and every way to get it wrong."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from formers.data import Batch, open_shards
from formers.experiments.text import training_view, validation_view
from formers.recipes.find import read as recipe_of
from tests.cli.commands import Formers, in_a_fresh_process
from tests.cli.conftest import QUICK


def rows(run: Path, kind: str) -> list[dict]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["kind"] == kind]


def test_a_file_is_data_too(formers: Formers, text: Path):
    outcome = formers("train", "gpt2.nano", text, *QUICK, "--train.steps", "3")
    assert outcome.code == 0
    run = Path("runs/gpt2.nano-1")
    assert {path.name for path in run.iterdir()} >= {
        "recipe.json",
        "environment.json",
        "metrics.jsonl",
        "samples.txt",
        "model",
    }
    assert "formers generate runs/gpt2.nano-1" in outcome.out
    assert "parameters" in outcome.out  # said before it starts
    recipe = json.loads((run / "recipe.json").read_text())
    assert recipe["name"] == "gpt2.nano"
    assert recipe["data"]["sources"] == [str(text)]
    assert recipe["data"]["tokenizer"] == "byte"
    assert recipe["model"]["vocab_size"] == 257
    assert recipe["model"]["d_model"] == 16
    assert recipe["train"]["steps"] == 3


def test_the_next_free_folder_is_taken(formers: Formers, text: Path):
    for n in (1, 2):
        assert (
            formers("train", "gpt2.nano", text, *QUICK, "--train.steps", "1", "--json").json["run"]
            == f"runs/gpt2.nano-{n}"
        )


def test_json_is_all_that_stdout_gets(formers: Formers, text: Path):
    outcome = formers("train", "llama.nano", text, *QUICK, "--train.steps", "2", "--json")
    assert outcome.json["steps"] == 2
    assert outcome.json["evaluation"]["baselines"]["gzip_bits_per_byte"] > 0
    assert "parameters" in outcome.err


def test_shards_are_taken_as_they_are(formers: Formers, text: Path):
    assert formers("data", "build", text, "--out", "shards", "--tokenizer", "char", "--json").code == 0
    outcome = formers("train", "gpt2.nano", "--data", "shards", *QUICK, "--train.steps", "2", "--out", "r", "--json")
    assert outcome.code == 0
    recipe = json.loads(Path("r/recipe.json").read_text())
    assert recipe["data"]["tokenizer"] == "char"  # what the shards are, not what the options said
    assert recipe["model"]["vocab_size"] == json.loads(Path("shards/meta.json").read_text())["vocab_size"]


def test_on_bytes_validation_is_text_that_training_never_sees_and_bits_per_byte_are_printed(
    formers: Formers, text: Path
):
    """The commands of docs/cli.md: one large file of bytes, cut; no row of validation is a piece of what is trained on."""
    assert formers("data", "build", text, "--tokenizer", "byte", "--out", "bytes").code == 0
    outcome = formers(
        "train", "gpt2.nano", "--data", "bytes", *QUICK, "--train.steps", "20", "--train.eval-every", "0", "--out", "r"
    )
    assert re.search(r"validation [\d.]+ bits per byte", outcome.out)
    assert re.search(r"bits per byte +[\d.]+", formers("eval", "r").out)

    shards, recipe = open_shards(Path("bytes")), recipe_of(Path("r"))
    trained = training_view(shards, recipe.data, recipe.train)
    held_out: Any = validation_view(
        shards, batch_size=recipe.train.batch_size, seq_len=recipe.train.seq_len, carried=False
    )
    seen = {digest for step in range(recipe.train.steps) for digest in hashes(trained.batch(step))}
    tested = {digest for step in range(len(held_out)) for digest in hashes(held_out.batch(step))}
    assert len(seen) > 300
    assert len(tested) > 100
    assert not seen & tested
    leaking = dataclasses.replace(
        shards, documents=shards.documents * [1, 1, 1, 0]
    )  # what was held out is trained on too
    leaked = training_view(leaking, recipe.data, recipe.train)
    assert {digest for step in range(recipe.train.steps) for digest in hashes(leaked.batch(step))} & tested


def hashes(batch: Batch, length: int = 24) -> Iterator[bytes]:
    """sha256 of every stretch of so many bytes within one document, wherever it begins."""
    for ids, document in zip(batch.input_ids, batch.document, strict=True):
        for start in range(len(ids) - length + 1):
            if (document[start : start + length] == document[start]).all():
                yield hashlib.sha256(ids[start : start + length].astype("<u2").tobytes()).digest()


def test_one_seed_moves_weights_rows_and_dropout_and_leaves_the_split(formers: Formers, text: Path):
    for seed in (1, 2):
        formers("train", "gpt2.nano", text, *QUICK, "--train.steps", "1", "--seed", seed, "--out", f"r{seed}", "--json")
    first, second = (json.loads(Path(f"r{seed}/recipe.json").read_text()) for seed in (1, 2))
    assert (first["seed"], first["data"]["seed"], first["train"]["seed"]) == (1, 1, 1)
    assert first["shards"] == second["shards"]
    assert rows(Path("r1"), "train")[0]["loss"] != rows(Path("r2"), "train")[0]["loss"]


def test_a_larger_vocabulary_may_be_asked_for_and_a_smaller_one_is_refused(formers: Formers, text: Path):
    outcome = formers(
        "train", "gpt2.nano", text, *QUICK, "--train.steps", "1", "--model.vocab-size", "300", "--out", "r", "--json"
    )
    assert outcome.code == 0
    assert json.loads(Path("r/recipe.json").read_text())["model"]["vocab_size"] == 300
    error = formers.refuses("train", "gpt2.nano", text, *QUICK, "--model.vocab-size", "100", "--out", "s")
    assert "257" in error
    assert "--text.vocab-size 100" in error


def test_a_run_that_is_resumed_ends_as_one_that_was_never_stopped(formers: Formers, text: Path):
    """Ctrl-C at a moment of its own choosing, then `--resume`: the same weights, and every step recorded once."""
    settings = [*QUICK, "--train.steps", "40", "--model.dropout", "0.1"]
    assert formers("train", "gpt2.nano", text, *settings, "--out", "whole", "--json").code == 0
    command = [sys.executable, "-m", "formers", "train", "gpt2.nano", str(text), *settings, "--out", "stopped"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    metrics = Path("stopped/metrics.jsonl")
    while process.poll() is None and not (metrics.exists() and '"step": 5,' in metrics.read_text()):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, out + err
    assert "formers train --resume --out stopped" in out
    assert "Traceback" not in err
    assert not Path("stopped/model").exists()
    resumed = formers("train", "--resume", "--out", "stopped", "--json")
    assert resumed.code == 0
    assert resumed.json["resumed_from"] > 0
    assert [row["step"] for row in rows(Path("stopped"), "train")] == list(range(1, 41))
    ours, theirs = (load_file(f"{run}/model/model.safetensors") for run in ("stopped", "whole"))
    assert all(ours[name].equal(theirs[name]) for name in theirs)


def test_init_begins_with_the_weights_and_the_tokenizer_of_another_run(formers: Formers, text: Path, run: Path):
    outcome = formers(
        "train",
        "gpt2.nano",
        text,
        *QUICK,
        "--train.steps",
        "1",
        "--train.lr",
        "1e-12",
        "--init",
        run,
        "--out",
        "r",
        "--json",
    )
    assert outcome.code == 0
    ours, theirs = (load_file(folder / "model" / "model.safetensors") for folder in (Path("r"), run))
    assert all(ours[name].allclose(theirs[name], atol=1e-6) for name in theirs)
    assert Path("r/model/tokenizer.json").read_bytes() == (run / "model" / "tokenizer.json").read_bytes()


def test_settings_that_are_named_change_the_model_that_init_names(formers: Formers, text: Path, run: Path):
    asked = ["gpt2.nano", text, *QUICK, "--init", run, "--model.dropout", "0.25", "--train.precision", "float32"]
    outcome = formers("train", *asked, "--train.steps", "2", "--out", "r", "--json")
    assert outcome.code == 0, outcome.err
    recipe = json.loads(Path("r/recipe.json").read_text())
    assert recipe["model"]["dropout"] == recipe["init_settings"]["dropout"] == 0.25
    assert formers("train", "--resume", "--out", "r", "--json").code == 0
    assert json.loads(Path("r/recipe.json").read_text())["model"]["dropout"] == 0.25
    assert "do not fit the model" in formers.refuses("train", *asked, "--model.num-layers", "2", "--out", "other")


def test_help_of_a_recipe_shows_its_own_defaults(formers: Formers):
    outcome = formers("train", "gpt2.nano", "--help")
    assert outcome.code == 0
    assert re.search(r"--train.seq-len INT.*\(default: 128\)", outcome.out)
    assert re.search(r"--model.max-length INT.*\(default: 128\)", outcome.out)


def test_help_of_a_recipe_lists_its_settings(tmp_path: Path):
    outcome = in_a_fresh_process("train", "gpt2.nano", "--help", cwd=tmp_path)
    assert outcome.code == 0


# --- mistakes --------------------------------------------------------------------------------------------------------


def test_a_misspelled_model_setting_gets_a_suggestion(formers: Formers):
    outcome = formers("train", "gpt2.nano", "--model.num-layer", "3")
    assert outcome.code == 2
    assert "--model.num-layers" in outcome.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["gpt2.nao"], "did you mean 'gpt2.nano'?"),
        (["gpt2.nano", "nothing.txt"], "nothing.txt"),
        (["gpt2.nano", "--data", "nothing"], "nothing"),
        (["gpt2.nano", "my.txt", "--data", "shards"], "both files and --data"),
        (["gpt2.nano", "--train.batch-size", "6", "--train.accumulate", "4"], "not a multiple of accumulate"),
        (["gpt2.nano", "--model.num-heads", "3"], "not a multiple of num_heads"),
        (["gpt2.nano", "my.txt", "--train.carry-state"], "--text.view streams"),
        (["gpt2.nano", "my.txt", "--train.seq-len", "512"], "512"),
        (["gpt2.nano", "--resume"], "--out RUN"),
        (["--resume", "--out", "nowhere"], "nowhere is no run"),
        (["--train.steps", "3"], "no recipe is named"),
        (["mine.py:recipe"], "there is no file mine.py"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_one_clear_error_each(formers: Formers, text: Path, arguments: list[str], said: str):
    assert said in formers.refuses("train", *arguments)
    assert not Path("runs").exists(), "a mistake leaves no run folder"


def test_an_empty_file_is_refused(formers: Formers, tmp_path: Path):
    (tmp_path / "empty.txt").write_text("")
    assert "no text" in formers.refuses("train", "gpt2.nano", "empty.txt")


def test_a_vocabulary_larger_than_the_text_supports_is_refused(formers: Formers, tmp_path: Path):
    (tmp_path / "short.txt").write_text("one two three\n" * 40 + "four five six\n" * 30)
    error = formers.refuses("train", "gpt2.tiny", "short.txt")
    assert "vocab_size 4096 is larger than this text supports" in error


def test_a_folder_that_is_taken_is_left_alone(formers: Formers, text: Path, run: Path):
    before = sorted(path.stat().st_mtime_ns for path in run.rglob("*"))
    error = formers.refuses("train", "gpt2.nano", text, "--out", run)
    assert "--resume" in error
    assert before == sorted(path.stat().st_mtime_ns for path in run.rglob("*"))


def test_a_run_is_resumed_with_its_own_recipe_only(formers: Formers, run: Path):
    assert "is a run of gpt2.nano" in formers.refuses("train", "llama.nano", "--resume", "--out", run)
    assert "train.lr" in formers.refuses("train", "--resume", "--out", run, "--train.lr", "0.5")


def test_a_run_folder_that_is_half_written_says_so(formers: Formers, tmp_path: Path):
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "recipe.json").write_text('{"name": "gpt2.nano", ')
    assert "recipe.json" in formers.refuses("train", "--resume", "--out", "half")
