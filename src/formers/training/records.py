"""The run folder: recipe.json, environment.json, metrics.jsonl, samples.txt, checkpoints/, model/, pictures/ where asked for.

Files of settings are written aside and renamed. metrics.jsonl grows by whole lines, handed to the system at once (so that
SIGKILL loses none) and to the disk before each checkpoint (so that the metrics are never behind it); a resumed run first
cuts it back to the checkpoint's step, so that no step stands twice and none is missing.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any, TextIO

import psutil
import torch

import formers
from formers import pretrained
from formers.errors import RunError
from formers.files import plain, write_atomic, write_json

RECIPE, ENVIRONMENT, METRICS, SAMPLES = "recipe.json", "environment.json", "metrics.jsonl", "samples.txt"
CHECKPOINTS, MODEL = "checkpoints", "model"


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises RunError that names the file."""
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror}", "a whole run folder") from None
    except ValueError as error:
        raise RunError(f"{path} is not JSON: {error}", "one JSON object", "restore the file") from None
    if not isinstance(value, dict):
        raise RunError(f"{path} holds a JSON {type(value).__name__}", "one JSON object", "restore the file")
    return value


class Metrics:
    """metrics.jsonl, open for appending. Keeps rows with a step up to `keep` and drops all others, whole or half."""

    def __init__(self, path: Path, *, keep: int) -> None:
        self.path = path
        cut_back(path, keep)
        self.file: TextIO = path.open("a", encoding="utf-8")

    def append(self, row: dict[str, Any]) -> None:
        """One line, out of this process's hands when it returns."""
        self.file.write(json.dumps(plain(row), ensure_ascii=False, allow_nan=False) + "\n")
        self.file.flush()

    def sync(self) -> None:
        """Everything appended is on the disk."""
        os.fsync(self.file.fileno())

    def close(self) -> None:
        self.file.close()


def cut_back(path: Path, keep: int) -> None:
    """Keep the rows of metrics.jsonl whose step is at most `keep`; -1 keeps none. Half a last line is dropped."""
    if keep < 0 or not path.exists():
        write_atomic(path, b"")
        return
    kept = [line for line in path.read_bytes().split(b"\n")[:-1] if line.strip() and _step(path, line) <= keep]
    write_atomic(path, b"".join(line + b"\n" for line in kept))


def _step(path: Path, line: bytes) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        found = f"{path} has a line that is no record: {line[:80]!r}"
        raise RunError(found, 'a JSON object with a "step"', "delete that line if you accept the gap") from None


class RunFolder:
    """A run folder that one training writes to. Processes that do not write (`write` False) touch nothing."""

    def __init__(self, path: Path, *, write: bool, resume: bool) -> None:
        """Raises RunError where the folder holds a run and none was to be resumed, or belongs to the package, or where another
        training writes to it."""
        self.path, self.write = path, write
        self.metrics: Metrics | None = None
        self.lock: TextIO | None = None
        if not write:
            return
        pretrained.refuse_to_write(path)
        if (path / RECIPE).exists() and not resume:
            raise RunError(
                f"{path} holds a run already", "a new folder", "go on with it by --resume, or choose another --out"
            )
        path.mkdir(parents=True, exist_ok=True)
        self.lock = _lock(path)

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *_: object) -> None:
        for file in (self.metrics, self.lock):
            if file is not None:
                file.close()

    def start(self, recipe: dict[str, Any], chosen: dict[str, Any], *, resumed_from: int | None) -> None:
        """Write recipe and environment, and cut the metrics back to the step that the training goes on from."""
        if not self.write:
            return
        found = environment(chosen)
        if resumed_from is not None and (self.path / ENVIRONMENT).exists():
            found |= {"started": read_json(self.path / ENVIRONMENT).get("started"), "resumed": found["started"]}
        write_json(self.path / RECIPE, recipe)
        write_json(self.path / ENVIRONMENT, found)
        self.metrics = Metrics(self.path / METRICS, keep=-1 if resumed_from is None else resumed_from)
        if self.rows("sample") or (self.path / SAMPLES).exists():
            self.write_samples()

    def note(self, **facts: Any) -> None:
        """Add to environment.json what is known only later."""
        if self.write:
            write_json(self.path / ENVIRONMENT, read_json(self.path / ENVIRONMENT) | facts)

    def append(self, row: dict[str, Any]) -> None:
        """One row of the metrics."""
        assert self.metrics is not None
        try:
            self.metrics.append(row)
        except OSError as error:
            raise _cannot_write(self.metrics.path, error) from error

    def sync(self) -> None:
        """The metrics are on the disk."""
        if self.metrics is not None:
            self.metrics.sync()

    def rows(self, kind: str) -> list[dict[str, Any]]:
        """The rows of one kind so far."""
        if not (self.path / METRICS).exists():
            return []
        rows = [json.loads(line) for line in (self.path / METRICS).read_bytes().split(b"\n")[:-1]]
        return [row for row in rows if row["kind"] == kind]

    def write_samples(self) -> None:
        """samples.txt, made anew from the metrics, so that it follows them when a run is resumed."""
        blocks = [f"--- step {row['step']} ---\n{row['prompt']}{row['text']}\n" for row in self.rows("sample")]
        try:
            write_atomic(self.path / SAMPLES, "\n".join(blocks).encode())
        except OSError as error:
            raise _cannot_write(self.path / SAMPLES, error) from error


def _lock(path: Path) -> TextIO | None:
    """Held while a training writes; the system drops it however the process ends. Not on Windows, which has no flock."""
    try:
        import fcntl
    except ImportError:
        return None
    file = (path / ".lock").open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise RunError(
            f"another training is writing to {path}", "one at a time", "wait for it, or choose another --out"
        ) from None
    return file


def _cannot_write(path: Path, error: OSError) -> RunError:
    return RunError(
        f"{path} cannot be written: {error.strerror}", "room on the disk", "make room, then go on with --resume"
    )


def environment(chosen: dict[str, Any]) -> dict[str, Any]:
    """What the run ran on, flat, with what was chosen for it (device, precision, compile, threads)."""
    return {
        "formers": formers.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "cpu": _cpu_name(),
        "cores": psutil.cpu_count(logical=False) or os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **chosen,
    }


def _cpu_name() -> str:
    if sys.platform == "linux":
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
        named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        if named and named[0]:
            return named[0]
    return platform.processor() or platform.machine()
