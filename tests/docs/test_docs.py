"""What stands in docs/ runs: every Python block, page by page from top to bottom, and every command names a verb."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import re
import shlex
import sys
import traceback
import warnings
from multiprocessing.context import ForkServerContext
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


@pytest.fixture(scope="module")
def processes() -> ForkServerContext:
    """New processes in which nothing was done yet, but what takes seconds to import is there."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["formers.models.registry", "formers.training.objective", "torch._dynamo", "transformers"]
    )
    return context


@pytest.mark.parametrize("page", with_python(), ids=lambda page: page.name)
def test_the_python_of_a_page_runs_from_top_to_bottom(page: Path, tmp_path: Path, processes: ForkServerContext):
    process = processes.Process(target=run, args=("\n".join(blocks(page, "python")), tmp_path))
    process.start()
    process.join(timeout=120)
    ended = process.exitcode
    process.kill()
    assert ended == 0, (tmp_path / "said.txt").read_text()


def run(source: str, folder: Path) -> None:
    """`source` as a script of its own in `folder`, warnings being errors; what it says goes to said.txt."""
    os.chdir(folder)
    warnings.simplefilter("error")
    (folder / "page.py").write_text(source)
    with open("said.txt", "w") as said, contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            exec(compile(source, "page.py", "exec"), {"__name__": "__main__", "__file__": "page.py"})
        except BaseException:
            traceback.print_exc()
            sys.exit(1)


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
