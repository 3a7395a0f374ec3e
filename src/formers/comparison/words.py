"""Numbers as people read them, and the report's summary in plain words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from .runs import Row, RunRecord, labels

DASH = "–"
"""Shown where a run has no such number."""


def show(value: Any, kind: str) -> str:
    """One value as text; None becomes a dash, NaN and infinity become words.

    ``kind``: text, whole (all digits), large (``3.2 million``), short (``3.2M``), number, percent or seconds.
    """
    if value is None:
        return DASH
    if kind == "text":
        return str(value)
    if not math.isfinite(value):
        return "not finite"
    return _FORMS[kind](value)


def whole(value: float) -> str:
    return f"{value:,.0f}"


def number(value: float) -> str:
    """Four significant digits, without an exponent where that is readable."""
    if value == 0:
        return "0"
    return f"{value:.4g}" if abs(value) < 1e-3 or abs(value) >= 1e6 else f"{value:,.{max(0, 3 - _exponent(value))}f}"


def large(value: float) -> str:
    """``3.2 million``; below ten thousand all digits."""
    for size, word in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if abs(value) >= size * 0.9995:
            return f"{value / size:.3g} {word}"
    return whole(value)


def short(value: float) -> str:
    """``3.2M``; below ten thousand all digits."""
    for size, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= max(size, 1e4) * 0.9995:
            return f"{value / size:.3g}{letter}"
    return whole(value)


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def duration(seconds: float) -> str:
    """``48 s``, ``3 min 20 s``, ``2 h 5 min``, ``4 d 6 h``."""
    if seconds < 10:
        return f"{seconds:.2g} s"
    total = round(seconds)
    for unit, name, small, small_name in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if total >= unit:
            rest = total % unit // small
            return f"{total // unit} {name}" + (f" {rest} {small_name}" if rest else "")
    return f"{total} s"


_FORMS = {"whole": whole, "large": large, "short": short, "number": number, "percent": percent, "seconds": duration}


def fails(certificate: Row | None) -> bool:
    """Whether a law fails: such a run's numbers are not to be believed."""
    return certificate is not None and any(law.get("status") == "fail" for law in certificate["laws"])


def certificate_words(certificate: Row | None) -> str:
    """``12 of 12 laws hold``, ``fails 2 of 12 laws``, or that there is none."""
    if certificate is None:
        return "none"
    tried = [law for law in certificate["laws"] if law.get("status") != "not applicable"]
    failed = sum(law.get("status") == "fail" for law in tried)
    return f"fails {failed} of {len(tried)} laws" if failed else f"{len(tried)} of {len(tried)} laws hold"


def summary(runs: Sequence[RunRecord], rows: Sequence[Row]) -> list[str]:
    """What the runs are and what came out, a sentence or two each; ``rows`` are the runs' rows of the table."""
    if len(runs) == 1:
        return [sentence for sentence in _one(runs[0], rows[0]) if sentence]
    return [sentence for sentence in _several(runs, rows) if sentence]


def _one(run: RunRecord, row: Row) -> list[str]:
    return [_what(run, row), _state(run), _score(row), _certified(run), _troubles([run])]


def _what(run: RunRecord, row: Row) -> str:
    architecture = run.recipe.get("architecture")
    size = f" with {large(run.parameters)} parameters" if run.parameters else ""
    model = f"a {architecture} model{size}" if architecture else f"a model{size}"
    if not run.train:
        return f"{run.name} is {model} from the recipe {run.recipe_name}. It has not made a training step yet."
    read = f" on {large(row['tokens'])} tokens of text" if row["tokens"] else ""
    took = f" in {duration(row['seconds'])}" if row["seconds"] else ""
    return f"{run.name} is {model}, trained{read}{took} ({whole(run.steps)} steps, recipe {run.recipe_name})."


def _state(run: RunRecord) -> str:
    of = f" of {whole(run.planned_steps)}" if run.planned_steps else ""
    return {
        "running": f"It was still running when this page was written, at step {whole(run.steps)}{of}.",
        "stopped": f"It stopped at step {whole(run.steps)}{of}: the numbers are those of an unfinished training.",
        "failed": f"It failed at step {whole(run.steps)}{of}; the events below say why.",
    }.get(run.status, "")


def _score(row: Row) -> str:
    bits = row["bits_per_byte"]
    if bits is None and row["validation_loss"] is not None and row["accuracy"] is not None:
        return (
            f"On validation text, which it was not trained on, it guesses {show(row['accuracy'], 'percent')} of the tokens "
            f"it is asked for right, at a loss of {number(row['validation_loss'])} nats each."
        )
    if bits is None:
        return "It has not been evaluated on validation text, so how well it predicts new text is not known."
    against = [f"{what} needs {number(row[key])}" for key, what in _BASELINES if row[key] is not None]
    compared = f" On the same text {' and '.join(against)}." if against else ""
    return (
        f"On validation text, which it was not trained on, it needs {show(bits, 'number')} bits per byte "
        f"(how many bits it takes to write down one byte of text with the model's help; lower is better).{compared}"
    )


_BASELINES = (
    ("gzip_bits_per_byte", "gzip -9, a general compressor,"),
    ("unigram_bits_per_byte", "counting how often each token occurs"),
)


def _certified(run: RunRecord) -> str:
    if run.certificate is None:
        return ""
    failed = [str(law["name"]) for law in run.certificate["laws"] if law.get("status") == "fail"]
    if failed:
        return f"Its certificate fails: {', '.join(failed)}. Do not trust its numbers before that is mended."
    return f"The checks that its code is right pass: {certificate_words(run.certificate)}."


def _troubles(runs: Sequence[RunRecord]) -> str:
    levels = [event.get("level") for run in runs for event in run.events]
    counts = [(levels.count("error"), "error"), (levels.count("warning"), "warning")]
    found = [f"{count} {word}{'s' if count > 1 else ''}" for count, word in counts if count]
    who = "The training" if len(runs) == 1 else "The trainings"
    return f"{who} reported {' and '.join(found)}; see Events." if found else ""


def _several(runs: Sequence[RunRecord], rows: Sequence[Row]) -> list[str]:
    return [
        f"{len(runs)} trainings side by side: {_span(rows, 'parameters')} parameters, {_span(rows, 'tokens')} tokens read.",
        _unfinished(runs),
        _ranking(runs, rows),
        _different_data(runs),
        _failing(runs),
        _troubles(runs),
    ]


def _span(rows: Sequence[Row], key: str) -> str:
    values = sorted(row[key] for row in rows if row[key] is not None)
    if not values:
        return "an unknown number of"
    low, high = large(values[0]), large(values[-1])
    return low if low == high else f"{low} to {high}"


def _unfinished(runs: Sequence[RunRecord]) -> str:
    names = [f"{name} ({run.status})" for name, run in zip(labels(runs), runs, strict=True) if run.status != "finished"]
    return f"Not finished, so compare with care: {_some(names)}." if names else ""


def _ranking(runs: Sequence[RunRecord], rows: Sequence[Row]) -> str:
    trusted = [
        (row["bits_per_byte"], name)
        for name, run, row in zip(labels(runs), runs, rows, strict=True)
        if not fails(run.certificate)
    ]
    ranked = sorted(pair for pair in trusted if pair[0] is not None and math.isfinite(pair[0]))
    if len(ranked) < 2:
        return "Fewer than two of them have a score on validation text to be trusted, so they cannot be ranked."
    (best, first), (second, next_one), (worst, last) = ranked[0], ranked[1], ranked[-1]
    end = f"; the highest is {last} with {number(worst)}" if len(ranked) > 2 else ""
    return (
        f"On validation text {first} needs the fewest bits per byte, {number(best)} (lower is better), "
        f"then {next_one} with {number(second)}{end}. "
        "Each is one training: a small difference can be chance, and only several seeds can tell."
    )


def _different_data(runs: Sequence[RunRecord]) -> str:
    settings = [run.recipe.get("data") for run in runs]
    known = [data for data in settings if isinstance(data, dict)]
    keys = sorted({key for data in known for key in data if any(data.get(key) != other.get(key) for other in known)})
    if not keys:
        return ""
    return f"Their data settings differ ({_some(keys)}): look at Settings before you rank them."


def _failing(runs: Sequence[RunRecord]) -> str:
    names = [name for name, run in zip(labels(runs), runs, strict=True) if fails(run.certificate)]
    return f"Left out of the ranking, because its certificate fails: {_some(names)}." if names else ""


def _some(names: Sequence[str], most: int = 6) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _exponent(value: float) -> int:
    return math.floor(math.log10(abs(value)))
