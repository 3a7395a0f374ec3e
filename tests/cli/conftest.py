from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.commands import Formers


@pytest.fixture
def formers(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Formers:
    """`formers(*arguments)` in a folder and with a cache of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FORMERS_CACHE", str(tmp_path / ".cache"))
    monkeypatch.setenv("COLUMNS", "200")
    return Formers(capsys)
