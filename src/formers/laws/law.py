"""What a law is: a claim, what it needs, and a check that finds the largest violation."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from formers.errors import TargetError, suggest

if TYPE_CHECKING:
    from formers.laws.subject import Subject
    from formers.laws.trial import Trial


@dataclass(frozen=True)
class Finding:
    """The largest violation that a check found. `applies` False: `detail` is the reason why the law says nothing."""

    violation: float | None
    tolerance: float | None
    blame: str | None = None
    detail: str = ""
    applies: bool = True

    @classmethod
    def not_applicable(cls, reason: str) -> Finding:
        return cls(None, None, None, reason, applies=False)

    @classmethod
    def mute(cls, why: str) -> Finding:
        """The law cannot speak because the model does not react at all, which is worse than any violation."""
        return cls(float("inf"), 0.0, None, why)

    @property
    def holds(self) -> bool:
        """Written so that a violation that is not a number does not hold."""
        return self.violation is not None and self.tolerance is not None and self.violation <= self.tolerance


Check = Callable[["Subject", "Trial"], Finding]
Blame = Callable[[], "str | None"]
"""Finds the module to blame; called only where a law is broken, since it runs the model again."""


@dataclass(frozen=True)
class Law:
    """One law.

    claim  what it says of every model, in a sentence
    needs  capabilities (see `Subject.lacks`) without which it says nothing
    """

    name: str
    claim: str
    needs: tuple[str, ...]
    check: Check = field(repr=False)


LAWS: dict[str, Law] = {}
"""Every law by name, in the order they are tried."""


def law(name: str, claim: str, needs: Iterable[str] = ()) -> Callable[[Check], Check]:
    """Register the decorated check as a law."""

    def register(check: Check) -> Check:
        LAWS[name] = Law(name, claim, tuple(needs), check)
        return check

    return register


def find(names: Iterable[str] | None) -> list[Law]:
    """The laws of these names (hyphens and underscores may stand for spaces); all where None."""
    if names is None:
        return list(LAWS.values())
    found = []
    for name in names:
        known = name.replace("-", " ").replace("_", " ")
        if known not in LAWS:
            raise TargetError(f"no law {name!r}", "one of " + ", ".join(LAWS), suggest(known, LAWS))
        found.append(LAWS[known])
    return found


class Worst:
    """Keeps the largest violation seen, where it was seen, and how to find who is to blame."""

    def __init__(self) -> None:
        self.violation, self.where = 0.0, ""
        self._blame: Blame | None = None

    def see(self, violation: float, where: str, blame: Blame | None = None) -> None:
        """Keep this if it is the largest so far; not-a-number is larger than every number."""
        if self.violation == self.violation and not violation <= self.violation:
            self.violation, self.where, self._blame = violation, where, blame

    def finding(self, tolerance: float, tried: str) -> Finding:
        """What was found: `tried` where the law holds, else where it is broken worst, and by whom."""
        found = Finding(self.violation, tolerance, None, tried)
        if found.holds:
            return found
        return Finding(self.violation, tolerance, self._blame() if self._blame else None, self.where)
