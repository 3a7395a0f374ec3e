"""What a comparison may spend: so many tokens, bytes, operations, minutes or steps for each, and models of one size.

tokens=4M          tokens that each reads in training
bytes=12MB         bytes of text: fair to different tokenizers
flops=1e14         operations of training, so that cheap models read more
minutes=10         of the clock, so that fast models read more (time=10m means the same)
steps=300          updates
parameters=2.6M    the size that every model is brought to; without it that of the first
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from formers.errors import ConfigError, suggest

AMOUNTS = ("tokens", "bytes", "flops", "minutes", "steps")
ALIASES = {"time": "minutes", "params": "parameters", "operations": "flops"}
UNITS = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "b": 1e9, "t": 1e12, "p": 1e15, "e": 1e18}
TIMES = {"s": 1 / 60, "": 1.0, "m": 1.0, "min": 1.0, "h": 60.0}

WANTED = "--budget NAME=AMOUNT, NAME one of " + ", ".join((*AMOUNTS, "parameters"))


@dataclass(frozen=True)
class Budget:
    """`amount` of `kind` (one of AMOUNTS) for each training; `parameters` of each model, None: those of the first."""

    kind: str
    amount: float
    parameters: int | None = None

    def __str__(self) -> str:
        return f"{self.amount:,.4g} {self.kind}"


def parse(words: Sequence[str]) -> Budget:
    """A budget from ``NAME=AMOUNT`` words. Raises ConfigError for what is unknown, missing or given twice."""
    found: dict[str, float] = {}
    for word in words:
        name, _, text = word.partition("=")
        name = ALIASES.get(name.strip().lower(), name.strip().lower())
        if name not in (*AMOUNTS, "parameters"):
            raise ConfigError(f"budget {word!r}", WANTED, suggest(name, (*AMOUNTS, *ALIASES, "parameters")))
        if name in found:
            raise ConfigError(f"the budget names {name} twice", "each once")
        found[name] = amount_of(name, text)
    parameters = found.pop("parameters", None)
    if len(found) != 1:
        said = " and ".join(found) or "no amount of training"
        raise ConfigError(f"the budget names {said}", f"one of {', '.join(AMOUNTS)}", "for example --budget tokens=4M")
    kind, amount = next(iter(found.items()))
    return Budget(kind, amount, None if parameters is None else int(parameters))


def amount_of(name: str, text: str) -> float:
    """A number above 0 with or without a unit: 4M, 12MB, 10m. Raises ConfigError that names what it was to be of."""
    match = re.fullmatch(r"\s*([0-9][0-9_,]*\.?[0-9]*(?:e[+-]?[0-9]+)?)\s*([a-z]*)\s*", text.lower())
    unit = match[2] if match else ""
    units = TIMES if name == "minutes" else UNITS
    if name == "bytes":
        unit = unit.removesuffix("b")
    value = float(re.sub("[_,]", "", match[1])) * units[unit] if match and unit in units else 0.0
    if not (1 if name == "parameters" else 0) <= value < math.inf or value == 0:
        example = "10m" if name == "minutes" else "2.5M"
        raise ConfigError(f"budget {name}={text!r}", "a number above 0, with or without a unit", f"{name}={example}")
    return value


SAID_ELSEWHERE = {"steps": "--budget steps=N", "minutes": "--budget minutes=N", "seed": "--seed N"}
"""Settings of a loop that a comparison or a search gives itself."""


def said_elsewhere(names: Iterable[str]) -> list[str]:
    """A problem for each setting that would be without effect, because the budget or the seed says it."""
    return [f"{name} is set, wanted {SAID_ELSEWHERE[name]} in its place" for name in names if name in SAID_ELSEWHERE]


def steps_of(budget: Budget, label: str, *, step_tokens: int, bytes_per_token: float, operations: float) -> int | None:
    """Updates that the budget pays for; None where the clock decides.

    step_tokens  of an update        operations  of a training token

    Raises ConfigError where it does not pay for one.
    """
    if budget.kind == "minutes":
        return None
    cost = {
        "steps": 1.0,
        "tokens": step_tokens,
        "bytes": step_tokens * bytes_per_token,
        "flops": step_tokens * operations,
    }[budget.kind]
    steps = int(budget.amount / cost * (1 + 1e-12))
    if steps < 1:
        raise ConfigError(
            f"a budget of {budget} does not pay for one step of {label}, which takes {cost:,.4g} {budget.kind}",
            f"at least one step and its evaluation: {budget.kind}={cost:.4g}",
            "give more, or make --batch-size or --seq-len smaller",
        )
    return steps
