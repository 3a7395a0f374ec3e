"""`formers push`, without a hub."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from tests.cli.commands import Formers
from tests.hub.test_push import Hub, install


@pytest.fixture
def mine(run: Path, tmp_path: Path) -> Path:
    """A run that may be written to."""
    return Path(shutil.copytree(run, tmp_path / "mine"))


def test_a_dry_run_writes_the_card_and_lists_the_files(
    formers: Formers, mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)  # it needs none
    outcome = formers("push", mine, "me/mine", "--dry-run", "--license", "mit")
    assert outcome.code == 0
    for name in ("config.json", "model.safetensors", "tokenizer.json", "README.md"):
        assert f"  {name}\n" in outcome.out
    assert "not pushed (--dry-run)" in outcome.out
    card = (mine / "README.md").read_text()
    assert "recipe `gpt2.nano`" in card
    assert "`mit`" in card
    again = formers("push", mine, "me/mine", "--dry-run", "--json").json
    assert (again["address"], again["repo"]) == (None, "me/mine")
    assert again["files"]["README.md"] == (mine / "README.md").stat().st_size


def test_a_push_says_where_it_went_and_whose_card_it_took(
    formers: Formers, mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = install(monkeypatch, Hub())
    (mine / "README.md").write_text("My model.")
    (mine / "model" / "notes.docx").write_text("x")
    outcome = formers("push", mine, "me/mine", "--private", "--message", "first")
    assert "pushed: https://hub/me/mine" in outcome.out
    assert "the card is your" in outcome.err
    assert "left here: notes.docx" in outcome.err
    assert hub.asked[1][1][1]["README.md"] == b"My model."


def test_without_a_token_there_is_one_error(formers: Formers, mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, Hub(token=None))
    assert "hf auth login" in formers.refuses("push", mine, "me/mine")
    assert not (mine / "README.md").exists()


def test_what_cannot_be_pushed_is_refused(formers: Formers, mine: Path) -> None:
    assert "no name of a repository" in formers.refuses("push", mine, "not a name")
    assert "there is no folder" in formers.refuses("push", "nowhere", "me/mine")
