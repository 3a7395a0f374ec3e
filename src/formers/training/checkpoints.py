"""Checkpoints that exist whole or not at all: checkpoints/step-N/, safetensors and JSON only.

    model.safetensors        every parameter and buffer by name
    optimizer.safetensors    {kind}.{parameter name}
    rank-R.safetensors       of each process: random states, and carried states as lane{i}.{name}
    checkpoint.json          step, tokens, seconds, settings, recipe, numerics
    manifest.json            size and sha256 of every file above

All is written into `.step-N.tmp-PID`, flushed to the disk and renamed. A crash leaves a folder that nobody reads and that the
next save or resume removes. A file that does not match its checksum makes its checkpoint *damaged*: it is set aside under
the name `damaged-step-N`, and the one before it is used.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from formers.errors import RunError
from formers.files import plain, sync, sync_folder

FORMAT, VERSION, KEPT = "formers.checkpoint", 1, 2
MODEL, OPTIMIZER, FACTS, MANIFEST = "model.safetensors", "optimizer.safetensors", "checkpoint.json", "manifest.json"


class Damaged(RunError):
    """A checkpoint with a file that is missing, cut off or changed."""


@dataclass
class Checkpoint:
    """What a training needs to go on. `facts` are plain values; `mine` are the tensors of this process alone."""

    step: int
    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    mine: dict[str, Tensor]
    facts: dict[str, Any] = field(default_factory=dict)


def save(
    folder: Path,
    checkpoint: Checkpoint,
    *,
    rank: int = 0,
    writer: int | None = None,
    barrier: Callable[[], None] = lambda: None,
) -> Path:
    """Write `folder`/step-N and keep the newest two. Every process calls it; the first writes all that is shared.

    `writer` is the first process's id, `barrier` waits for all processes. Raises RunError where the disk is full or
    refuses; older checkpoints are untouched.
    """
    target = folder / f"step-{checkpoint.step}"
    aside = folder / f".step-{checkpoint.step}.tmp-{writer or os.getpid()}"
    try:
        if rank == 0:
            folder.mkdir(parents=True, exist_ok=True)
            remove_leftovers(folder)
            aside.mkdir()
        barrier()
        save_file(checkpoint.mine, aside / _mine(rank))
        if rank == 0:
            _write_shared(aside, checkpoint)
        barrier()
        if rank == 0:
            _write_manifest(aside)
            sync_folder(aside)
            _take_place(aside, target)
            tidy(folder)
        barrier()
    except (OSError, SafetensorError) as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise RunError(
            f"the checkpoint of step {checkpoint.step} could not be written to {folder}: {error}",
            f"room for about {_megabytes(checkpoint)} MB",
            "make room, then go on from the checkpoint before it with --resume",
        ) from error
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    return target


def steps(folder: Path) -> list[int]:
    """Steps of the checkpoints that are there, the newest first. Whether they are whole is not looked at."""
    names = (re.fullmatch(r"step-(\d+)", path.name) for path in folder.glob("step-*"))
    return sorted((int(name[1]) for name in names if name), reverse=True)


def load_newest(folder: Path, *, rank: int = 0, on_damage: Callable[[str], None]) -> Checkpoint | None:
    """The newest whole checkpoint, or None where there is none.

    `on_damage` is told, in one sentence each, of newer ones that are damaged (they are set aside by the first process).
    """
    for step in steps(folder):
        try:
            return load(folder / f"step-{step}", rank=rank)
        except Damaged as error:
            if rank == 0:
                _set_aside(folder / f"step-{step}")
            on_damage(f"{error.found}; set aside as damaged-step-{step}, the one before it is used.")
    return None


def load(path: Path, *, rank: int = 0) -> Checkpoint:
    """Read one checkpoint after checking every file. Raises Damaged (names the file), RunError where it does not fit."""
    verify(path)
    facts = json.loads((path / FACTS).read_bytes())
    if facts.get("format") != FORMAT or facts.get("version") != VERSION:
        found = f"{path} is of format {facts.get('format')!r} version {facts.get('version')!r}"
        raise RunError(found, f"{FORMAT} version {VERSION}", "use the version of formers that wrote it")
    mine = path / _mine(rank)
    if not mine.exists():
        raise RunError(f"{path} was written by fewer processes than read it", "as many", "start as many as before")
    return Checkpoint(facts["step"], load_file(path / MODEL), load_file(path / OPTIMIZER), load_file(mine), facts)


def verify(path: Path) -> None:
    """Check every file of a checkpoint against its manifest. Raises Damaged, which names the file."""
    try:
        files = json.loads((path / MANIFEST).read_bytes())["files"]
        expected = {name: (entry["bytes"], entry["sha256"]) for name, entry in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise _damaged(path / MANIFEST, "it is missing or unreadable") from None
    if not expected.keys() >= {MODEL, OPTIMIZER, FACTS}:
        raise _damaged(path / MANIFEST, "it does not list all files")
    for name, (size, digest) in expected.items():
        if not (path / name).is_file():
            raise _damaged(path / name, "it is missing")
        found = (path / name).stat().st_size
        if found != size:
            raise _damaged(path / name, f"it has {found:,} bytes of {size:,}")
        if _sha256(path / name) != digest:
            raise _damaged(path / name, "its checksum is wrong")


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left half written or half removed."""
    for path in [*folder.glob(".step-*.tmp-*"), *folder.glob(".step-*.old-*")]:
        pid = path.name.rpartition("-")[2]
        if not (pid.isdigit() and int(pid) != os.getpid() and psutil.pid_exists(int(pid))):
            shutil.rmtree(path, ignore_errors=True)


def tidy(folder: Path) -> None:
    """Remove what killed processes left: half written or half removed ones, and older ones than the newest two."""
    remove_leftovers(folder)
    for step in steps(folder)[KEPT:]:
        _remove(folder / f"step-{step}")


def differences(stored: Any, asked: Any, where: str = "") -> list[str]:
    """Every place where two trees of plain values differ: ``model.d_model: 192 in the checkpoint, 384 asked for``."""
    if isinstance(stored, dict) and isinstance(asked, dict):
        names = sorted(stored.keys() | asked.keys())
        inner = (differences(stored.get(n), asked.get(n), f"{where}.{n}" if where else n) for n in names)
        return [line for lines in inner for line in lines]
    return [] if stored == asked else [f"{where}: {stored!r} in the checkpoint, {asked!r} asked for"]


def refuse_another(stored: dict[str, Any], asked: dict[str, Any]) -> None:
    """Raise RunError, listing what differs, where a checkpoint is of another architecture, recipe or number of processes."""
    found = differences(stored, plain(asked))
    if found:
        raise RunError(
            "the checkpoint is of another run: " + "; ".join(found),
            "the settings it was made with",
            "resume with those, or train anew with another --out",
        )


def _mine(rank: int) -> str:
    return f"rank-{rank}.safetensors"


def _write_shared(aside: Path, checkpoint: Checkpoint) -> None:
    save_file(checkpoint.model, aside / MODEL)
    save_file(checkpoint.optimizer, aside / OPTIMIZER)
    facts = {"format": FORMAT, "version": VERSION, "step": checkpoint.step, **checkpoint.facts}
    (aside / FACTS).write_text(json.dumps(plain(facts), indent=2))


def _write_manifest(aside: Path) -> None:
    paths = sorted(aside.iterdir())
    for path in paths:
        path.chmod(0o644)  # safetensors makes files that nobody else can read
    files = {path.name: {"bytes": path.stat().st_size, "sha256": _sha256(path)} for path in paths}
    (aside / MANIFEST).write_text(json.dumps({"files": files}, indent=2))


def _take_place(aside: Path, target: Path) -> None:
    """Rename into place. One of the same step (written before a resume from an older one) is moved out of the way."""
    if target.exists():
        _remove(target)
    os.rename(aside, target)
    sync(target.parent)


def _remove(path: Path) -> None:
    """Out of sight at once, then deleted: a crash between leaves nothing that looks like a checkpoint."""
    hidden = path.with_name(f".{path.name}.old-{os.getpid()}")
    os.rename(path, hidden)
    shutil.rmtree(hidden, ignore_errors=True)


def _set_aside(path: Path) -> None:
    aside = path.with_name(f"damaged-{path.name}")
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(aside, ignore_errors=True)
        os.rename(path, aside)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _damaged(path: Path, how: str) -> Damaged:
    return Damaged(f"{path} is damaged: {how}", "a whole checkpoint", "resume from the checkpoint before it")


def _megabytes(checkpoint: Checkpoint) -> int:
    tensors = [*checkpoint.model.values(), *checkpoint.optimizer.values(), *checkpoint.mine.values()]
    return sum(t.numel() * t.element_size() for t in tensors) // 10**6 + 1
