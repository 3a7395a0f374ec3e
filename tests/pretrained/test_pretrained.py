"""The models of the package: small, on record, and used by their names without anything being written beside them."""

from __future__ import annotations

import glob
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import formers
from formers import pretrained
from formers.data import open_shards
from formers.errors import DataError, RunError, TargetError
from formers.experiments import outcome
from formers.experiments.budget import parse
from formers.experiments.compare import CompareSettings, make_plan
from formers.experiments.entrants import entries
from formers.experiments.evaluation import evaluate_model, shards_for
from formers.generation import generate_text
from formers.hub import resolve, targets
from formers.hub.folders import load_folder
from formers.training.records import RunFolder

NAMES = ("gpt2-stdlib", "memory_mosaics-stdlib")
TEXT = pretrained.HOME / "stdlib"

TOLERANCE = 0.01
"""Bits per byte: what rounding weights to bf16 may change in the score of the log."""


@pytest.fixture(autouse=True)
def unchanged() -> Iterator[None]:
    """No test leaves anything in the package."""
    before = listing()
    yield
    assert listing() == before


def listing() -> dict[Path, int]:
    files = (path for path in pretrained.HOME.rglob("*") if "__pycache__" not in path.parts and path.is_file())
    return {path: path.stat().st_mtime_ns for path in files}


# --- what is there ----------------------------------------------------------------------------------------------------------


def test_a_gpt_and_a_mosaic_of_one_size_that_read_as_much() -> None:
    assert pretrained.names() == NAMES
    gpt, mosaic = map(pretrained.facts, NAMES)
    assert (gpt.architecture, mosaic.architecture) == ("gpt2", "memory_mosaics")
    assert abs(mosaic.parameters / gpt.parameters - 1) <= 0.01
    assert gpt.tokens == mosaic.tokens
    assert (
        max(gpt.scored, mosaic.scored) < min(gpt.gzip, mosaic.gzip) < 8
    )  # both beat gzip -9 on what they have not read


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_is_smaller_than_five_megabytes(name: str) -> None:
    assert 4e6 < pretrained.size(pretrained.HOME / name) < 5_000_000


def test_the_held_out_text_is_some_hundred_kilobytes_under_the_licence_of_python() -> None:
    shards = open_shards(TEXT, verify=True)
    assert 100_000 < shards.meta["bytes"]["validation"] < 400_000
    assert len(shards.documents) == shards.meta["documents"]["validation"] >= 10
    assert "PYTHON SOFTWARE FOUNDATION LICENSE" in (TEXT / "LICENSE").read_text()
    assert re.fullmatch(r"the standard library of Python 3\.\d+\.\d+", shards.meta["text"])


def test_every_file_is_package_data() -> None:
    root = Path(formers.__file__).parents[2]
    patterns = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["formers"]
    package = pretrained.HOME.parent
    packed = {Path(path) for pattern in patterns for path in glob.glob(str(package / pattern), recursive=True)}
    assert {path for path in listing() if path.suffix != ".py"} <= packed
    assert not [path for path in packed if "__pycache__" in path.parts]


def test_records_name_no_place_and_no_machine() -> None:
    for file in pretrained.HOME.glob("*/*"):
        if file.suffix in (".json", ".md"):
            assert not re.search(r"(?<![\w.])/(root|home|tmp|usr|var|Users)/", file.read_text("utf-8")), file
    for name in NAMES:
        lines = (pretrained.HOME / name / "metrics.jsonl").read_text("utf-8").splitlines()
        events = [row["message"] for row in map(json.loads, lines) if row["kind"] == "event"]
        assert not [message for message in events if re.search(r"(?<!\w)/\w", message)]
        assert json.loads((pretrained.HOME / name / "recipe.json").read_text())["shards"]["folder"] == "../stdlib"


def test_names_and_facts_cost_no_torch() -> None:
    code = (
        "import sys; from formers import pretrained; from formers.hub import targets\n"
        "print([pretrained.facts(n).name for n in pretrained.names()], targets.parse('gpt2-stdlib').kind)\n"
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"{list(NAMES)} run"


def test_a_damaged_log_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "recipe.json").write_text("{}")
    (tmp_path / "x" / "metrics.jsonl").write_text("")
    with pytest.raises(RunError, match="cannot be read"):
        pretrained.facts("x", tmp_path)


# --- by name ----------------------------------------------------------------------------------------------------------------


def test_a_folder_of_that_name_here_goes_first_if_it_holds_a_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gpt2-stdlib").mkdir()
    assert targets.parse("gpt2-stdlib").path == pretrained.HOME / "gpt2-stdlib"
    formers.save(formers.build("gpt2", preset="nano"), "gpt2-stdlib")
    found = targets.parse("gpt2-stdlib")
    assert (found.kind, found.path) == ("folder", Path("gpt2-stdlib"))
    assert "it is the model that comes with formers" in found.note


@pytest.mark.parametrize("wrong", ["gpt2-stdlb", "gpt2-sdtlib", "gpt-stdlib"])
def test_a_wrong_name_suggests_the_right_one(wrong: str) -> None:
    with pytest.raises(TargetError, match="did you mean gpt2-stdlib"):
        targets.parse(wrong)
    with pytest.raises(TargetError, match="did you mean 'gpt2-stdlib'"):
        entries([wrong])
    with pytest.raises(TargetError, match=r"did you mean 'gpt2\.tiny'"):
        entries(["gpt2.tiyn"])


@pytest.mark.parametrize("name", NAMES)
def test_a_model_comes_as_float32_and_writes_what_its_stored_weights_write(name: str) -> None:
    found = resolve(name)
    stored = load_folder(pretrained.HOME / name / "model")
    assert {p.dtype for p in stored.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in found.model.parameters()} == {torch.float32}
    assert {p.dtype for p in formers.load(name, dtype=torch.bfloat16).parameters()} == {torch.bfloat16}
    assert found.run == pretrained.HOME / name
    assert found.tokenizer is not None
    how = {"max_new_tokens": 24, "temperature": 0.8, "seed": 3}
    ours, theirs = (
        generate_text(model, found.tokenizer, "import os\n\n\ndef ", **how)[0]
        for model in (found.model, stored.float())
    )
    assert ours.ids == theirs.ids
    assert ours.text.strip()


@pytest.mark.parametrize("name", ["gpt2-stdlib", pytest.param("memory_mosaics-stdlib", marks=pytest.mark.slow)])
def test_the_last_evaluation_of_the_log_is_what_the_weights_score(name: str) -> None:
    found = resolve(name)
    shards = shards_for(found)
    assert shards.folder.resolve() == TEXT.resolve()
    row = evaluate_model(found, shards)
    assert abs(row["bits_per_byte"] - pretrained.facts(name).scored) < TOLERANCE
    assert row["baselines"]["gzip_bits_per_byte"] == pytest.approx(
        pretrained.facts(name).gzip, abs=1e-3
    )  # zlibs differ


# --- compared ---------------------------------------------------------------------------------------------------------------


def test_comparing_them_cannot_tell_between_single_trainings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcome, "SAMPLE_TOKENS", 4)
    found = outcome.compare(entries(NAMES), CompareSettings(documents=2, longest=6000), tmp_path)
    assert found["verdict"].startswith("Cannot tell which is best")
    assert "One seed each" in found["verdict"]
    assert set(found["ranking"]) == set(NAMES)
    assert all(entrant["bits_per_byte"] < 4 and entrant["joined"] for entrant in found["entrants"].values())


def test_a_recipe_cannot_be_trained_on_text_that_is_not_there() -> None:
    with pytest.raises(
        DataError, match=r"gpt2\.nano would have to be trained on the text of gpt2-stdlib(.|\n)*do: leave"
    ):
        make_plan(entries(["gpt2-stdlib", "gpt2.nano"]), CompareSettings(parse(["steps=3"])))


def test_no_training_goes_on_in_the_package() -> None:
    with pytest.raises(RunError, match="belongs to a model that comes with formers"):
        RunFolder(pretrained.HOME / "mine", write=True, resume=False)
