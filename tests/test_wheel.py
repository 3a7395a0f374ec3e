"""The built wheel works outside the clone: what it holds, what it imports, what its command says."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
DATA = [
    "formers/py.typed",
    "formers/cli/block.txt",
    "formers/comparison/report.html",
    "formers/comparison/report.css",
    "formers/comparison/report.js",
    "formers/comparison/vendor/uPlot.iife.min.js",
    "formers/pretrained/gpt2-stdlib/metrics.jsonl",
    "formers/pretrained/gpt2-stdlib/model/model.safetensors",
    "formers/pretrained/memory_mosaics-stdlib/model/tokenizer.json",
    "formers/pretrained/stdlib/tokens.bin",
    "formers/pretrained/stdlib/LICENSE",
]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of what git tracks, so that nothing untracked can help it."""
    copy, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    for name in filter(None, listed.decode().split("\0")):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes((ROOT / name).read_bytes())
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--wheel-dir", str(out), str(copy)], check=True)
    (built,) = out.glob("formers-*.whl")
    return built


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment with the wheel in it; what it needs comes from this one's packages, without the clone."""
    home = tmp_path_factory.mktemp("venv")
    venv.create(home, with_pip=True)
    python = home / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", "--no-index", str(wheel)], check=True)
    (site,) = home.glob("lib/python*/site-packages")
    (site / "zz_needs.pth").write_text(
        sysconfig.get_paths()["purelib"] + "\n"
    )  # a .pth file's own .pth files are not read
    return python


def run(python: Path, *arguments: str, cwd: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([python, *arguments], cwd=cwd, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_holds_the_data_and_the_licence_and_nothing_that_is_not_formers(wheel: Path):
    names = zipfile.ZipFile(wheel).namelist()
    assert set(DATA) <= set(names)
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert {name.split("/")[0].partition("-")[0] for name in names} == {"formers"}


def test_it_imports_from_where_it_was_installed(python: Path, tmp_path: Path):
    where = run(python, "-c", "import formers, formers.laws, formers.hub; print(formers.__file__)", cwd=tmp_path)
    assert str(python.parents[1]) in where


def test_its_command_works(python: Path, tmp_path: Path):
    command = str(python.parent / "formers")
    assert "gpt2" in run(python, command, "models", cwd=tmp_path)
    assert run(python, command, "generate", "gpt2-stdlib", "def ", "--max-new-tokens", "4", cwd=tmp_path).startswith(
        "def "
    )
    run(python, command, "new", "block", "mine", cwd=tmp_path)
    assert "laws hold" in run(python, command, "certify", "mine.py:recipe", cwd=tmp_path)


def test_it_trains_and_reports(python: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "my.txt").write_text("".join(f"line {n} of {n * n}\n" for n in range(800)))
    command = str(python.parent / "formers")
    quick = ["--text.tokenizer", "byte", "--train.steps", "3", "--train.batch-size", "2", "--out", "r"]
    monkeypatch.setenv("FORMERS_CACHE", str(tmp_path / "cache"))
    run(python, command, "train", "gpt2.nano", "my.txt", *quick, cwd=tmp_path)
    assert "report.html" in run(python, command, "report", "r", cwd=tmp_path)
    assert (tmp_path / "r" / "report.html").stat().st_size > 50_000
