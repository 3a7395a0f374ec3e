"""`formers graft`, and what follows it: train, eval, generate, show."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import formers
from formers.hub import resolve
from tests.cli.commands import Formers

QUICK = ("--train.steps", "4", "--train.batch-size", "2", "--train.seq-len", "32", "--train.eval-batches", "3")
STILL = ("--train.precision", "float32", "--train.compile", "off", "--train.checkpoint-every", "2")


@pytest.fixture
def grafted(formers: Formers, run: Path) -> Path:
    outcome = formers(
        "graft", run, "--layers", "-1", "--size", "50", "--segment", "16", "--out", "remembering", "--json"
    )
    assert outcome.code == 0, outcome.err
    assert (outcome.json["base"], outcome.json["layers"], outcome.json["size"]) == ("gpt2", [0], 50)
    return Path("remembering")


def test_a_graft_says_what_it_wrote_and_what_to_do_next(formers: Formers, run: Path) -> None:
    outcome = formers("graft", run, "--out", "remembering")
    assert outcome.code == 0
    assert "8,192 entries a head in layer 0, read in segments of 64" in outcome.out.replace("\n", " ")
    assert "formers train grafted.gates --init remembering" in outcome.out
    assert "--init grafted" in formers("graft", run, "--out", "grafted").out  # a folder before an architecture


def test_its_logits_are_the_runs_bit_for_bit(run: Path, grafted: Path) -> None:
    ids = torch.arange(16)[None]
    with torch.no_grad():
        assert torch.equal(formers.load(grafted)(ids).logits, formers.load(run)(ids).logits)


def test_its_gates_train_and_nothing_else_and_it_evaluates_and_writes(
    formers: Formers, text: Path, grafted: Path
) -> None:
    outcome = formers("train", "grafted.gates", text, "--init", grafted, *QUICK, *STILL, "--out", "tuned", "--json")
    assert outcome.code == 0, outcome.err
    before, after = (dict(resolve(folder).model.named_parameters()) for folder in (grafted, "tuned"))
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"base.trunk.blocks.0.attention.merge.logit"}
    assert formers("eval", "tuned", "--json").json["tokens"] > 0
    written = formers("generate", "tuned", "def ", "--max-new-tokens", "90", "--temperature", "0", "--json")
    assert written.code == 0
    assert "memory, base.trunk.blocks.0.attention" in formers("show", "tuned").out
    assert formers("eval", grafted, "--data", outcome.json["run"], "--json").code == 2  # a run is no shard folder


def test_a_stopped_run_goes_on_with_its_memories(formers: Formers, text: Path, grafted: Path) -> None:
    asked = ("grafted.memory", text, "--init", grafted, *QUICK, *STILL)
    whole = formers("train", *asked, "--out", "a", "--json")
    formers("train", *asked, "--train.limit-batches", "0", "--out", "b", "--json")
    for folder in Path("b/checkpoints").glob("step-4"):
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
    again = formers("train", "--resume", "--out", "b", "--json")
    assert again.json["resumed_from"] == 2
    assert whole.json["loss"] == again.json["loss"]
    ends = [dict(resolve(folder).model.named_parameters()) for folder in ("a", "b")]
    assert all(torch.equal(tensor, ends[1][name]) for name, tensor in ends[0].items())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--layers", "3"], "layer 3 of a model of 1 layers"),
        (["--size=-1"], "memory_size is -1"),
        (["--segment", "65"], "64 positions"),
        (["--segment", "0"], "segment_length is 0"),
        (["--cache", "8", "--segment", "16"], "learned positions"),
        (["--merge", "gates"], "merge is 'gates', wanted one of gate, tanh"),
    ],
)
def test_what_cannot_be_grafted_is_refused(formers: Formers, run: Path, options: list[str], said: str) -> None:
    assert said in formers.refuses("graft", run, "--out", "x", *options)
    assert not Path("x").exists()


def test_a_recipe_of_grafted_models_asks_for_one(formers: Formers, run: Path, text: Path) -> None:
    assert "no --init names it" in formers.refuses("train", "grafted.gates", text)
    assert "holds a gpt2" in formers.refuses("train", "grafted.gates", text, "--init", run, *QUICK)


def test_what_learns_is_checked_before_anything_is_written(formers: Formers, text: Path, grafted: Path) -> None:
    asked = ("train", "grafted.gates", text, "--init", grafted, *QUICK, "--out", "r", "--train.only", "gtaes")
    assert "did you mean 'gates'" in formers.refuses(*asked)
    assert not Path("r").exists()


def test_rows_that_begin_anew_leave_a_memory_short_and_the_run_says_so(
    formers: Formers, text: Path, grafted: Path
) -> None:
    asked = ("train", "gpt2.nano", text, "--init", grafted, *QUICK, *STILL, "--out", "r", "--json")
    outcome = formers(*asked)
    assert outcome.code == 0, outcome.err
    assert any("begins anew" in warning for warning in outcome.json["warnings"])
