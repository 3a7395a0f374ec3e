"""What the library offers says what it is: docstrings of public functions, classes and their methods, counted."""

from __future__ import annotations

import ast
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "src" / "formers"

SHARE = 0.94
"""Of public functions and classes that have a docstring; the others are a name and a line or two. `main` of a verb is
documented by its Options, a forward by its class."""

LINES = 22
"""A public function without a docstring is no longer than so many."""

Found = list[tuple[str, ast.FunctionDef | ast.ClassDef]]


def public() -> Found:
    """Functions and classes at the top of every module, with where they stand."""
    found: Found = []
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.parse(path.read_text()).body:
            if (
                isinstance(node, ast.FunctionDef | ast.ClassDef)
                and not node.name.startswith("_")
                and node.name != "main"
            ):
                found.append((f"{path.relative_to(SOURCE)}:{node.name}", node))
    return found


def silent(found: Found) -> Found:
    return [(name, node) for name, node in found if not ast.get_docstring(node)]


def test_public_functions_and_classes_say_what_they_are() -> None:
    found = public()
    assert len(found) > 1500
    quiet = [name for name, _ in silent(found)]
    assert 1 - len(quiet) / len(found) >= SHARE, quiet


def test_what_says_nothing_is_short() -> None:
    long = [name for name, node in silent(public()) if (node.end_lineno or 0) - node.lineno >= LINES]
    assert long == []


def test_functions_are_short() -> None:
    """The median of all functions, methods included, is under ten lines, and one in a hundred is longer than forty."""
    sizes = sorted(
        (node.end_lineno or 0) - node.lineno + 1
        for path in SOURCE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
    )
    assert sizes[len(sizes) // 2] < 10
    assert sizes[int(0.99 * len(sizes))] <= 40
