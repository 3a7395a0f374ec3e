"""What every benchmark shares: alternating rounds, ratios with their spread, peak memory of fresh processes, the record."""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "results"


def alternate(contestants: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Call every contestant once a round, in turn, so that a slow moment of the machine falls on all. Returns figures."""
    figures: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(rounds):
        for name, run in contestants.items():
            gc.collect()
            figures[name].append(run())
            print(f"  round {number + 1}/{rounds}  {name}: {figures[name][-1]:,.1f}", file=sys.stderr, flush=True)
    return figures


def ratios(ours: list[float], theirs: list[float]) -> dict[str, float]:
    """Median, least and most of ours / theirs, round by round."""
    each = [a / b for a, b in zip(ours, theirs, strict=True)]
    return {"median": statistics.median(each), "least": min(each), "most": max(each)}


def span(ratio: Mapping[str, float], unit: str = "") -> str:
    """What `ratios` gave, in words: 1.20x (1.05-1.31)."""
    return f"{ratio['median']:.2f}{unit} ({ratio['least']:.2f}-{ratio['most']:.2f})"


def seconds(run: Callable[[], Any]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def resident() -> int:
    """Resident set of this process now, in bytes; the largest is counted from here (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def peak_resident() -> int:
    """Largest resident set since `resident` was asked. (getrusage's figure begins with that of the parent process.)"""
    return _status("VmHWM")


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))


class Worker:
    """`python -m module arguments` in a process of its own: it does one round for every line that it is sent, and answers
    with a JSON object. Its memory and its settings are its own, as they are where a model is trained."""

    def __init__(self, module: str, *arguments: str) -> None:
        command = [sys.executable, "-W", "ignore", "-m", module, *arguments]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def round(self) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print("go", file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"{' '.join(self.process.args)} ended with {self.process.wait()}")  # type: ignore[arg-type]
        return json.loads(answer)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


def serve(answer: Callable[[], dict[str, Any]]) -> None:
    """The other side of a Worker."""
    for _ in sys.stdin:
        print(json.dumps(answer()), flush=True)


def with_memory(run: Callable[[], Any]) -> dict[str, float]:
    """Seconds of a run, and the bytes that were resident at most during it beyond those before it."""
    before, took = resident(), seconds(run)
    return {"seconds": took, "bytes": peak_resident() - before}


def contest(module: str, contestants: Mapping[str, Sequence[str]], rounds: int) -> dict[str, Any]:
    """Workers of a module that answer `with_memory`, in turns: seconds of each, round by round after a warm one, and
    megabytes of all rounds.

    contestants  the arguments of each
    """
    workers = {name: Worker(module, *arguments) for name, arguments in contestants.items()}
    megabytes: dict[str, list[float]] = {name: [] for name in workers}

    def one(name: str) -> float:
        answer = workers[name].round()
        megabytes[name].append(answer["bytes"] / 1e6)
        return answer["seconds"]

    runs = {name: lambda name=name: one(name) for name in workers}
    alternate(runs, 1)  # warm
    found = {"seconds": alternate(runs, rounds), "megabytes": megabytes}
    for worker in workers.values():
        worker.close()
    return found


def compared(found: Mapping[str, Any], ours: str, theirs: str) -> str:
    """Of a contest: how many times as fast one is as the other, and the memory of both."""
    memory = found["megabytes"]
    ratio = span(ratios(found["seconds"][theirs], found["seconds"][ours]))
    return f"{ratio}, {max(memory[ours]):,.0f} MB against {max(memory[theirs]):,.0f}"


def environment() -> dict[str, Any]:
    """The machine and the versions a figure belongs to."""
    import torch
    import transformers

    import formers

    return {
        "date": time.strftime("%Y-%m-%d"),
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_before": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "formers": formers.__version__,
    }


def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


def finish(name: str, result: dict[str, Any], summary: str, as_json: bool) -> None:
    """Write benchmarks/results/NAME.json; print the result, and a summary as the last line."""
    FOLDER.mkdir(exist_ok=True)
    aside = FOLDER / f".{name}.json"
    aside.write_text(json.dumps({**result, "summary": summary}, indent=1) + "\n")
    aside.replace(FOLDER / f"{name}.json")
    if as_json:
        print(json.dumps(result, indent=1))
    print(summary)


def parser(description: str) -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(description=description)
    arguments.add_argument("--json", action="store_true", help="print the whole result as JSON before the summary")
    arguments.add_argument("--rounds", type=int, default=5, help="alternating rounds (5)")
    return arguments


def contest_options(description: str, *, layers_of: str) -> argparse.Namespace:
    """Options of a benchmark whose contestants are processes of their own; torch's threads are set. `serve` names the
    contestant that this process is to be: whose, what, length."""
    import torch

    arguments = parser(description)
    arguments.add_argument("--layers", type=int, default=2, help=f"of each {layers_of} (2)")
    arguments.add_argument("--threads", type=int, default=0, help="torch's own choice where none is given")
    arguments.add_argument("--serve", nargs=3, help="be one contestant: whose, what, length")
    options = arguments.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    return options


def contest_settings(options: argparse.Namespace) -> list[str]:
    """What of `contest_options` a contestant is told."""
    return ["--layers", str(options.layers), "--threads", str(options.threads)]
