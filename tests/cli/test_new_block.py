"""`formers new block`: the file certifies, trains and is compared as it was written."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.commands import Formers
from tests.cli.conftest import QUICK


def test_a_block_of_ones_own_certifies_trains_and_is_compared_at_once(formers: Formers, text: Path, run: Path):
    outcome = formers("new", "block", "squared_relu", "--json")
    assert outcome.json["file"] == "squared_relu.py"
    assert len(Path("squared_relu.py").read_text().splitlines()) <= 45

    certificate = formers("certify", "squared_relu.py:recipe", "--json")
    assert certificate.code == 0
    assert certificate.json["ok"]

    own = ["squared_relu.py:recipe", text, *QUICK, "--model.num-heads", 2, "--out", "mine"]
    assert formers("train", *own, "--train.steps", 5, "--json").json["steps"] == 5
    assert formers("report", "mine", run, "--out", "both.html").code == 0
    assert "squared_relu" in Path("both.html").read_text()

    code = ["--code", "squared_relu.py:recipe"]
    assert formers("eval", "mine", *code, "--json").json["bits_per_byte"] > 0
    assert formers("generate", "mine", "def ", "--max-new-tokens", 5, *code, "--json").code == 0
    assert "squared_relu.py:recipe" in formers.refuses("eval", "mine")  # code runs only when it is named


def test_a_run_of_ones_own_model_is_resumed_when_its_code_is_named(formers: Formers, text: Path):
    formers("new", "block", "mine")
    own = ["mine.py:recipe", text, *QUICK, "--model.num-heads", 2, "--out", "r", "--train.steps", 3]
    assert formers("train", *own, "--json").json["resume"] == "formers train mine.py:recipe --resume --out r"
    assert formers("train", "mine.py:recipe", "--resume", "--out", "r", "--json").json["resumed_from"] == 3
    assert "mine.py:recipe" in formers.refuses("train", "--resume", "--out", "r")


@pytest.mark.parametrize("name", ["3x", "a-b", "class", "a/b", ""])
def test_a_name_that_python_cannot_use_is_refused(formers: Formers, name: str):
    assert "cannot name a Python file" in formers.refuses("new", "block", name)


def test_a_file_that_stands_there_is_left_alone(formers: Formers, tmp_path: Path):
    (tmp_path / "mine.py").write_text("precious")
    assert "exists already" in formers.refuses("new", "block", "mine")
    assert (tmp_path / "mine.py").read_text() == "precious"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("def recipe():\n    return 3\n", "gave something of type int"),
        ("def recipe():\n    return 1 / 0\n", "ZeroDivisionError"),
        ("def recepi():\n    return 3\n", "did you mean 'recepi'?"),
        ("import no_such_package\n", "no_such_package"),
        ("def recipe(:\n", "SyntaxError"),
    ],
)
def test_a_mistake_in_ones_own_file_is_shown_as_one(formers: Formers, tmp_path: Path, source: str, said: str):
    (tmp_path / "mine.py").write_text(source)
    assert said in formers.refuses("train", "mine.py:recipe")
