"""What every page is made with: a template filled in, a policy that lets only its own scripts run, and a file written whole."""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

from formers.errors import RunError
from formers.files import write_atomic

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""Nothing from anywhere; scripts are added by their hashes."""


def policy(*scripts: str) -> str:
    """The content security policy of a page with exactly these scripts: a mistake in escaping could not run a text."""
    return f"{POLICY}; script-src {' '.join(map(_hash, scripts))}"


def fill(template: str, fields: Mapping[str, str]) -> str:
    """Replace every ``{{name}}`` of the template, once: what is put in is never looked at again."""
    return re.sub(r"\{\{(\w+)\}\}", lambda match: fields[match[1]], template)


def resource(name: str) -> str:
    return (files("formers.comparison") / name).read_text(encoding="utf-8")


def check_out(out: Path | str) -> Path:
    """Where a page goes. Raises RunError for a folder."""
    out = Path(out)
    if out.is_dir():
        raise RunError(f"{out} is a folder", "the name of the file to write", f"name one in it, such as {out / 'page'}")
    return out


def _hash(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def version() -> str:
    try:
        return importlib.metadata.version("formers")
    except importlib.metadata.PackageNotFoundError:  # run from a clone that was never installed
        return "of a clone"


def write(out: Path, content: str) -> None:
    """Whole or not at all: a reader never sees half a page, and a full disk leaves the old one in place."""
    try:
        write_atomic(out, content.encode())
    except OSError as error:
        raise RunError(
            f"{out} cannot be written: {error.strerror}", "a place with room to write", "another --out"
        ) from error
