"""The other verbs, on one small run: what they print, what they write, what they refuse."""

from __future__ import annotations

import functools
import json
import shutil
from pathlib import Path

import pytest

from formers.cli import machine
from tests.cli.commands import Formers


def test_eval_scores_the_whole_split_beside_what_needs_no_training(formers: Formers, run: Path):
    found = formers("eval", run, "--json").json
    shards = json.loads((run / "recipe.json").read_text())["shards"]["folder"]
    meta = json.loads((Path(shards) / "meta.json").read_text())
    assert found["tokens"] == meta["tokens"]["validation"] - meta["documents"]["validation"]  # all but first ones
    assert {"gzip_bits_per_byte", "unigram_bits_per_byte"} == set(found["baselines"])
    assert sum(bucket["count"] for bucket in found["by_position"]) == found["tokens"]
    assert "gzip -9" in formers("eval", run).out


def test_eval_refuses_text_of_another_tokenizer(formers: Formers, run: Path, text: Path):
    formers("data", "build", text, "--out", "other", "--tokenizer", "char")
    assert "built with another tokenizer" in formers.refuses("eval", run, "--data", "other")


def test_eval_of_a_model_folder_asks_for_text(formers: Formers, run: Path):
    assert "--data" in formers.refuses("eval", run / "model")


def test_eval_of_a_text_shows_true_beside_predicted_tokens(formers: Formers, run: Path):
    text = "def f9(x):"
    found = formers("eval", run, "--text", text, "--json").json
    assert "".join(row["true"] for row in found["tokens"]) == text[1:]
    assert all((row["true"] == row["predicted"]) == (row["rank"] == 0) for row in found["tokens"])
    said = formers("eval", run, "--text", text).out
    assert said.splitlines()[2].startswith("'e' ")  # the first token is not predicted
    assert len(said.splitlines()) == 2 + len(text) - 1
    long = formers("eval", run, "--text", "x" * 100)
    assert "the first 64 of 100 tokens" in long.err
    assert "two or more" in formers.refuses("eval", run, "--text", "x")


def test_generate_streams_what_json_lists(formers: Formers, run: Path):
    asked = ["generate", run, "def ", "--max-new-tokens", 12, "--seed", 3, "--num-samples", 2]
    listed = formers(*asked, "--json").json
    assert [row["prompt"] for row in listed] == ["def ", "def "]
    assert all(len(row["ids"]) <= 12 for row in listed)
    streamed = formers(*asked).out
    for number, row in enumerate(listed):
        assert f"--- sample {number + 1} (seed {3 + number}) ---\ndef {row['text']}" in streamed


def test_generate_shows_how_text_is_cut_into_tokens(formers: Formers, run: Path):
    asked = ["generate", run, "def é", "--max-new-tokens", 8, "--seed", 3]
    plain, cut = formers(*asked).out, formers(*asked, "--tokens").out
    assert cut.replace("|", "") == plain.replace("|", "")
    assert cut.startswith("d|e|f| ||é|")  # a character of two bytes stands at its last token
    assert cut.count("|") >= 5 + 8
    assert "--json lists the ids" in formers.refuses(*asked, "--tokens", "--json")
    assert "and --tokens" in formers.refuses("generate", run, "x", "--beams", 2, "--tokens")


def test_generate_is_the_same_for_the_same_seed_and_not_for_another(formers: Formers, run: Path):
    texts = [formers("generate", run, "x", "--seed", seed, "--max-new-tokens", 20).out for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_generate_stops_at_a_text(formers: Formers, run: Path):
    long = formers("generate", run, "def ", "--max-new-tokens", 40, "--json").json[0]["text"]
    stop = long[5]
    short = formers("generate", run, "def ", "--max-new-tokens", 40, "--stop", stop, "--json").json[0]["text"]
    assert short == long[: long.index(stop)]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--max-new-tokens", "1000"], "64"),
        (["--temperature", "-1"], "temperature"),
        (["--top-p", "7"], "top_p"),
        (["--max-new-tokens", "0"], "max_new_tokens"),
    ],
)
def test_generate_refuses_what_cannot_be(formers: Formers, run: Path, options: list[str], said: str):
    assert said in formers.refuses("generate", run, "def ", *options)


def test_generate_refuses_a_prompt_with_unknown_characters(formers: Formers, text: Path):
    formers("data", "build", text, "--out", "letters", "--tokenizer", "char")
    quick = ["--train.steps", "1", "--train.batch-size", "2", "--train.seq-len", "16", "--model.num-layers", "1"]
    assert formers("train", "gpt2.nano", "--data", "letters", *quick, "--out", "r", "--json").code == 0
    assert "é" in formers.refuses("generate", "r", "café")


def test_generate_from_fresh_weights_asks_for_a_tokenizer(formers: Formers):
    assert "has no tokenizer" in formers.refuses("generate", "gpt2.nano", "x")


def test_certify_keeps_the_certificate_in_the_run(formers: Formers, run: Path):
    outcome = formers("certify", run, "--json")
    assert outcome.code == 0
    assert outcome.json["ok"]
    assert json.loads((run / "certificate.json").read_text()) == outcome.json
    assert "laws hold" in formers("certify", run, "--laws", "rows independent").out


LEAKY = """
from formers.models.gpt2 import GPT2, GPT2Config, PRESETS
from formers.parts.masks import SameDocument

def leaky():
    model = GPT2(GPT2Config(**PRESETS["nano"]))
    model.trunk.blocks[1]["attention"].score.mask = SameDocument()
    return model
"""


def test_certify_exits_with_1_where_a_law_fails_and_names_the_attention(formers: Formers, tmp_path: Path):
    (tmp_path / "leaky.py").write_text(LEAKY)
    outcome = formers("certify", "leaky.py:leaky", "--json")
    assert outcome.code == 1
    broken = {law["name"]: law["blame"] for law in outcome.json["laws"] if law["status"] == "fail"}
    assert "attention" in broken["causal by perturbation"]


def test_certify_refuses_an_unknown_law(formers: Formers):
    assert "did you mean" in formers.refuses("certify", "gpt2.nano", "--laws", "causal-by-perturbatoin")


def test_show_counts_what_the_model_holds(formers: Formers):
    found = formers("show", "gpt2.nano", "--json").json
    assert found["tree"]["parameters"] == 141_056
    assert found["tree"]["bytes"] == 4 * 141_056
    out = formers("show", "gpt2.nano").out
    assert "shared with tokens.weight" in out
    assert "141,056" in out


def test_report_writes_a_page_and_the_same_table(formers: Formers, run: Path):
    outcome = formers("report", run, "--out", "page.html")
    assert "Bits/byte" in outcome.out
    assert "<html" in Path("page.html").read_text()[:300]
    assert formers("report", run, "--out", "page.html", "--json").json["runs"][0]["recipe"] == "gpt2.nano"


def test_report_without_a_run_says_so(formers: Formers):
    assert "at least one run folder" in formers.refuses("report")


def test_runs_lists_what_is_there_broken_ones_too(formers: Formers, run: Path):
    assert "no runs" in formers("runs").out
    shutil.copytree(run, "runs/good")
    Path("runs/bad").mkdir()
    Path("runs/bad/recipe.json").write_text("{")
    found = {row["name"]: row["status"] for row in formers("runs", "--json").json}
    assert found == {"good": "finished", "bad": "broken"}
    assert "good" in formers("runs").out
    assert "no folder elsewhere" in formers.refuses("runs", "elsewhere")


def test_convert_writes_what_transformers_opens(formers: Formers, run: Path):
    import torch
    import transformers

    import formers as library

    assert formers("convert", run, "converted", "--json").json["parameters"] > 0
    theirs = transformers.AutoModelForCausalLM.from_pretrained("converted").eval()
    ids = torch.randint(0, 257, (2, 19))
    with torch.no_grad():
        assert torch.allclose(theirs(ids).logits, library.load(str(run))(ids).logits, atol=1e-5)


def test_convert_leaves_a_folder_with_other_files_alone(formers: Formers, run: Path, text: Path):
    assert "my.txt" in formers.refuses("convert", run, text.parent)


def test_diff_of_a_run_with_itself_finds_nothing(formers: Formers, run: Path):
    assert formers("diff", run, run / "model", "--json").code == 0


def test_models_lists_paper_reference_and_recipes(formers: Formers):
    found = {row["name"]: row for row in formers("models", "--json").json}
    assert "gpt2.tiny" in found["gpt2"]["recipes"]
    assert found["llama"]["year"] == 2023
    assert "Radford" in formers("models").out


def test_doctor_says_what_follows(formers: Formers, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(machine, "examine", functools.cache(machine.examine))
    found = formers("doctor", "--json").json
    assert found["machine"]["versions"]["torch"]
    assert {item["level"] for item in found["findings"]} <= {"good", "slow", "missing", "bad"}
    assert all(item["advice"] for item in found["findings"] if item["level"] != "good")
    assert "processor" in formers("doctor").out


def test_data_build_prints_what_it_skipped(formers: Formers, tmp_path: Path, text: Path):
    folder = tmp_path / "texts"
    folder.mkdir()
    shutil.copy(text, folder)
    (folder / "picture.png").write_bytes(bytes(range(128, 256)))
    outcome = formers("data", "build", folder, "--out", "shards", "--tokenizer", "byte")
    assert "1 " in outcome.out.partition("skipped")[2].splitlines()[0]
    assert (
        formers("data", "build", folder, "--out", "shards", "--tokenizer", "byte", "--json").json["vocab_size"] == 257
    )
