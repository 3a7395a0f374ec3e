"""From which length on is an efficient attention worth it, here? Time and peak memory of every mechanism against length.

Each point is measured by a process of its own (measuring.py) and stands in the results' file as soon as it is known, so that
the same command goes on where it stopped. Lengths come first, mechanisms within them: what was measured when the time is up
is a whole map of shorter texts. A point whose time, guessed from the two before, is too long is left out, with the reason.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from formers.config import require, to_dict
from formers.errors import RunError, suggest
from formers.experiments.mechanisms import FULL, MECHANISMS
from formers.files import write_json
from formers.training.records import environment

MODES = {"forward": "forward", "training": "forward and backward"}
MEASURES = {"seconds": "time", "peak_bytes": "peak memory"}
QUADRUPLED = 4.0
"""Where only one shorter text was measured, twice the length is taken to cost so many times as much."""


@dataclass(frozen=True)
class CrossoverSettings:
    """What is measured.

    lengths     tokens, each mechanism's layer reads one row of them        d_model, num_heads  of the layer
    mechanisms  names of `MECHANISMS`; full attention is always among them
    training    measure forward and backward too
    seconds     spent on repeating one measurement     longest  seconds that one run may be expected to take
    """

    lengths: tuple[int, ...] = (256, 512, 1024, 2048, 4096, 8192, 16_384, 32_768)
    mechanisms: tuple[str, ...] = tuple(MECHANISMS)
    d_model: int = 256
    num_heads: int = 4
    training: bool = True
    seconds: float = 2.0
    longest: float = 60.0

    def __post_init__(self) -> None:
        problems = [f"length {n} is less than 2" for n in self.lengths if n < 2]
        problems += ["there are no lengths"] * (not self.lengths)
        for name in self.mechanisms:
            if name not in MECHANISMS:
                hint = suggest(name, MECHANISMS)
                problems.append(
                    f"no mechanism {name!r}" + (f" ({hint})" if hint else "") + f": {', '.join(MECHANISMS)}"
                )
        if self.num_heads < 1 or self.d_model < 1 or self.d_model % self.num_heads:
            problems.append(f"d_model {self.d_model} is not a multiple of num_heads {self.num_heads}")
        require("CrossoverSettings", problems)

    @property
    def names(self) -> tuple[str, ...]:
        """The mechanisms, full attention first."""
        return (FULL, *(name for name in self.mechanisms if name != FULL))

    @property
    def fixed(self) -> dict[str, Any]:
        """What points of one file have in common."""
        return {"d_model": self.d_model, "num_heads": self.num_heads, "threads": torch.get_num_threads()}


Point = dict[str, Any]
"""{"mechanism", "length", "forward": figures, "training": figures | None}, or with "left_out": the reason instead."""


def run(
    out: Path,
    settings: CrossoverSettings,
    *,
    budget: float | None = None,
    say: Callable[[str], None] = lambda text: None,
    measure: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Measure what `out` does not hold yet, for at most `budget` seconds, and give the whole result, which is in
    out/crossover.json as well. Raises RunError where the file is of other settings."""
    points, ends = _stored(out, settings), math.inf if budget is None else time.monotonic() + budget
    known = {(p["mechanism"], p["length"]) for p in points if settings.training <= ("training" in p)}
    missing = [(name, n) for n in sorted(settings.lengths) for name in settings.names if (name, n) not in known]
    for number, (name, length) in enumerate(missing, 1):
        if time.monotonic() >= ends:
            say(f"the time is up: {len(missing) - number + 1} of {len(missing)} points are left for the same command")
            break
        point = {"mechanism": name, "length": length, **_point(name, length, settings, points, measure or in_a_process)}
        points = [p for p in points if (p["mechanism"], p["length"]) != (name, length)] + [point]
        write_json(out / "crossover.json", result_of(points, settings))
        say(f"{number}/{len(missing)}  {describe(point)}")
    result = result_of(points, settings)
    write_json(out / "crossover.json", result)
    return result


def _stored(out: Path, settings: CrossoverSettings) -> list[Point]:
    file = out / "crossover.json"
    if not file.exists():
        return []
    try:
        before = json.loads(file.read_text())
        fixed, points = before["fixed"], before["points"]
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"{file} is no result of crossover", do="move it away, or choose another --out") from error
    if fixed != settings.fixed:
        raise RunError(f"{file} was measured with {fixed}", f"{settings.fixed}", "choose another --out")
    return [p for p in points if "left_out" not in p]


def _point(
    name: str,
    length: int,
    settings: CrossoverSettings,
    points: Sequence[Point],
    measure: Callable[[dict[str, Any]], dict[str, Any]],
) -> dict[str, Any]:
    guess = expected(points, name, length, "training" if settings.training else "forward")
    if guess.get("seconds", 0) > settings.longest:
        return {"left_out": f"it would take about {guess['seconds']:.0f} s"}
    free = psutil.virtual_memory().available
    if guess.get("peak_bytes", 0) > 0.9 * free:
        return {"left_out": f"it would take about {guess['peak_bytes'] / 1e9:.1f} GB, and {free / 1e9:.1f} are free"}
    asked = {"mechanism": name, "length": length, "d_model": settings.d_model, "num_heads": settings.num_heads}
    try:
        return measure(asked | {"training": settings.training, "seconds": settings.seconds})
    except RunError as error:
        return {"left_out": error.found}


def expected(points: Sequence[Point], name: str, length: int, mode: str) -> dict[str, float]:
    """Time and memory to expect of a mechanism, from the two longest texts that are shorter; nothing where there is none."""
    shorter = sorted((p for p in measured(points, name, mode) if p[0] < length), key=lambda p: p[0])[-2:]
    found = {}
    for measure in MEASURES:
        seen = [(n, figures[measure]) for n, figures in shorter if figures[measure]]
        if not seen:
            continue
        steepness = slope(*zip(*seen, strict=True)) if len(seen) > 1 else None
        times = (
            QUADRUPLED ** math.log2(length / seen[-1][0]) if steepness is None else (length / seen[-1][0]) ** steepness
        )
        found[measure] = seen[-1][1] * max(times, length / seen[-1][0])
    return found


def measured(points: Sequence[Point], name: str, mode: str) -> list[tuple[int, Mapping[str, Any]]]:
    """(length, figures) of a mechanism in a mode, by length."""
    return sorted(
        ((p["length"], p[mode]) for p in points if p["mechanism"] == name and p.get(mode)), key=lambda pair: pair[0]
    )


def in_a_process(asked: dict[str, Any]) -> dict[str, Any]:
    """A point, measured by a fresh interpreter. Raises RunError where that ends badly: for want of memory, mostly."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "formers.experiments.measuring"],
        input=json.dumps(asked), capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise RunError(f"the process ended with {done.returncode}: {last}")
    return json.loads(done.stdout.splitlines()[-1])


# --- what came out ----------------------------------------------------------------------------------------------------


def result_of(points: Sequence[Point], settings: CrossoverSettings) -> dict[str, Any]:
    """Points, slopes, and from which length on each mechanism beats full attention."""
    names = [name for name in settings.names if any(p["mechanism"] == name for p in points)]
    order = {name: place for place, name in enumerate(MECHANISMS)}
    return {
        "fixed": settings.fixed,
        "environment": environment({"threads": torch.get_num_threads(), "device": "cpu", "precision": "float32"}),
        "settings": to_dict(settings),
        "about": {name: MECHANISMS[name].about for name in names},
        "points": sorted(points, key=lambda p: (p["length"], order.get(p["mechanism"], 99))),
        "mechanisms": {name: {mode: dict(_judged(points, name, mode)) for mode in MODES} for name in names},
    }


def _judged(points: Sequence[Point], name: str, mode: str) -> Iterator[tuple[str, Any]]:
    ours, full = measured(points, name, mode), measured(points, FULL, mode)
    for measure in MEASURES:
        line, other = (curve(each, measure) for each in (ours, full))
        yield f"{measure}_slope", slope(*upper_half(line)) if len(line) > 1 else None
        yield f"{measure}_beats_full_from", None if name == FULL else crossing(line, other)


Curve = dict[int, float]


def curve(pairs: Sequence[tuple[int, Mapping[str, Any]]], measure: str) -> Curve:
    return {length: figures[measure] for length, figures in pairs if figures.get(measure)}


def upper_half(line: Curve) -> tuple[list[int], list[float]]:
    """The longer half of the points, two at least: where the fixed costs of a call weigh least."""
    lengths = sorted(line)[-max(2, -(-len(line) // 2)) :]
    return lengths, [line[n] for n in lengths]


def full_operations(length: int, d_model: int) -> int:
    """Of a forward of full attention, its products with weights aside: scores and weighted sums, two operations for each number
    of each pair of tokens. Pairs that a causal mask hides are counted too."""
    return 2 * 2 * length * length * d_model


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Of the straight line that fits log y against log x best."""
    a, b = [math.log(v) for v in x], [math.log(v) for v in y]
    mean_a, mean_b = sum(a) / len(a), sum(b) / len(b)
    return sum((u - mean_a) * (v - mean_b) for u, v in zip(a, b, strict=True)) / sum((u - mean_a) ** 2 for u in a)


def crossing(line: Curve, full: Curve) -> int | None:
    """The least length from which `line` stays below `full`, between measured ones along straight lines of logarithms.

    None where it is not below at the longest length that both have, or where they share none.
    """
    both = sorted(line.keys() & full.keys())
    gap = {n: math.log(line[n] / full[n]) for n in both}
    below = [n for n in both if all(gap[m] < 0 for m in both if m >= n)]
    if not below:
        return None
    first, place = below[0], both.index(below[0])
    if place == 0:
        return first
    before = both[place - 1]
    share = gap[before] / (gap[before] - gap[first])
    return round(math.exp(math.log(before) + share * math.log(first / before)))


def describe(point: Point) -> str:
    """A point in a line."""
    head = f"{point['mechanism']}, {point['length']:,} tokens: "
    if "left_out" in point:
        return head + f"left out, {point['left_out']}"
    parts = []
    for mode, words in MODES.items():
        if point.get(mode):
            peak = point[mode]["peak_bytes"]
            memory = "" if peak is None else f", {peak / 1e6:,.0f} MB"
            parts.append(f"{words} {1000 * point[mode]['seconds']:,.1f} ms{memory}")
    return head + "; ".join(parts)
