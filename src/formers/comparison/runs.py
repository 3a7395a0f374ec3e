"""Run folders as records: what a training left behind, read once, checked, and never written.

A run folder holds ``recipe.json``, ``environment.json``, ``metrics.jsonl``, ``samples.txt``, checkpoints and, once it is
finished, ``model/`` (and ``certificate.json`` where one was made). Only the recipe must be there. A crash can leave the
last line of the metrics half written, so that one is dropped with a note; anything else that is broken is refused, with
its line number, because numbers from a damaged file cannot be trusted.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from formers.errors import RunError

Row: TypeAlias = Mapping[str, Any]
RunLike: TypeAlias = "RunRecord | Path | str"

RUNNING_WITHIN = 120.0
"""Seconds: a run whose metrics changed this recently counts as running. Evaluations write nothing for a while."""

_FIELDS = {
    "train": ("tokens", "seconds", "loss", "lr", "grad_norm", "tokens_per_second"),
    "eval": ("tokens", "seconds", "loss", "bits_per_byte", "perplexity", "accuracy"),
    "sample": (),
    "event": (),
}
"""The kinds of line and, for each, the fields that must be numbers (or null) where they are present."""


@dataclass(frozen=True)
class RunRecord:
    """One run folder, read. Rows are the lines of ``metrics.jsonl`` by kind, in order, as they were written.

    ``status`` is ``finished``, ``running``, ``stopped``, ``failed`` or ``not started``; ``age`` the seconds since the run
    last wrote; ``notes`` what the reader had to say about the files (an unfinished last line, lines of unknown kinds).
    """

    name: str
    path: Path
    recipe: Row
    environment: Row
    train: tuple[Row, ...]
    evals: tuple[Row, ...]
    samples: tuple[Row, ...]
    events: tuple[Row, ...]
    certificate: Row | None
    parameters: int | None
    status: str
    age: float
    notes: tuple[str, ...] = ()

    @property
    def recipe_name(self) -> str:
        return str(self.recipe.get("name", "unnamed"))

    @property
    def steps(self) -> int:
        """Optimizer steps done."""
        return int(self.train[-1]["step"]) if self.train else 0

    @property
    def planned_steps(self) -> int | None:
        """Steps that the recipe asked for; None where it asked for minutes."""
        return _planned(self.recipe)

    @property
    def validation(self) -> tuple[Row, ...]:
        """The evaluations on the validation split, in order."""
        return tuple(row for row in self.evals if row.get("split", "validation") == "validation")


@dataclass(frozen=True)
class RunSummary:
    """One line of ``formers runs``. A folder that cannot be read has status ``broken`` and says why in ``problem``."""

    name: str
    path: Path
    recipe: str
    steps: int
    last_loss: float | None
    bits_per_byte: float | None
    status: str
    age: float
    problem: str = ""


def read_run(folder: Path | str, *, now: float | None = None) -> RunRecord:
    """Read one run folder. ``now`` (seconds since the epoch) decides between running and stopped.

    Raises RunError where the folder is not a run, or a file in it is damaged (the message names the file and line).
    """
    path = Path(folder)
    recipe = _read_recipe(path)
    rows, notes = _read_metrics(path / "metrics.jsonl")
    by_kind = {kind: tuple(row for row in rows if row["kind"] == kind) for kind in _FIELDS}
    age = _age(path, now)
    parameters = recipe.get("parameters")
    return RunRecord(
        name=path.resolve().name,
        path=path,
        recipe=recipe,
        environment=_read_object(path / "environment.json") or {},
        train=by_kind["train"],
        evals=by_kind["eval"],
        samples=by_kind["sample"],
        events=by_kind["event"],
        certificate=_read_certificate(path / "certificate.json"),
        parameters=parameters if isinstance(parameters, int) else None,
        status=_status(path, recipe, by_kind["train"], by_kind["event"], age),
        age=age,
        notes=tuple(notes),
    )


def read_runs(runs: Sequence[RunLike]) -> list[RunRecord]:
    """Read each folder (records pass through). A folder given twice is read once; no folder at all is an error."""
    if isinstance(runs, (str, Path)):
        runs = [runs]
    records: dict[Path, RunRecord] = {}
    for run in runs:
        record = run if isinstance(run, RunRecord) else read_run(run)
        records.setdefault(record.path.resolve(), record)
    if not records:
        raise RunError("no run was given", "at least one run folder", "`formers runs` lists them")
    return list(records.values())


def labels(runs: Sequence[RunRecord]) -> list[str]:
    """A name for each run that is unique among them: the folder's, with as many parents as it takes."""
    parts = [run.path.resolve().parts for run in runs]
    depth = 1
    while depth < max(map(len, parts)) and len({path[-depth:] for path in parts}) < len(parts):
        depth += 1
    short = ["/".join(path[-depth:]) for path in parts]
    return [
        run.name if [r.name for r in runs].count(run.name) == 1 else name for run, name in zip(runs, short, strict=True)
    ]


def find_runs(root: Path | str, *, now: float | None = None) -> list[RunSummary]:
    """Every run folder below ``root`` (or ``root`` itself), the newest first; broken ones are listed as broken.

    Reads only the last lines and the evaluations of each, so that a thousand long runs are listed in a moment.
    """
    root = Path(root)
    if not root.is_dir():
        raise RunError(f"there is no folder {root}", "a folder that holds runs", "train one: formers train gpt2.tiny")
    return sorted((_summary(path, now) for path in _run_folders(root)), key=lambda run: (run.age, run.name))


def _run_folders(root: Path) -> Iterator[Path]:
    for folder, below, files in os.walk(root):
        if "recipe.json" in files or "metrics.jsonl" in files:
            below.clear()  # checkpoints and the model are no runs
            yield Path(folder)
        below[:] = sorted(name for name in below if not name.startswith("."))


def _summary(path: Path, now: float | None) -> RunSummary:
    name, age = path.resolve().name, _age(path, now)
    try:
        recipe = _read_recipe(path)
        train, evaluation, event = _last_rows(path / "metrics.jsonl")
        status = _status(path, recipe, [train] if train else [], [event] if event else [], age)
    except RunError as error:
        return RunSummary(name, path, "", 0, None, None, "broken", age, error.found)
    return RunSummary(
        name=name,
        path=path,
        recipe=str(recipe.get("name", "unnamed")),
        steps=int(train["step"]) if train else 0,
        last_loss=train.get("loss") if train else None,
        bits_per_byte=evaluation.get("bits_per_byte") if evaluation else None,
        status=status,
        age=age,
    )


def _last_rows(path: Path) -> tuple[Row | None, Row | None, Row | None]:
    """The last training row, validation row and event, without parsing the rest."""
    lines = list(_lines(path))
    train = _last(path, lines, b'"train"', lambda row: row["kind"] == "train")
    return (
        train,
        _last(
            path, lines, b'"eval"', lambda row: row["kind"] == "eval" and row.get("split", "validation") == "validation"
        ),
        _last(path, lines, b'"event"', lambda row: row["kind"] == "event" and row.get("level") == "error"),
    )


def _last(path: Path, lines: Sequence[tuple[int, bytes]], word: bytes, wanted: Any) -> Row | None:
    for number, line in reversed(lines):
        if word in line:
            row = _parse(path, number, line)
            if wanted(row):
                return row
    return None


def _status(path: Path, recipe: Row, train: Sequence[Row], events: Sequence[Row], age: float) -> str:
    steps = int(train[-1]["step"]) if train else 0
    planned = _planned(recipe)
    if planned and steps >= planned:
        return "finished"
    if any(row.get("level") == "error" and int(row.get("step") or 0) >= steps for row in events):
        return "failed"
    if (path / "model").is_dir():
        return "finished"
    if age < RUNNING_WITHIN:
        return "running"
    return "stopped" if steps else "not started"


def _planned(recipe: Row) -> int | None:
    train = recipe.get("train")
    steps = train.get("steps") if isinstance(train, Mapping) else None
    return steps if isinstance(steps, int) and steps > 0 else None


def _age(path: Path, now: float | None) -> float:
    """Seconds since the run last wrote its metrics (or its recipe, before the first step)."""
    for name in ("metrics.jsonl", "recipe.json"):
        if (path / name).exists():
            written = (path / name).stat().st_mtime
            return max(0.0, (time.time() if now is None else now) - written)
    return 0.0


def _read_recipe(path: Path) -> Row:
    if not path.is_dir():
        raise RunError(f"{path} is not a folder", "a run folder", "`formers runs` lists the runs")
    recipe = _read_object(path / "recipe.json")
    if recipe is None:
        raise RunError(
            f"{path} has no recipe.json",
            "a run folder, as `formers train` writes it",
            "check the path (`formers runs` lists the runs); a run that died before its first step can be deleted",
        )
    return recipe


def _read_object(path: Path) -> Row | None:
    """One JSON object, or None where the file is absent."""
    if not path.exists():
        return None
    try:
        value = json.loads(path.read_bytes())
    except ValueError as error:
        raise RunError(f"{path} is not JSON: {error}", "one JSON object", "restore the file, or train again") from None
    if not isinstance(value, dict):
        raise RunError(f"{path} holds a JSON {type(value).__name__}", "one JSON object", "restore the file")
    return value


def _read_certificate(path: Path) -> Row | None:
    certificate = _read_object(path)
    if certificate is None:
        return None
    laws = certificate.get("laws")
    if not isinstance(laws, list) or not all(isinstance(law, dict) and "name" in law for law in laws):
        raise RunError(f"{path} has no list of laws", "a certificate", "make it anew: formers certify RUN")
    return certificate


def _read_metrics(path: Path) -> tuple[list[Row], list[str]]:
    """Every whole line as a row, and notes on what was left out."""
    if not path.exists():
        return [], ["metrics.jsonl is missing: this run has not recorded a step yet."]
    notes: list[str] = []
    rows = [_parse(path, number, line) for number, line in _lines(path, notes)]
    _refuse_repeated_steps(path, rows)
    unknown = sorted({row["kind"] for row in rows} - set(_FIELDS))
    if unknown:
        notes.append(f"metrics.jsonl has lines of a kind this version does not know: {', '.join(unknown)}.")
    return rows, notes


def _lines(path: Path, notes: list[str] | None = None) -> Iterator[tuple[int, bytes]]:
    """(line number from 1, line) of every line that holds something; a last one without its newline only if whole."""
    if not path.exists():
        return
    *whole, rest = path.read_bytes().split(b"\n")
    for number, line in enumerate(whole, 1):
        if line.strip():
            yield number, line
    if not rest:
        return
    try:
        json.loads(rest)
    except ValueError:
        if notes is not None:
            notes.append("The last line of metrics.jsonl is unfinished (the run was cut off there) and was left out.")
    else:
        yield len(whole) + 1, rest


def _parse(path: Path, number: int, line: bytes) -> Row:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise RunError(
            f"{path} line {number} is not JSON: {error}",
            "one JSON object a line; only the last line may be unfinished",
            "restore the file, or delete that line if you accept the gap",
        ) from None
    if not isinstance(row, dict) or not isinstance(row.get("kind"), str):
        raise RunError(f"{path} line {number} has no kind: {line[:80]!r}", 'an object with "kind"', "restore the file")
    problem = _problem(row)
    if problem:
        raise RunError(f"{path} line {number}: {problem}", "a row as `formers train` writes it", "restore the file")
    return row


def _problem(row: Row) -> str:
    """What is wrong with a row of a known kind; empty where nothing is."""
    kind = row["kind"]
    if kind in ("train", "eval") and not _is_whole(row.get("step")):
        return f"step is {row.get('step')!r}, not a whole number"
    wrong = [f for f in _FIELDS.get(kind, ()) if row.get(f) is not None and not _is_number(row[f])]
    if wrong:
        return f"{wrong[0]} is {row[wrong[0]]!r}, not a number"
    return (
        ""
        if kind != "eval" or _are_buckets(row.get("by_position"))
        else "by_position is no list of start, end, loss, count"
    )


def _are_buckets(buckets: object) -> bool:
    """Whether ``by_position`` is what it should be: absent, or buckets with whole bounds and counts."""
    if buckets is None:
        return True
    return isinstance(buckets, list) and all(
        isinstance(bucket, Mapping)
        and all(_is_whole(bucket.get(key)) for key in ("start", "end", "count"))
        and (bucket.get("loss") is None or _is_number(bucket["loss"]))
        for bucket in buckets
    )


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _refuse_repeated_steps(path: Path, rows: Sequence[Row]) -> None:
    last = -1
    for row in rows:
        if row["kind"] != "train":
            continue
        if row["step"] <= last:
            raise RunError(
                f"{path}: training step {row['step']} comes after step {last}",
                "steps that only go up (a resumed run cuts its metrics back to the checkpoint)",
                "two trainings wrote to one folder: train again with another --out",
            )
        last = row["step"]
