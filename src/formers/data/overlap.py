"""How much of validation can be known from training by heart: long lines that stand in both."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

LONGER_THAN = 40  # characters: shorter lines (`return None`, `else:`) are equal by nature, not by copying


class LineOverlap:
    """Show it validation first, then training. Lines are compared without white space at their ends; of each validation
    line only a 64-bit hash is kept, of training nothing."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()
        self._seen: set[int] = set()

    def validation(self, text: str) -> None:
        """Count the long lines of a validation document."""
        self._counts.update(_long_lines(text))

    def training(self, text: str) -> None:
        """Mark the validation lines that also stand here."""
        self._seen.update(line for line in _long_lines(text) if line in self._counts)

    @property
    def lines(self) -> int:
        """Validation lines over 40 characters, repetitions counted."""
        return self._counts.total()

    @property
    def share(self) -> float | None:
        """The share of them that also stand in training; None without any."""
        return sum(self._counts[line] for line in self._seen) / self.lines if self.lines else None


def _long_lines(text: str) -> Iterator[int]:
    for line in text.split("\n"):
        stripped = line.strip()
        if len(stripped) > LONGER_THAN:
            yield hash(stripped)
