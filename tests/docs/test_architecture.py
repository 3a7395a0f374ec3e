"""ARCHITECTURE.md is true: its tree names every module, with the module's own first line."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "formers"


def first_line(path: Path) -> str:
    """What a module says of itself."""
    return (ast.get_docstring(ast.parse(path.read_text())) or "").split("\n")[0]


def tree() -> str:
    """The tree as ARCHITECTURE.md holds it: packages, and below them their modules."""
    lines: list[str] = []
    folders = sorted({path.parent for path in SOURCE.rglob("*.py")}, key=lambda p: (p != SOURCE, str(p)))
    for folder in folders:
        name = folder.relative_to(SOURCE.parent)
        lines += [f"### {name}/", "", first_line(folder / "__init__.py"), ""]
        files = sorted(path for path in folder.glob("*.py") if path.name != "__init__.py")
        lines += [f"- `{path.name}` {first_line(path)}" for path in files] + ([""] if files else [])
    return "\n".join(lines).rstrip() + "\n"


def test_every_module_says_in_one_line_what_it_is() -> None:
    silent = [str(path.relative_to(ROOT)) for path in SOURCE.rglob("*.py") if not first_line(path)]
    assert silent == []


def test_the_tree_in_the_architecture_page_is_the_tree() -> None:
    page = (ROOT / "ARCHITECTURE.md").read_text()
    assert page.endswith(tree()), "run: python -m tests.docs.test_architecture"


if __name__ == "__main__":
    page = ROOT / "ARCHITECTURE.md"
    head = page.read_text().split("## The tree, a line a file\n")[0]
    page.write_text(f"{head}## The tree, a line a file\n\n{tree()}")
