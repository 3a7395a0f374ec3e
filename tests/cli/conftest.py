from __future__ import annotations

import contextlib
import io
from pathlib import Path

import pytest

from formers.cli.main import main
from tests.cli.commands import Formers

QUICK = [
    *("--text.tokenizer", "byte"),
    *("--train.batch-size", "4", "--train.seq-len", "32", "--train.eval-every", "3", "--train.eval-batches", "4"),
    *("--train.checkpoint-every", "3", "--train.precision", "float32", "--train.compile", "off"),
    *("--model.d-model", "16", "--model.num-layers", "1", "--model.max-length", "64"),
]
"""Settings with which a training takes a second."""

TEXT = "".join(f"def f{n}(x):\n    return x + {n}  # line {n * n}\n\n\n" for n in range(400))


@pytest.fixture
def formers(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Formers:
    """`formers(*arguments)` in a folder and with a cache of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FORMERS_CACHE", str(tmp_path / ".cache"))
    monkeypatch.setenv("COLUMNS", "200")
    return Formers(capsys)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """A file of lines that are easy to learn."""
    path = tmp_path / "my.txt"
    path.write_text(TEXT)
    return path


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six steps. Tests read it and write nothing into it but a certificate."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "my.txt").write_text(TEXT)
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()):
        patch.setenv("FORMERS_CACHE", str(folder / "cache"))
        out = folder / "run"
        code = main(
            ["train", "gpt2.nano", str(folder / "my.txt"), "--out", str(out), "--train.steps", "6", *QUICK, "--json"]
        )
    assert code == 0
    return out
