"""How much of each run a page may hold, so that it stays within 500 kB plus 20 kB a run."""

from __future__ import annotations

from dataclasses import dataclass

BASE, PER_RUN = 500_000, 20_000
"""Bytes: the size limit of a report is BASE + PER_RUN times the number of runs."""

_FRAME = 150_000
"""Bytes kept back for the chart script, the style, and the page itself."""
_BESIDE_CURVES = 12_500
"""Bytes a run may take outside its training curves: evaluations, samples, certificate, settings, events."""
_A_POINT = 85
"""Bytes of one point of a training curve, all its columns, at worst."""


@dataclass(frozen=True)
class Budget:
    """Bounds for one run: points of a curve, bytes and number of samples, events, bytes of one setting."""

    points: int
    sample_bytes: int
    samples: int
    events: int
    setting_bytes: int

    @property
    def evaluations(self) -> int:
        return max(30, self.points // 6)


def fair(num_runs: int, squeeze: float = 1.0) -> Budget:
    """What each of ``num_runs`` may take; ``squeeze`` below 1 tightens it for runs that carry unusually much text."""
    curves = PER_RUN + (BASE - _FRAME) / num_runs - _BESIDE_CURVES
    return Budget(
        points=max(60, min(1500, int(squeeze * curves / _A_POINT))),
        sample_bytes=int(squeeze * (3_000 + 30_000 / num_runs)),
        samples=6 if num_runs == 1 else 3,
        events=int(squeeze * (8 + 60 / num_runs)),
        setting_bytes=int(squeeze * 200),
    )


def limit(num_runs: int) -> int:
    """The size limit in bytes."""
    return BASE + PER_RUN * num_runs
