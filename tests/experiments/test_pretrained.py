"""The command that makes the models of the package: two of one size, the same text for both, records without this machine."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from formers import pretrained
from formers.data import Shards, build, open_shards, unigram_bits_per_byte
from formers.errors import DataError, RunError
from formers.experiments import run
from formers.experiments.evaluation import evaluate_model, shards_for
from formers.experiments.pretrained import MADE_LIKE, TEXT, Making, install, main, make
from formers.hub import resolve
from formers.hub.folders import load_folder
from tests.experiments.compared import texts

TOLERANCE = 0.01
"""Bits per byte: what rounding weights to bf16 may change in the score of the log."""

STEPS = 3


class Stopped(Exception):
    """The end of a process, as its log saw it coming."""


@pytest.fixture(scope="module")
def making(tmp_path_factory: pytest.TempPathFactory) -> Making:
    """A text of a few kilobytes in place of the library, and steps that take a second."""
    folder = tmp_path_factory.mktemp("making")
    (folder / "LICENSE").write_text("of this text\n")
    (folder / "text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts(80)))
    build([folder / "text.jsonl"], folder / "out" / "text", vocab_size=300, validation=0.2, cut=False, quiet=True)
    return Making(tokens=STEPS * 2048, out=folder / "out", into=folder / "package", licence=folder / "LICENSE", seed=1)


@pytest.fixture(scope="module")
def made(making: Making) -> Path:
    """The folder of the models, made by a process that ended before its second training and another that went on."""

    def say(line: str) -> None:
        if line == "training memory_mosaics-stdlib":
            raise Stopped

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "SAMPLE_TOKENS", 2)
        with pytest.raises(Stopped):
            make(making, say)
        assert not making.into.exists()
        before = (making.out / "gpt2-stdlib" / "model" / "model.safetensors").stat().st_mtime_ns
        assert make(making, lambda line: None) is None
    assert (making.out / "gpt2-stdlib" / "model" / "model.safetensors").stat().st_mtime_ns == before
    return making.into


@pytest.fixture(scope="module")
def shards(making: Making) -> Shards:
    return open_shards(making.out / "text")


def recipe_of(made: Path, name: str) -> dict[str, Any]:
    return json.loads((made / name / "recipe.json").read_text())


def rows(made: Path, name: str, kind: str) -> list[dict[str, Any]]:
    lines = (made / name / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["kind"] == kind]


# --- the models -------------------------------------------------------------------------------------------------------------


def test_both_have_as_many_parameters_and_read_the_same_rows(made: Path) -> None:
    gpt, mosaic = (recipe_of(made, name) for name in MADE_LIKE)
    assert abs(mosaic["parameters"] / gpt["parameters"] - 1) <= 0.01
    assert (gpt["data"], gpt["train"], gpt["seed"]) == (mosaic["data"], mosaic["train"], mosaic["seed"])
    assert gpt["seed"] == gpt["data"]["seed"] == 1
    for name in MADE_LIKE:
        assert [row["step"] for row in rows(made, name, "train")] == list(range(1, STEPS + 1))
    tokens = [[row["tokens"] for row in rows(made, name, "train")] for name in MADE_LIKE]
    assert tokens[0] == tokens[1]


def test_the_rate_has_fallen_to_nothing_when_the_tokens_are_read(made: Path) -> None:
    rates = [row["lr"] for row in rows(made, "gpt2-stdlib", "train")]
    assert max(rates) == 2e-3
    assert rates[-1] < 0.5 * max(rates)
    assert recipe_of(made, "gpt2-stdlib")["train"]["min_lr_ratio"] == 0


@pytest.mark.parametrize("name", MADE_LIKE)
def test_weights_are_bf16_and_score_as_the_log_says(name: str, made: Path) -> None:
    assert {p.dtype for p in load_folder(made / name / "model").parameters()} == {torch.bfloat16}
    found = resolve(made / name, dtype=torch.float32)
    last = rows(made, name, "eval")[-1]
    score = evaluate_model(found, shards_for(found))
    assert abs(score["bits_per_byte"] - last["bits_per_byte"]) < TOLERANCE
    assert score["tokens"] > 100
    assert score["baselines"] == last["baselines"]


def test_facts_are_those_of_the_files(made: Path) -> None:
    found = pretrained.facts("memory_mosaics-stdlib", made)
    assert found.architecture == "memory_mosaics"
    assert found.parameters == sum(p.numel() for p in resolve(made / "memory_mosaics-stdlib").model.parameters())
    assert found.tokens == rows(made, "memory_mosaics-stdlib", "train")[-1]["tokens"]
    assert found.bytes == sum(p.stat().st_size for p in (made / found.name).rglob("*") if p.is_file())


def test_the_models_can_be_moved_together(made: Path, tmp_path: Path) -> None:
    moved = made.rename(tmp_path / "elsewhere")
    try:
        assert shards_for(resolve(moved / "gpt2-stdlib")).folder.resolve() == (moved / TEXT).resolve()
    finally:
        moved.rename(made)


# --- the text ---------------------------------------------------------------------------------------------------------------


def test_the_held_out_texts_are_there_and_those_that_were_read_are_counted(made: Path, shards: Shards) -> None:
    shipped = open_shards(made / TEXT, verify=True)
    kept = [shipped.text(int(row)) for row in shipped.rows("validation")]
    assert kept == [shards.text(int(row)) for row in shards.rows("validation")]
    assert len(shipped.documents) == len(kept)
    for what in ("documents", "tokens", "bytes"):
        assert shipped.meta[what] == shards.meta[what]
    digest = hashlib.sha256("".join(shards.text(int(row)) for row in shards.rows("train")).encode())
    assert shipped.left_out["train"]["sha256"] == digest.hexdigest()
    assert unigram_bits_per_byte(shipped) == unigram_bits_per_byte(shards)
    assert (made / TEXT / "LICENSE").read_text() == "of this text\n"


def test_the_text_that_was_read_is_one_clear_error(made: Path) -> None:
    with pytest.raises(DataError, match=r"train documents of .* were left out of it: \d+ documents of [\d,]+ bytes"):
        open_shards(made / TEXT).rows("train")


# --- the records ------------------------------------------------------------------------------------------------------------


def test_no_record_names_a_folder_of_this_machine(made: Path, making: Making) -> None:
    for file in (path for path in made.rglob("*") if path.suffix in (".json", ".jsonl", ".md", ".txt")):
        assert str(making.out.parent) not in file.read_text(), file
        if file.name in ("recipe.json", "environment.json", "meta.json", "README.md"):
            assert not re.search(r"(?<![\w.])/(root|home|tmp|usr|var|Users)/", file.read_text()), file
    environment = json.loads((made / "gpt2-stdlib" / "environment.json").read_text())
    assert {"python", "torch", "threads", "precision"} <= environment.keys()
    assert not {"platform", "memory_gb"} & environment.keys()


def test_a_readme_has_the_figures_of_the_log(made: Path) -> None:
    text, last = (made / "gpt2-stdlib" / "README.md").read_text(), rows(made, "gpt2-stdlib", "eval")[-1]
    assert f"{last['bits_per_byte']:.4f} (gzip -9 {last['baselines']['gzip_bits_per_byte']:.4f}" in text
    assert f"--tokens {STEPS * 2048} --threads 1" in text
    assert "text.jsonl" in text


# --- what goes wrong ----------------------------------------------------------------------------------------------------------


def test_a_folder_too_large_leaves_everything_as_it_was(
    made: Path, making: Making, shards: Shards, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*")}
    monkeypatch.setattr(pretrained, "LIMIT", 100_000)
    with pytest.raises(RunError, match=r"gpt2-stdlib has [\d,]+ bytes(.|\n)*at most 100,000"):
        install(making, shards, Path(str(making.licence)))
    assert {path: path.stat().st_mtime_ns for path in made.rglob("*")} == before


def test_other_settings_than_those_that_were_trained_are_one_error(
    made: Path, making: Making, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--out", str(making.out), "--into", str(making.into), "--licence", str(making.licence), "--seed", "1"]
    assert main([*words, "--tokens", str(4 * 2048)]) == 2
    assert "train.steps is 3, wanted 4" in capsys.readouterr().err
