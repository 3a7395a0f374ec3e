"""How long the command line takes to answer: help, the list of models, and errors that need no model."""

from __future__ import annotations

import statistics
import subprocess
import sys

from benchmarks.measure import environment, finish, parser, seconds

COMMANDS = {
    "--help": 0.5,
    "models": 0.5,
    "trian": 0.5,
    "train gpt2.tniy": 0.5,
    "train gpt2.tiny --train.stepz 3": 0.5,
    "generate no-such-run x": 0.5,
    "data build no-such-file.txt": 0.5,
    "train gpt2.tiny --help": 3.0,
}
"""Each with the seconds that it may take."""


def main() -> None:
    options = parser(__doc__ or "").parse_args()

    def once(command: str) -> float:
        call = [sys.executable, "-m", "formers", *command.split()]
        return seconds(lambda: subprocess.run(call, capture_output=True, check=False))

    times = {command: [once(command) for _ in range(options.rounds)] for command in COMMANDS}
    worst = {command: statistics.median(each) for command, each in times.items()}
    result = {"environment": environment(), "seconds": times, "wanted": COMMANDS}
    parts = [f"formers {command}: {worst[command]:.2f} s (wanted {COMMANDS[command]})" for command in COMMANDS]
    finish("cli", result, "seconds to answer, median: " + "; ".join(parts), options.json)


if __name__ == "__main__":
    main()
