"""How much memory this process takes, and the most it has taken: what a run writes down and `formers plan` predicts.

On a CPU the resident set, of everything: the interpreter, libraries, weights, activations, text that is mapped. On a GPU what
torch has taken of it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


def watch_peak(device: str) -> None:
    """Count the largest from here on, where the system lets us: else it is the largest since the process began."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
    elif _CLEAR.exists():
        try:
            _CLEAR.write_text("5")
        except OSError:  # containers may forbid it
            return


def peak_bytes(device: str) -> int | None:
    """The most memory taken since `watch_peak`; None where the system does not say."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device)
    if device != "cpu":
        return None
    if _STATUS.exists():
        return _status("VmHWM")
    if sys.platform == "win32":
        return None
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def resident_bytes() -> int:
    """What this process takes now."""
    import psutil

    return psutil.Process().memory_info().rss


def _status(field: str) -> int | None:
    """A field of /proc/self/status, which counts kilobytes."""
    found = [line.split()[1] for line in _STATUS.read_text().splitlines() if line.startswith(field + ":")]
    return int(found[0]) * 1024 if found else None
