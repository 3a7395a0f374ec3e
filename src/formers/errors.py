"""Errors that say what was found, what was wanted, and what to do.

Every mistake a caller can make raises a :class:`FormersError`; the command line prints it once and exits with 2.
A broken promise of our own is an ``assert``.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class FormersError(ValueError):
    """One clear error: `found` and `wanted` are facts, `do` is the next step of whoever reads it."""

    def __init__(self, found: str, wanted: str = "", do: str = "") -> None:
        self.found, self.wanted, self.do = found, wanted, do
        lines = [found]
        if wanted:
            lines.append(f"wanted: {wanted}")
        if do:
            lines.append(f"do: {do}")
        super().__init__("\n  ".join(lines))


class ConfigError(FormersError):
    """A setting that is unknown, of the wrong type, out of range, or not implemented."""


class WeightsError(FormersError):
    """Tensors that are missing, left over, or of the wrong shape."""


class DataError(FormersError):
    """Text, shards or a tokenizer that cannot be used as asked."""


class StateError(FormersError):
    """A state that was superseded, or that does not fit the model or the batch."""


class RunError(FormersError):
    """A run folder or checkpoint that is half written, damaged, or of something else."""


class TargetError(FormersError):
    """A target (run, folder, name, or file.py:function) that names nothing usable."""


def suggest(name: str, known: Iterable[str]) -> str:
    """``"did you mean 'num_layers'?"``, or the empty string when nothing is near."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"did you mean {near[0]!r}?" if near else ""
