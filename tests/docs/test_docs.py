"""What stands in docs/ runs: every Python block, page by page from top to bottom, and every command names a verb."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from formers.cli.main import find

DOCS = Path(__file__).parents[2] / "docs"
PAGES = sorted(DOCS.rglob("*.md"))


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


def with_python() -> list[Path]:
    return [page for page in PAGES if blocks(page, "python")]


def test_there_is_something_to_run():
    assert {"own-block.md", "plain-pytorch.md", "transformer_xl.md"} <= {page.name for page in with_python()}


@pytest.mark.parametrize("page", with_python(), ids=lambda page: page.name)
def test_the_python_of_a_page_runs_from_top_to_bottom(page: Path, tmp_path: Path):
    source = "\n".join(blocks(page, "python"))
    (tmp_path / "page.py").write_text(source)
    done = subprocess.run(
        [sys.executable, "-W", "error", "page.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_of_a_page_names_a_verb(page: Path):
    for line in "\n".join(blocks(page, "bash")).splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["formers"]:
            find(words[1:])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_of_a_page_leads_somewhere(page: Path):
    text = re.sub(r"`[^`\n]*`", "", page.read_text())  # `[MASK](10)` is no link
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert target.startswith("http") or (page.parent / target).exists(), target


def test_the_plain_loop_is_25_lines():
    first = blocks(DOCS / "plain-pytorch.md", "python")[0]
    assert len([line for line in first.splitlines() if line.strip()]) <= 25
