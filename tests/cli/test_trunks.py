"""Reversible trunks and chunks from the command line: trained, resumed, opened, refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file

import formers as library
from tests.cli.commands import Formers
from tests.cli.conftest import QUICK

SPARING = ["--model.trunk", "reversible", "--model.ff-chunks", "4"]


def losses(run: Path) -> list[float]:
    rows = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [row["loss"] for row in rows if row["kind"] == "train"]


def test_a_reversible_model_is_trained_and_opened_from_its_recipe(formers: Formers, text: Path):
    formers("train", "gpt2.nano", text, *QUICK, *SPARING, "--train.steps", "4", "--out", "run")
    model = library.load("run")
    assert (model.config.trunk, model.config.ff_chunks) == ("reversible", 4)
    assert json.loads(Path("run/model/config.json").read_text())["model_type"] == "formers-gpt2"
    assert formers("eval", "run", "--json").json["loss"] > 0
    assert formers("generate", "run", "def ", "--max-new-tokens", 5, "--json").json[0]["ids"]


def test_a_run_of_one_that_was_cut_off_goes_on_to_the_same_weights(formers: Formers, text: Path):
    train = ["train", "gpt2.nano", text, *QUICK, *SPARING, "--model.dropout", "0.1", "--train.steps", "6"]
    formers(*train, "--out", "run")
    wanted = load_file("run/model/model.safetensors")
    shutil.rmtree("run/checkpoints/step-6")
    formers("train", "--resume", "--out", "run")
    found = load_file("run/model/model.safetensors")
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())


def test_chunks_train_to_what_a_whole_feed_forward_trains_to(formers: Formers, text: Path):
    formers("train", "llama.nano", text, *QUICK, "--train.steps", "4", "--out", "whole")
    formers("train", "llama.nano", text, *QUICK, "--model.ff-chunks", "3", "--train.steps", "4", "--out", "chunks")
    for one, other in zip(losses(Path("whole")), losses(Path("chunks")), strict=True):
        assert abs(one - other) < 1e-4
    assert json.loads(Path("chunks/model/config.json").read_text())["model_type"] == "llama"


def test_a_trunk_of_another_name_is_refused(formers: Formers, text: Path):
    assert "trunk 'sideways' is none of" in formers.refuses("train", "gpt2.nano", text, "--model.trunk", "sideways")
