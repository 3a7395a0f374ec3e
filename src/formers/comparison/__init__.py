"""Reads run folders and tells what came out: tables, and one self-contained HTML report. Knows no model, imports no torch.

``table(runs)`` for the terminal, JSON and CSV; ``write_report(runs, out)`` for the page; ``find_runs(root)`` for the list.
"""

from __future__ import annotations

from .report import write_report
from .runs import RunRecord, RunSummary, find_runs, read_run
from .tables import Table, listing, table

__all__ = ["RunRecord", "RunSummary", "Table", "find_runs", "listing", "read_run", "table", "write_report"]
