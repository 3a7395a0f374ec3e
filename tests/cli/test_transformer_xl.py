"""Transformer-XL from the command line: trained in segments, gone on with, scored with a longer memory, generated from."""

from __future__ import annotations

import contextlib
import io
import shutil
from pathlib import Path

import pytest

from formers.cli.main import main
from tests.cli.commands import Formers

QUICK = [
    *("--text.tokenizer", "byte", "--text.separator", "\n\n\n"),
    *("--train.batch-size", "4", "--train.seq-len", "16", "--train.eval-every", "3", "--train.eval-batches", "4"),
    *("--train.checkpoint-every", "3", "--train.precision", "float32", "--train.compile", "off", "--train.steps", "6"),
    *(
        "--model.d-model",
        "16",
        "--model.num-layers",
        "2",
        "--model.segment-length",
        "16",
        "--model.memory-length",
        "16",
    ),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six steps over texts of many segments, and some of less than one. Tests work on copies."""
    folder = tmp_path_factory.mktemp("trained")
    texts = ["".join(f"def f{n}_{i}(x): return x + {i * n}\n" for i in range(1 + n % 9)) for n in range(60)]
    (folder / "my.txt").write_text("\n\n\n".join(texts))
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()):
        patch.setenv("FORMERS_CACHE", str(folder / "cache"))
        assert main(command(folder / "my.txt", folder / "run")) == 0
    return folder / "run"


def command(text: Path, out: Path) -> list[str]:
    return ["train", "transformer_xl.nano", str(text), *QUICK, "--out", str(out), "--json"]


def test_a_run_goes_on_from_its_checkpoint_bit_for_bit_with_what_its_rows_remembered(
    formers: Formers, run: Path
) -> None:
    shutil.copytree(run, "copy")
    shutil.rmtree("copy/model")
    shutil.rmtree("copy/checkpoints/step-6")
    assert formers(*command(run.parent / "my.txt", Path("copy")), "--resume").code == 0
    weights = [Path(folder) / "model" / "model.safetensors" for folder in ("copy", run)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_a_trained_one_is_scored_and_heard_with_other_memories(formers: Formers, run: Path) -> None:
    losses = [
        formers("eval", run, "--json", *(["--set", changed] if changed else [])).json["loss"]
        for changed in ("", "remember=keys", "memory_length=48")
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)
    assert abs(losses[2] - losses[0]) > 10 * abs(losses[1] - losses[0])
    quick = ["--max-new-tokens", "40", "--json"]
    told = [formers("generate", run, "def ", *quick, "--set", f"remember={kind}").json for kind in ("inputs", "keys")]
    assert told[0][0]["text"] == told[1][0]["text"]
    assert "did you mean 'memory_length'" in formers.refuses("eval", run, "--set", "memory_lenght=3")
    assert "NAME=VALUE" in formers.refuses("generate", run, "--set", "memory_length")
