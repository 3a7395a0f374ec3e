"""Long documents of what is installed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from formers.errors import DataError
from formers.experiments.packages import write_packages


def make(root: Path) -> Path:
    for name, size in (("large/b.py", 60), ("large/a.py", 70), ("small/a.py", 5), ("large/tests/c.py", 900)):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x" * size)
    (root / "large/latin.py").write_bytes(b"\xff\xfe")
    return root


def test_a_folders_modules_are_one_document_in_order_of_their_names(tmp_path: Path) -> None:
    count = write_packages(tmp_path / "out.jsonl", [make(tmp_path / "root")], least=100)
    (line,) = (tmp_path / "out.jsonl").read_text().splitlines()
    found = json.loads(line)
    assert (count, found["name"]) == (1, "large")
    text = found["text"]
    assert (
        text.index("# large/a.py\n" + "x" * 70)
        < text.index("# large/b.py\n" + "x" * 60)
        < text.index("# large/latin.py")
    )
    assert "tests" not in text


def test_nothing_long_enough_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no package of 10,000 bytes"):
        write_packages(tmp_path / "out.jsonl", [make(tmp_path / "root")], least=10_000)
    assert not (tmp_path / "out.jsonl").exists()
