"""What people read and what programs read: tables and words by rich, results of ``--json`` alone on stdout."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from formers.files import plain

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

WIDTH_OF_A_PIPE = 120


def stdout() -> Console:
    """The console of results. Rich heeds NO_COLOR, TERM and COLUMNS; what is no terminal gets no colours."""
    return _console(stderr=False)


def stderr() -> Console:
    """The console of everything that is not the result."""
    return _console(stderr=True)


def speaker(as_json: bool) -> Console:
    """Where a verb talks while it works: stderr where stdout belongs to a JSON result."""
    return _console(stderr=as_json)


def _console(*, stderr: bool) -> Console:
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    wide = None if stream.isatty() else WIDTH_OF_A_PIPE
    console = Console(stderr=stderr, highlight=False, width=wide, soft_wrap=False, emoji=False)
    console.on_broken_pipe = _reader_gone  # rich would end the process with code 1
    return console


def _reader_gone() -> None:
    raise BrokenPipeError


def emit(value: Any) -> None:
    """The result of ``--json``: one JSON value on stdout, with null for numbers that are not finite."""
    print(json.dumps(plain(value), indent=2, ensure_ascii=False), flush=True)


def table(*headings: str, right: Iterable[int] = (), title: str | None = None) -> Table:
    """An empty table in the house's style; `right` are the columns of numbers."""
    import rich.box
    from rich.table import Table

    result = Table(box=rich.box.SIMPLE_HEAD, show_edge=False, pad_edge=False, title=title, title_justify="left")
    numbers = set(right)
    for number, heading in enumerate(headings):
        result.add_column(heading, justify="right" if number in numbers else "left", overflow="fold")
    return result


def facts(pairs: Iterable[tuple[str, str]]) -> Table:
    """Label and value, one pair a line."""
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for label, value in pairs:
        grid.add_row(Text(label), Text(value))
    return grid


def remark(note: str) -> None:
    """Something the reader should know before the result, on stderr; nothing where there is none."""
    if note:
        stderr().print(note, style="yellow", markup=False, soft_wrap=True)


def print_error(message: str) -> None:
    """One error on stderr, with its `wanted` and `do` lines."""
    from rich.text import Text

    sys.stdout.flush()
    text = Text("error: ", style="bold red")
    text.append(message, style="default")
    stderr().print(text, soft_wrap=True)
