"""Reading a tokenizer's files, with one clear error for each way they can be bad."""

from __future__ import annotations

import json
from pathlib import Path

from formers.errors import DataError


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
