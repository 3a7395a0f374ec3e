"""`formers train` of every kind of model: the objective that its head is for, from the same shards, to a run like any other."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

import formers as library
from formers.text import load_tokenizer
from tests.cli.commands import Formers
from tests.cli.test_train import rows

QUICK = [
    *("--train.batch-size", "4", "--train.seq-len", "40", "--train.eval-every", "3", "--train.eval-batches", "4"),
    *("--train.checkpoint-every", "3", "--train.precision", "float32", "--train.compile", "off", "--train.steps", "6"),
    *("--model.d-model", "16", "--model.num-layers", "2", "--json"),
]
TEXT = "".join(f"def f{n}(x):\n    return x + {n}. It is line {n * n}!\n\n\n" for n in range(300))


@pytest.fixture
def shards(formers: Formers, tmp_path: Path) -> Path:
    """Of a vocabulary that was made for decoders: no mask, no sentinels."""
    for n in range(8):
        (tmp_path / f"text{n}.txt").write_text(TEXT[n * 900 : (n + 1) * 900])
    outcome = formers("data", "build", *sorted(tmp_path.glob("text*.txt")), "--out", "shards", "--tokenizer", "byte")
    assert outcome.code == 0, outcome
    return Path("shards")


CASES = [
    ("gpt2.nano", [], "next_token", ()),
    ("bert.nano", [], "masked_token", ()),
    ("distilbert.nano", ["--train.masking", "words"], "masked_token", ()),
    ("bert.nano", ["--model.head", "pretraining"], "next_sentence", ("pair_loss", "pair_accuracy")),
    ("albert.nano", [], "sentence_order", ("pair_loss", "pair_accuracy")),
    ("bert.nano", ["--train.objective", "replaced_token"], "replaced_token", ("replaced_loss", "replaced_accuracy")),
    ("t5.nano", ["--train.mean-span", "2"], "span_corruption", ()),
]


@pytest.mark.parametrize(("recipe", "asked", "objective", "measures"), CASES, ids=lambda value: str(value)[:40])
def test_the_head_says_what_is_learnt(
    formers: Formers, shards: Path, recipe: str, asked: list[str], objective: str, measures: tuple[str, ...]
):
    outcome = formers("train", recipe, "--data", shards, *QUICK, *asked, "--out", "r")
    assert outcome.code == 0, outcome
    run = Path("r")
    recorded = json.loads((run / "recipe.json").read_text())
    assert recorded["train"]["objective"] == objective
    evaluation = rows(run, "eval")[-1]
    assert evaluation.get("objective", "next_token") == objective
    assert evaluation.keys() >= {"loss", "accuracy", "perplexity", *measures}
    assert (evaluation["bits_per_byte"] is not None) == (objective == "next_token")
    tokenizer = load_tokenizer(run / "model")
    assert tokenizer.encode("def f") == [*b"def f"]
    assert library.load(run).config.vocab_size == tokenizer.vocab_size
    if objective != "next_token":
        assert not any("first loss" in warning for warning in outcome.json["warnings"])
    said = formers("train", recipe, "--data", shards, *QUICK[:-1], *asked, "--out", "s").out
    offered = re.findall(r"^  formers (\w+)", said, re.MULTILINE)
    assert offered[-2:] == ["certify", "report"]
    assert ("generate" in offered) == (objective in ("next_token", "span_corruption"))
    assert ("eval" in offered) == (objective != "replaced_token")
    if objective not in ("next_token", "replaced_token"):
        assert tokenizer.vocab_size > 257
        assert any("[MASK]" in row["prompt"] or "<extra_id_0>" in row["prompt"] for row in rows(run, "sample"))
        scored = formers("eval", "r", "--json").json
        again = formers("eval", "r", "--data", shards, "--json").json
        assert scored["loss"] == again["loss"]
        assert scored.keys() >= set(measures)
        assert formers("eval", "r").code == 0
    assert formers("report", "r", "--out", "page.html").code == 0


def test_a_masked_run_that_is_resumed_ends_as_one_that_was_never_stopped(formers: Formers, shards: Path):
    assert formers("train", "bert.nano", "--data", shards, *QUICK, "--out", "whole").code == 0
    assert formers("train", "bert.nano", "--data", shards, *QUICK, "--out", "half").code == 0
    newest = Path("half/checkpoints/step-6")
    (newest / "model.safetensors").write_bytes(b"damaged")
    (Path("half/model/model.safetensors")).unlink()
    resumed = formers("train", "--resume", "--out", "half", "--json")
    assert resumed.code == 0
    assert resumed.json["resumed_from"] == 3
    ours, theirs = (load_file(f"{run}/model/model.safetensors") for run in ("half", "whole"))
    assert all(ours[name].equal(theirs[name]) for name in theirs)


@pytest.mark.parametrize(("recipe", "size"), [("bert.nano", 120), ("t5.nano", 270)])
def test_a_run_whose_shards_are_gone_builds_the_same_again(formers: Formers, tmp_path: Path, recipe: str, size: int):
    (tmp_path / "my.txt").write_text(TEXT)
    outcome = formers("train", recipe, "my.txt", *QUICK, "--text.vocab-size", size, "--out", "r")
    assert outcome.code == 0, outcome
    first = formers("eval", "r", "--json").json
    shutil.rmtree(".cache")
    again = formers("eval", "r", "--json").json
    assert again["loss"] == first["loss"]
    assert json.loads(Path("r/recipe.json").read_text())["data"]["vocab_size"] == size


def test_a_discriminator_is_a_token_classifier_and_is_not_scored_again(formers: Formers, shards: Path):
    asked = ["--train.objective", "replaced_token"]
    assert formers("train", "bert.nano", "--data", shards, *QUICK, *asked, "--out", "r").code == 0
    assert library.load("r").config.labels == ("original", "replaced")
    assert "generator" in formers.refuses("eval", "r")
    assert library.load("r", head="masked_token").config.head == "masked_token"
    assert formers("train", "--resume", "--out", "r", "--json").json["steps"] == 6


def test_pairs_of_a_file_are_trained_on(formers: Formers, tmp_path: Path):
    lines = [{"source": f"the number {n}", "target": f"{n} it is"} for n in range(60)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, lines)))
    asked = ["--train.objective", "source_to_target", "--text.tokenizer", "byte", "--train.target-len", "20"]
    outcome = formers("train", "t5.nano", "pairs.jsonl", *QUICK, *asked, "--out", "r")
    assert outcome.code == 0, outcome
    assert rows(Path("r"), "eval")[-1]["objective"] == "source_to_target"
    assert any(row["prompt"].startswith("the number") for row in rows(Path("r"), "sample"))
    assert formers("eval", "r", "--json").json["loss"] == pytest.approx(rows(Path("r"), "eval")[-1]["loss"], rel=1e-3)
    assert formers("data", "build", "pairs.jsonl", "--pairs", "--tokenizer", "byte", "--out", "p").code == 0
    assert formers("train", "t5.nano", "--data", "p", *QUICK, *asked, "--out", "s").code == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["bert.nano", "--train.objective", "next_token"], "each of its tokens sees the next one"),
        (["bert.nano", "--model.head", "sequence"], "learns from labelled data"),
        (["gpt2.nano", "--train.objective", "masked_token"], "a masked_token head"),
        (["bert.nano", "--text.view", "streams"], "windows or packed"),
        (["t5.nano", "--train.objective", "source_to_target"], "--pairs"),
        (["bert.nano", "--train.objective", "masked"], "masked_token"),
        (["bert.nano", "--train.masked-share", "1.5"], "masked_share is 1.5"),
    ],
)
def test_what_cannot_be_learnt_is_one_clear_line(formers: Formers, shards: Path, arguments: list[str], said: str):
    recipe, *rest = arguments
    assert said in formers.refuses("train", recipe, "--data", shards, *rest, "--train.seq-len", "40", "--out", "r")
    assert not Path("r/metrics.jsonl").exists()
