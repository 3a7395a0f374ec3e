"""Dispatch, help, exit codes, and what a command costs before it does anything."""

from __future__ import annotations

import importlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from formers.cli import main as entry
from formers.cli.verbs import VERBS
from formers.errors import ConfigError
from tests.cli.commands import Formers, in_a_fresh_process

ROOT = Path(__file__).parents[2]

WITHOUT_A_MODEL = [
    (),
    ("--help",),
    ("--version",),
    ("models",),
    ("models", "--json"),
    ("runs",),
    ("trian",),
    ("data",),
    ("new",),
    ("new", "block", "3x"),
    ("train",),
    ("train", "--help"),
    ("train", "gpt2.tniy"),
    ("train", "gpt2.tiny", "no-such-file.txt"),
    ("train", "gpt2.tiny", "--data", "no-such-folder"),
    ("train", "gpt2.tiny", "--train.stepz", "3"),
    ("train", "gpt2.tiny", "--train.steps", "many"),
    ("eval",),
    ("eval", "no-such-run"),
    ("generate", "no-such-run", "x"),
    ("certify", "no-such-target"),
    ("report", "no-such-run"),
    ("data", "build", "no-such-file.txt"),
    ("convert", "no-such-run", "there"),
]


@pytest.mark.parametrize("arguments", WITHOUT_A_MODEL, ids=" ".join)
def test_what_needs_no_model_costs_no_torch(arguments: tuple[str, ...], tmp_path: Path):
    outcome = in_a_fresh_process(*arguments, cwd=tmp_path)
    assert outcome.err.endswith("NO TORCH\n"), outcome.err
    assert outcome.code in (0, 2)
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_has_help_and_json(formers: Formers, name: str):
    outcome = formers(*name.split(), "--help")
    assert outcome.code == 0
    assert "--json" in outcome.out


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_is_documented(name: str):
    page = (ROOT / "docs" / "cli.md").read_text()
    assert re.search(rf"^## formers {name}$", page, re.MULTILINE), f"docs/cli.md has no section 'formers {name}'"


@pytest.mark.parametrize("name", VERBS)
def test_every_option_of_a_verb_is_documented_and_none_that_is_not_there(formers: Formers, name: str):
    page = (ROOT / "docs" / "cli.md").read_text()
    section = page.partition(f"\n## formers {name}\n")[2].partition("\n## ")[0]
    table = "\n".join(line.split("|")[1] for line in section.splitlines() if line.startswith("| `--"))
    offered = re.findall(r"^\W+(--[a-z][a-z-]*) ", formers(*name.split(), "--help").out, re.MULTILINE)
    assert set(re.findall(r"`(--[a-z-]+)`", table)) == set(offered)


def test_the_page_documents_no_verb_that_is_not_there():
    page = (ROOT / "docs" / "cli.md").read_text()
    assert set(re.findall(r"^## formers (.+)$", page, re.MULTILINE)) == set(VERBS)


def test_every_verb_has_a_module_and_every_module_with_a_main_is_a_verb():
    folder = Path(entry.__file__).parent
    mains = {path.stem for path in folder.glob("*.py") if re.search(r"^def main\(", path.read_text(), re.MULTILINE)}
    assert mains == {verb.module.rpartition(".")[2] for verb in VERBS.values()} | {"main"}
    for verb in VERBS.values():
        assert callable(importlib.import_module(verb.module).main)


@pytest.mark.parametrize(("typed", "meant"), [("trian", "train"), ("certfy", "certify"), ("modles", "models")])
def test_a_misspelled_verb_gets_a_suggestion(formers: Formers, typed: str, meant: str):
    assert f"did you mean '{meant}'?" in formers.refuses(typed)


def test_half_a_verb_names_the_whole(formers: Formers):
    assert "formers data build" in formers.refuses("data", "bild")


def test_a_misspelled_option_gets_a_suggestion(formers: Formers):
    outcome = formers("models", "--jso")
    assert outcome.code == 2
    assert "--json" in outcome.err


def raising(error: BaseException):
    def run(words: list[str]) -> int:
        raise error

    return run


def test_a_mistake_is_printed_once_with_what_to_do(formers: Formers, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(entry, "_run", raising(ConfigError("found this", "wanted that", "do so")))
    assert formers.refuses("models") == "error: found this\n  wanted: wanted that\n  do: do so\n"


def test_debug_shows_where_a_mistake_was_found(formers: Formers, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(entry, "_run", raising(ConfigError("found this")))
    with pytest.raises(ConfigError):
        formers("models", "--debug")
    monkeypatch.setenv("FORMERS_DEBUG", "1")
    with pytest.raises(ConfigError):
        formers("models")


def test_a_fault_of_our_own_keeps_its_traceback(formers: Formers, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(entry, "_run", raising(AssertionError("ours")))
    with pytest.raises(AssertionError):
        formers("models")


def test_a_full_disk_is_one_clear_error(formers: Formers, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(entry, "_run", raising(OSError(28, "No space left on device", "runs/x")))
    assert "No space left on device" in formers.refuses("models")


def test_ctrl_c_exits_with_130_and_says_what_was_saved(formers: Formers, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(entry, "_run", raising(KeyboardInterrupt("saved step 7; go on with: formers train --resume")))
    outcome = formers("models")
    assert outcome.code == 130
    assert "saved step 7" in outcome.err
    assert "Traceback" not in outcome.err


def test_a_reader_that_goes_away_ends_the_command_quietly():
    code = (
        "import os, sys\nr, w = os.pipe()\nos.close(r)\nos.dup2(w, 1)\n"
        "from formers.cli.main import main\nsys.exit(main(['models']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 128 + signal.SIGPIPE
    assert done.stderr == ""


def test_no_color_is_honoured(tmp_path: Path):
    environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    environment |= {"FORCE_COLOR": "1", "COLUMNS": "120"}
    plain = in_a_fresh_process("models", cwd=tmp_path, env=environment | {"NO_COLOR": "1"})
    assert "\x1b[3" not in plain.out
    assert "\x1b[9" not in plain.out
