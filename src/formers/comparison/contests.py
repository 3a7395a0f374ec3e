"""What a comparison left behind (compare.json), read again: its table, in the terminal, as CSV and in the report."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from formers.errors import RunError

from .tables import Column, Table

RESULT, SCORES = "compare.json", "scores.jsonl"

COLUMNS = (
    Column("name", "Entrant", "text", "a recipe, trained from several seeds", essential=True),
    Column("bits_per_byte", "Bits/byte", "number", "mean over seeds, on the documents that all read", "low", True),
    Column("behind", "Behind the first", "text", "bits per byte more than the first, with its 95% interval", "", True),
    Column("told", "Told apart", "text", "whether chance alone would seldom give such a difference", "", True),
    Column("accuracy", "Right", "percent", "share of the task's questions that are answered right", "high", True),
    Column("chance", "Chance", "percent", "what a guess gets that knows the task and has not read"),
    Column("top1", "Top-1", "percent", "share of tokens that were the likeliest", "high", True),
    Column("top5", "Top-5", "percent", "share of tokens among the five likeliest", "high", True),
    Column("parameters", "Parameters", "short", "numbers in the model", "", True),
    Column(
        "operations_per_token", "FLOPs/token", "short", "floating-point operations of a training token", "low", True
    ),
    Column("tokens", "Tokens", "short", "read in each training"),
    Column("seconds", "Time", "seconds", "of a training, evaluations included", "low", True),
    Column("tokens_per_second", "Tokens/s", "whole", "in training, median over steps", "high", True),
    Column(
        "peak_megabytes",
        "Peak MB",
        "number",
        "memory of a training step, the model and its optimizer included",
        "low",
        True,
    ),
    Column(
        "loss_at_tokens", "Loss at equal tokens", "number", "training loss, nats a token, after as many tokens", "low"
    ),
    Column("loss_at_seconds", "Loss at equal time", "number", "training loss after as many seconds", "low"),
    Column("loss_at_operations", "Loss at equal FLOPs", "number", "training loss after as many operations", "low"),
    Column("seeds", "Seeds", "text", "of its trainings"),
    Column("tokenizer", "Tokenizer", "text", "what cuts the text into tokens"),
    Column("reading", "Read in", "text", "how it read the documents"),
)


def is_contest(folder: Path | str) -> bool:
    """Whether a comparison wrote this folder."""
    return (Path(folder) / RESULT).is_file()


def read_contest(folder: Path | str) -> dict[str, Any]:
    """compare.json. Raises RunError where it is not what a comparison writes."""
    path = Path(folder) / RESULT
    try:
        result = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read ({error})", "what formers compare writes", "run it again") from None
    if not isinstance(result, dict) or not {"verdict", "ranking", "entrants", "pairs"} <= result.keys():
        raise RunError(f"{path} holds no comparison", "what formers compare writes", "run it again")
    return result


def runs_of(folder: Path | str, result: Mapping[str, Any]) -> list[tuple[str, Path]]:
    """(entrant, run folder) of every training, the best entrant first."""
    return [(name, Path(folder) / run) for name in result["ranking"] for run in result["entrants"][name]["runs"]]


def contest_table(result: Mapping[str, Any]) -> Table:
    """A row for each entrant, the best first."""
    return Table(COLUMNS, tuple(_row(name, result["entrants"][name]) for name in result["ranking"]))


def _row(name: str, entrant: Mapping[str, Any]) -> dict[str, Any]:
    plain = {column.key: entrant.get(column.key) for column in COLUMNS}
    behind, level = entrant.get("behind_best"), entrant.get("at_equal") or {}
    told = entrant.get("told_from_best")
    return {
        **plain,
        "name": name,
        "behind": None if behind is None else f"{behind['mean']:+.4f} ({behind['low']:+.4f} to {behind['high']:+.4f})",
        "told": None if told is None else "yes" if told else "cannot tell",
        "peak_megabytes": None if entrant.get("peak_bytes") is None else entrant["peak_bytes"] / 1e6,
        "loss_at_tokens": level.get("tokens"),
        "loss_at_seconds": level.get("seconds"),
        "loss_at_operations": level.get("operations"),
        "seeds": ", ".join(map(str, entrant.get("seeds", ()))),
    }


def positions(result: Mapping[str, Any], entrant: str) -> dict[str, list[Any]]:
    """Loss by place of the documents that all read: start, end, loss, count, as the charts take it."""
    rows = result["entrants"][entrant].get("by_position") or []
    starts = [row["start"] for row in rows]
    ends = [*starts[1:], 2 * starts[-1] or 16] if starts else []
    losses = [row["loss"] if math.isfinite(row["loss"]) else None for row in rows]
    return {"start": starts, "end": ends, "loss": losses, "count": [row["count"] for row in rows]}
