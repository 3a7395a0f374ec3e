"""A bar on stderr while a terminal watches; nothing otherwise."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.progress import Progress


class Watch(Protocol):
    """Shows how far one stage after another is; a context manager."""

    def __enter__(self) -> Watch: ...

    def __exit__(self, *_: object) -> None: ...

    def texts(self, stage: str, texts: Iterable[str], total: int | None = None) -> Iterator[str]:
        """`texts` unchanged, shown as they pass; `total` in characters, None: unknown."""
        ...


class Silent:
    """Shows nothing."""

    def __enter__(self) -> Silent:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def texts(self, stage: str, texts: Iterable[str], total: int | None = None) -> Iterator[str]:
        """`texts`."""
        return iter(texts)


class Bars:
    """A bar a stage, by rich."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (TextColumn("{task.description:<22}"), BarColumn(), DownloadColumn(), TimeElapsedColumn())
        self._progress: Progress = Progress(*columns, console=Console(stderr=True))

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def texts(self, stage: str, texts: Iterable[str], total: int | None = None) -> Iterator[str]:
        """`texts`, with a bar."""
        task = self._progress.add_task(stage, total=total)
        for text in texts:
            yield text
            self._progress.advance(task, len(text))
        done = self._progress.tasks[task].completed
        self._progress.update(task, total=done, completed=done)


def watch(quiet: bool) -> Watch:
    """Bars if stderr is a terminal and nobody asked for quiet."""
    return Silent() if quiet or not sys.stderr.isatty() else Bars()
