"""Ratios against peers, each measured in one run. `python -m benchmarks` runs all; `python -m benchmarks.train --json` one."""
