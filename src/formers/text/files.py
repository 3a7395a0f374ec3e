"""Reading and writing small files: whole or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

from formers.errors import DataError


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


def read_text(path: Path) -> str:
    """The UTF-8 text of a tokenizer's file.

    Raises:
        DataError: the file is missing, is a folder, or is not UTF-8.
    """
    try:
        return path.read_bytes().decode("utf-8")
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}", wanted="a tokenizer's file") from None
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8 (byte {error.start})", wanted="a tokenizer's file", do="is it damaged or compressed?"
        ) from None


def read_json(path: Path) -> dict:
    """A JSON object from a file.

    Raises:
        DataError: as `read_text`, or the file is not a JSON object.
    """
    try:
        found = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise DataError(f"{path} is not JSON (line {error.lineno}: {error.msg})", wanted="a whole file") from None
    if not isinstance(found, dict):
        raise DataError(f"{path} holds a JSON {type(found).__name__}", wanted="a JSON object")
    return found
