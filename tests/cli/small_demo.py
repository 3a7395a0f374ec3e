"""The demo on a short text with models of some ten thousand parameters; and one that is killed with SIGKILL in its second
training and given again: ``python -m tests.cli.small_demo FOLDER``."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

MINUTES = 0.02
QUICK = {"compile": "off", "precision": "float32", "batch_size": 4, "seq_len": 64, "device": "cpu"}
LAWS = ("causal by perturbation", "rows independent")
SIZES: dict[str, dict[str, Any]] = {
    "gpt2": {"d_model": 32, "num_heads": 2, "num_layers": 2, "max_length": 64},
    "memorizing": {
        "d_model": 32,
        "num_heads": 2,
        "num_layers": 2,
        "d_ff": 149,
        "memory_layers": (1,),
        "memory_size": 128,
        "segment_length": 32,
        "cache_length": 32,
        "neighbours": 4,
    },
    "memory_mosaics": {"d_model": 32, "num_heads": 2, "num_layers": 2, "memory_size": 128},
}


@contextlib.contextmanager
def small(folder: Path) -> Iterator[None]:
    """`formers demo` in `folder`, which holds its text, its cache and its runs."""
    from formers import laws
    from formers.experiments import demo, outcome
    from formers.experiments import run as runs
    from tests.cli.conftest import TEXT

    (folder / "code.txt").write_text(TEXT)
    entries, settings = demo.entries(), demo.settings
    for number, entry in enumerate(entries):
        recipe = entry.recipe
        assert recipe is not None
        model = dataclasses.replace(recipe.model, **SIZES[recipe.architecture])
        text = dataclasses.replace(
            recipe.data,
            sources=(str(folder / "code.txt"),),
            tokenizer="byte",
            vocab_size=None,
            separator="\n\n\n",
            validation=0.1,
        )
        entries[number] = dataclasses.replace(entry, recipe=dataclasses.replace(recipe, model=model, data=text))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("FORMERS_CACHE", str(folder / "cache"))
        patch.setattr(demo, "entries", lambda: entries)
        patch.setattr(demo, "settings", lambda *given: dataclasses.replace(settings(*given), train=QUICK, documents=6))
        patch.setattr(laws, "certify", functools.partial(laws.certify, laws=LAWS))
        patch.setattr(demo, "SAMPLE_TOKENS", 24)
        patch.setattr(outcome, "SAMPLE_TOKENS", 4)
        patch.setattr(runs, "SAMPLE_TOKENS", 1)
        yield


def called(*arguments: object) -> tuple[int, str, str]:
    """Exit code of `formers demo`, and what it printed on stdout and on stderr."""
    from formers.cli.main import main

    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        code = main(["demo", "--minutes", str(MINUTES), *map(str, arguments)])
    return code, out.getvalue(), err.getvalue()


def begun(folder: Path) -> dict[str, int]:
    """When each training under the demo began, by name."""
    return {f.parent.name: f.stat().st_ino for f in (folder / "runs/demo").glob("*/checkpoints")}


def child(folder: Path) -> int:
    """The demo in a process of its own."""
    if pid := os.fork():
        return pid
    code = 1
    try:
        code, out, err = called("--json")
        sys.stderr.write(err)
        (folder / "result.json").write_text(out)
    finally:
        os._exit(code)


def main(folder: Path) -> None:
    """Print the trainings that had begun at the kill, those of the end, and what the second call found."""
    from formers.experiments import demo, outcome  # noqa: F401  imported here, so that both children have it

    with small(folder):
        killed = child(folder)
        second = folder / "runs/demo/memorizing.seed-0/metrics.jsonl"
        while not second.is_file() or second.stat().st_size < 1000:
            time.sleep(0.01)
            assert os.waitpid(killed, os.WNOHANG) == (0, 0), "it ended before it could be killed"
        os.kill(killed, signal.SIGKILL)
        os.waitpid(killed, 0)
        before = begun(folder)
        code = os.waitstatus_to_exitcode(os.waitpid(child(folder), 0)[1])
    result = json.loads((folder / "result.json").read_text())
    print(json.dumps({"code": code, "before": before, "after": begun(folder), "result": result}))


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    main(Path(sys.argv[1]))
