"""Curves small enough to embed: long series are put into bins, and the page says how.

A bin covers consecutive rows. What it shows: the mean of the loss, of the throughput and of the gradient norm, the
smallest and largest loss and gradient norm beside it, and the last row's step, tokens, seconds and learning rate.
Half of the bins are spaced evenly in rows and half evenly in the logarithm, so that the first steps survive on a log
axis.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .budget import Budget
from .equal import operations_per_token
from .runs import Row, RunRecord

MOST_BUCKETS = 48
MOST_SPLITS = 4


def curves(run: RunRecord, budget: Budget) -> dict[str, Any]:
    """Everything the charts draw of one run, as plain lists, with numbers rounded to five digits."""
    return {
        "train": train_curves(run.train, budget.points),
        "evals": eval_curves(run.evals, budget.evaluations),
        "position": by_position(run),
        "baselines": _baselines(run),
        "operations": operations_per_token(run),
    }


def train_curves(rows: Sequence[Row], points: int) -> dict[str, Any]:
    """Columns of the training rows, at most ``points`` long. ``count`` (rows a bin) is there where rows were binned."""
    bins = [rows[start:end] for start, end in bins_of(len(rows), points)]
    binned = len(bins) < len(rows)
    out: dict[str, Any] = {"step": [b[-1]["step"] for b in bins]}
    out["tokens"] = _tokens([b[-1] for b in bins])
    out["seconds"] = [_last(b, "seconds") for b in bins]
    out["lr"] = [_last(b, "lr") for b in bins]
    for key in ("loss", "grad_norm", "tokens_per_second"):
        out[key] = [_over(b, key, _mean) for b in bins]
    if binned:
        out["count"] = [len(b) for b in bins]
        for key in ("loss", "grad_norm"):
            out[f"{key}_min"] = [_over(b, key, min) for b in bins]
            out[f"{key}_max"] = [_over(b, key, max) for b in bins]
    return {
        key: values for key, values in out.items() if not isinstance(values, list) or any(v is not None for v in values)
    }


def bins_of(num_rows: int, points: int) -> list[tuple[int, int]]:
    """(start, end) of each bin: whole rows in order, none left out; one row a bin where they fit."""
    if num_rows <= points:
        return [(i, i + 1) for i in range(num_rows)]
    half, rest = points // 2, points - points // 2
    even = {round(num_rows * i / half) for i in range(1, half + 1)}
    logarithmic = {round(num_rows ** (i / rest)) for i in range(1, rest + 1)}
    ends = sorted(even | logarithmic)
    return list(zip([0, *ends[:-1]], ends, strict=True))


def eval_curves(rows: Sequence[Row], points: int) -> dict[str, dict[str, Any]]:
    """Columns of the evaluations, by split, ``points`` in all; see :func:`thinned`."""
    splits: dict[str, list[Row]] = {}
    for row in rows:
        splits.setdefault(str(row.get("split", "validation"))[:40], []).append(row)
    kept = list(splits)[:MOST_SPLITS]
    return {split: _eval_columns(thinned(splits[split], points // len(kept))) for split in kept}


def thinned(rows: Sequence[Row], points: int) -> list[Row]:
    """At most about ``points`` rows, evenly chosen, with the first, the last and the one of lowest loss."""
    if len(rows) <= points:
        return list(rows)
    keep = {round(i * (len(rows) - 1) / (points - 1)) for i in range(points)}
    best = min(range(len(rows)), key=lambda i: _finite(rows[i].get("loss"), math.inf))
    return [rows[i] for i in sorted(keep | {best})]


def _eval_columns(rows: Sequence[Row]) -> dict[str, Any]:
    out: dict[str, Any] = {
        key: [_rounded(row.get(key)) for row in rows] for key in ("step", "seconds", "loss", "bits_per_byte")
    }
    out["tokens"] = _tokens(rows)
    return out


def by_position(run: RunRecord) -> dict[str, Any] | None:
    """The last validation's loss by position in the document; neighbouring buckets are joined where there are too many."""
    for row in reversed(run.validation):
        buckets = row.get("by_position")
        if isinstance(buckets, list) and buckets:
            joined = _joined(sorted(buckets, key=lambda b: b["start"]))
            return {
                "step": row["step"],
                **{key: [_rounded(b[key]) for b in joined] for key in ("start", "end", "loss", "count")},
            }
    return None


def _joined(buckets: Sequence[Row]) -> list[Row]:
    size = -(-len(buckets) // MOST_BUCKETS)
    return [_join(buckets[i : i + size]) for i in range(0, len(buckets), size)] if size > 1 else list(buckets)


def _join(group: Sequence[Row]) -> Row:
    count = sum(b["count"] for b in group)
    scored = [b for b in group if b["count"] and b["loss"] is not None]
    loss = sum(b["loss"] * b["count"] for b in scored) / count if count else None
    return {"start": group[0]["start"], "end": group[-1]["end"], "loss": loss, "count": count}


def _baselines(run: RunRecord) -> dict[str, float]:
    for row in reversed(run.evals):
        found = row.get("baselines")
        if isinstance(found, Mapping):
            names = {"gzip": "gzip_bits_per_byte", "unigram": "unigram_bits_per_byte"}
            return {name: _rounded(found[key]) for name, key in names.items() if found.get(key) is not None}
    return {}


def _tokens(rows: Sequence[Row]) -> Any:
    """Tokens of each row, or, where they are the step times one number, that number alone."""
    pairs = [(row["step"], row.get("tokens")) for row in rows]
    first = next(((step, tokens) for step, tokens in pairs if step and tokens), None)
    if first and first[1] % first[0] == 0 and all(tokens == step * (first[1] // first[0]) for step, tokens in pairs):
        return first[1] // first[0]
    return [_rounded(tokens, 12) for _, tokens in pairs]


def _last(rows: Sequence[Row], key: str) -> float | None:
    return _rounded(rows[-1].get(key))


def _over(rows: Sequence[Row], key: str, what: Callable[[list[float]], float]) -> float | None:
    """``what`` over a bin; None, a gap, where nothing was recorded or one value was null (as NaN is written) or not finite."""
    values = [row[key] for row in rows if key in row]
    whole = values and all(value is not None and math.isfinite(value) for value in values)
    return _rounded(what(values)) if whole else None


def _mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)


def _finite(value: Any, otherwise: float) -> float:
    return value if isinstance(value, (int, float)) and math.isfinite(value) else otherwise


def _rounded(value: Any, digits: int = 5) -> Any:
    """A number as JSON can hold it: whole numbers whole, others rounded, NaN and infinity as None."""
    if value is None or isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    short = float(f"{value:.{digits}g}") if isinstance(value, float) else value
    return int(short) if isinstance(short, float) and short == int(short) else short
