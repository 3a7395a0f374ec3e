"""Files and folders that exist whole or not at all: written aside, synced, renamed."""

from __future__ import annotations

import contextlib
import glob
import json
import math
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


def write_atomic(path: Path, data: bytes) -> None:
    """Put `data` at `path`: written aside in the same folder, flushed to disk, renamed. A crash leaves old or new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, aside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(aside, 0o644)
        os.replace(aside, path)
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """`plain(value)` as JSON, whole or not at all."""
    write_atomic(path, (json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())


def plain(value: Any) -> Any:
    """Only what JSON has: dataclasses as objects, tuples and sets as lists, paths as text, numbers that are not finite as
    null."""
    if hasattr(value, "__dataclass_fields__") and not isinstance(value, type):
        return {name: plain(getattr(value, name)) for name in value.__dataclass_fields__}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextlib.contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """A fresh folder beside `target` to write in; it takes the place of `target` when the block ends well.

    Whatever ends the block otherwise (an error, Ctrl-C) removes it. What a killed process left behind, the next call
    for the same target removes. A folder that stood at `target` is moved aside first and removed last.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(target)
    aside = Path(tempfile.mkdtemp(prefix=_aside_name(target, "part"), dir=target.parent))
    aside.chmod(0o777 & ~_umask())
    try:
        yield aside
        sync_folder(aside)
        _replace(target, aside)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def _replace(target: Path, fresh: Path) -> None:
    old = fresh.with_name(fresh.name.replace(".part-", ".old-", 1))
    if target.exists():
        os.rename(target, old)
    try:
        os.rename(fresh, target)
    except OSError:
        if old.exists():
            os.rename(old, target)
        raise
    sync(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def sync_folder(folder: Path) -> None:
    """Everything below `folder`, files before the folders that list them, on the disk."""
    for path in sorted(folder.rglob("*"), reverse=True):
        sync(path)
    sync(folder)


def sync(path: Path) -> None:
    """One file, or the names in one folder, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _aside_name(target: Path, what: str) -> str:
    return f".{target.name}.{what}-{socket.gethostname()}-{os.getpid()}-"


def _umask() -> int:
    """The process's umask, which can only be read by setting it (mkdtemp makes folders that nobody else can read)."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def remove_leftovers(target: Path) -> None:
    """Remove what processes of this machine that no longer run left beside `target`. An old folder that such a process
    had moved aside is put back if its successor never arrived."""
    import psutil  # here: verbs that write no folder start without it

    for what in ("old", "part"):
        start = f".{target.name}.{what}-{socket.gethostname()}-"
        for path in target.parent.glob(glob.escape(start) + "*"):
            pid = path.name.removeprefix(start).partition("-")[0]
            if not pid.isdigit() or psutil.pid_exists(int(pid)):
                continue
            if what == "old" and not target.exists():
                os.rename(path, target)
            else:
                shutil.rmtree(path, ignore_errors=True)
