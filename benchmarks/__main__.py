"""`python -m benchmarks [NAME...]`: every benchmark, or those that are named, one after another, and docs/benchmarks.md from
what they wrote."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.measure import FOLDER

NAMES = (
    *("train", "generate", "memory", "memory_step", "mosaics"),
    *("references", "sparse", "longformer", "longt5", "reformer", "longest", "reversible", "plan", "text", "cli"),
)
PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"


def page() -> str:
    """The page, from the results that lie in the folder."""
    lines = [
        "# Benchmarks",
        "",
        "Ratios against peers, each measured in one run by `make bench`, which also writes this page. Each ratio is the median",
        "of alternating rounds, with the least and the most; a ratio above 1 means that formers is faster.",
    ]
    for name in NAMES:
        file = FOLDER / f"{name}.json"
        if file.exists():
            lines += ["", *section(name, json.loads(file.read_text()))]
    return "\n".join(lines) + "\n"


def section(name: str, result: dict) -> list[str]:
    """One benchmark: its summary, and the machine it belongs to."""
    about = result["environment"]
    machine = f"{about['cpu']}, {about['cores']} cores, torch {about['torch']}, transformers {about['transformers']}"
    parts = result["summary"].split("; ")
    head, _, first = parts[0].partition(": ") if ": " in parts[0] else ("", "", parts[0])
    return [
        f"## {name}",
        "",
        f"{head or name} ({machine}, {about['date']}):",
        "",
        *(f"- {p}" for p in [first, *parts[1:]]),
    ]


def main() -> None:
    asked = sys.argv[1:]
    unknown = [name for name in asked if name not in (*NAMES, "--page")]
    if unknown:
        print(f"error: no benchmark {', '.join(unknown)}\n  wanted: {', '.join(NAMES)}, or --page", file=sys.stderr)
        sys.exit(2)
    if "--page" not in asked:
        for name in asked or NAMES:
            print(f"benchmarks.{name}", file=sys.stderr)
            subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=True)
    PAGE.write_text(page())
    print(f"wrote {PAGE.name}")


if __name__ == "__main__":
    main()
