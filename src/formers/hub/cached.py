"""Models that the Hugging Face hub's cache holds already, and which of them can be opened here.

Told from the names of their files and from config.json alone: nothing is fetched, no weight is read, torch is not imported.

    HF_HUB_CACHE, else HF_HOME/hub, else ~/.cache/huggingface/hub
        models--org--name/refs/main              the revision that was fetched last
        models--org--name/snapshots/REVISION/    its files
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from formers.models import registry

THEIRS = {
    "gpt2": "gpt2",
    "llama": "llama",
    "t5": "t5",
    "longt5": "t5",
    "bert": "bert",
    "longformer": "longformer",
    "albert": "albert",
    "distilbert": "distilbert",
    "deberta": "deberta",
    "deberta-v2": "deberta_v2",
    "reformer": "reformer",
}
"""model_type -> our architecture: what `folders.model_types` says, without the modules that say it, which import torch."""

OURS = "formers-"


@dataclass(frozen=True)
class Cached:
    """A model in the cache.

    name          what every verb takes: "org/name", or "hf:name" where there is no organisation
    architecture  ours, None where its model_type is not implemented
    model_type    of its config.json, None where that cannot be read
    bytes         of the files that are there
    refused       why it cannot be opened; "" where it can, as far as its files' names tell
    folder        of the revision that is opened
    """

    name: str
    architecture: str | None
    model_type: str | None
    bytes: int
    refused: str
    folder: Path


def cache() -> Path:
    """Where the hub's library keeps what it fetched, by its rules."""
    own = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    if own:
        return _at_home(own)
    beside = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return _at_home(os.environ.get("HF_HOME") or os.path.join(beside, "huggingface")) / "hub"


def _at_home(path: str) -> Path:
    return Path(os.path.expanduser(path))  # of a user who is not there it stays as it is: Path's own way raises


def cached(where: Path | None = None) -> list[Cached]:
    """The models of the cache (or of another one), by name; none where there is no cache."""
    root = cache() if where is None else where
    revisions = {folder: _revision(folder) for folder in sorted(root.glob("models--*")) if folder.is_dir()}
    return [_look(_name(folder), revision) for folder, revision in revisions.items() if revision is not None]


def _name(folder: Path) -> str:
    parts = folder.name.removeprefix("models--").split("--")
    return "/".join(parts) if len(parts) > 1 else f"hf:{parts[0]}"


def _revision(folder: Path) -> Path | None:
    """The snapshot that main means, else the newest; None where nothing was fetched whole."""
    main = folder / "refs" / "main"
    with contextlib.suppress(OSError):  # not to be read, or what stands there is too long to be a name
        revision = main.read_text("utf-8", errors="replace").strip()
        named = folder / "snapshots" / revision
        if revision and named.is_dir():
            return named
    return max(folder.glob("snapshots/*/"), key=lambda each: each.stat().st_mtime, default=None)


def _look(name: str, folder: Path) -> Cached:
    files = [path for path in folder.rglob("*") if path.is_file()]  # of a fetch that was cut short a link leads nowhere
    size = sum(path.stat().st_size for path in files)
    model_type, problem = _model_type(folder)
    architecture = None if model_type is None else _architecture(model_type)
    if not problem and architecture is None:
        problem = f"model_type {model_type!r} is not implemented"
    return Cached(name, architecture, model_type, size, problem or _weights_problem(folder), folder)


def _model_type(folder: Path) -> tuple[str | None, str]:
    """What config.json names, and what is wrong with it."""
    try:
        config = json.loads((folder / "config.json").read_bytes())
    except FileNotFoundError:
        return None, "no config.json"
    except (OSError, ValueError, RecursionError) as error:
        return None, f"config.json cannot be read ({type(error).__name__})"
    found = config.get("model_type") if isinstance(config, dict) else None
    return (found, "") if isinstance(found, str) else (None, "config.json names no model_type")


def _architecture(model_type: str) -> str | None:
    own = model_type.removeprefix(OURS)
    return own if model_type.startswith(OURS) and own in registry.specs() else THEIRS.get(model_type)


def _weights_problem(folder: Path) -> str:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        return _shards_problem(folder, index)
    if any(path.is_file() for path in folder.glob("*.safetensors")):
        return ""
    pickled = any(path.is_file() for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern))
    return "weights as pickle alone, which are not opened" if pickled else "no safetensors"


def _shards_problem(folder: Path, index: Path) -> str:
    try:
        contents: Any = json.loads(index.read_bytes())
        missing = [name for name in sorted(set(contents["weight_map"].values())) if not (folder / name).is_file()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return f"{index.name} is damaged"
    return f"{len(missing)} shards are missing, such as {missing[0]}" if missing else ""
