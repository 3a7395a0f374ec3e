"""The import contracts in .importlinter hold, can fail, and what promises to do without torch does."""

from __future__ import annotations

import configparser
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from formers.models.registry import specs

ROOT = Path(__file__).parents[1]

WITHOUT_TORCH = [
    "formers",
    "formers.cli.main",
    "formers.cli.train",
    "formers.comparison",
    "formers.config",
    "formers.data",
    "formers.errors",
    "formers.hub.targets",
    "formers.models.registry",
    "formers.recipes",
    "formers.text",
    "formers.training.settings",
]


def contracts(root: Path) -> subprocess.CompletedProcess[str]:
    """import-linter on the package below `root`, with the contracts of this repository."""
    code = "import sys; from importlinter.cli import lint_imports_command; lint_imports_command(['--no-cache'])"
    return subprocess.run(
        [sys.executable, "-c", code], cwd=root, env={"PYTHONPATH": str(root / "src")}, capture_output=True, text=True
    )


def test_the_contracts_hold():
    done = contracts(ROOT)
    assert done.returncode == 0, done.stdout
    assert "0 broken" in done.stdout


def test_a_part_that_reaches_up_breaks_them(tmp_path: Path):
    shutil.copytree(
        ROOT / "src" / "formers", tmp_path / "src" / "formers", ignore=shutil.ignore_patterns("__pycache__")
    )
    shutil.copy(ROOT / ".importlinter", tmp_path)
    with (tmp_path / "src" / "formers" / "parts" / "norms.py").open("a") as file:
        file.write("\nfrom formers.training import train\n")
    done = contracts(tmp_path)
    assert done.returncode != 0
    assert "Imports go down only BROKEN" in done.stdout


def test_every_model_is_under_the_contract_that_keeps_models_apart():
    parser = configparser.ConfigParser()
    parser.read(ROOT / ".importlinter")
    listed = parser["importlinter:contract:models-apart"]["modules"].split()
    assert sorted(listed) == sorted(spec.module for spec in specs().values())


@pytest.mark.parametrize("name", WITHOUT_TORCH)
def test_importing_it_imports_no_torch(name: str):
    code = f"import sys, {name}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
