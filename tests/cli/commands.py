"""How tests call the command line: in this process for speed, in a fresh one where the process itself is the question."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import pytest

from formers.cli.main import main

PROBE = """
import sys
from formers.cli.main import main
code = main(sys.argv[1:])
sys.stdout.flush()
print("TORCH" if "torch" in sys.modules else "NO TORCH", file=sys.stderr)
sys.exit(code)
"""


@dataclass(frozen=True)
class Outcome:
    """How a command ended and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass(frozen=True)
class Formers:
    """Calls `formers` in this process."""

    capsys: pytest.CaptureFixture[str]

    def __call__(self, *arguments: object) -> Outcome:
        self.capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        written = self.capsys.readouterr()
        return Outcome(code, written.out, written.err)

    def refuses(self, *arguments: object) -> str:
        """The error of a command that must end with exit code 2, one error and no traceback."""
        outcome = self(*arguments)
        assert outcome.code == 2, outcome
        assert "Traceback" not in outcome.err
        assert outcome.err.count("error:") <= 1
        return outcome.err


def in_a_fresh_process(*arguments: str, **options: Any) -> Outcome:
    """The same command in a new interpreter; the last line of `err` says whether torch was imported."""
    command = [sys.executable, "-c", PROBE, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    return Outcome(done.returncode, done.stdout, done.stderr)
