"""`formers convert`: a run to a folder, in shards where asked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers

import formers as library
from tests.cli.commands import Formers


def test_a_run_becomes_shards_of_the_size_that_was_asked_for(formers: Formers, run: Path):
    found = formers("convert", run, "shards", "--max-shard-size", "10KB", "--json").json
    assert "model.safetensors.index.json" in found["files"]
    assert "model.safetensors" not in found["files"]
    before, after = library.load(run).state_dict(), library.load("shards").state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert "model.safetensors" in formers("convert", "shards", "whole", "--json").json["files"]


def test_a_size_that_is_none_is_refused(formers: Formers, run: Path):
    assert "a size of 'huge'" in formers.refuses("convert", run, "x", "--max-shard-size", "huge")
    assert not Path("x").exists()


def test_a_folder_called_like_an_architecture_is_converted_and_named(formers: Formers, run: Path):
    formers("convert", run, "gpt2")
    outcome = formers("convert", "gpt2", "copy")
    assert outcome.code == 0
    assert "gpt2 is the folder ./gpt2 here" in outcome.err
    assert library.load("copy").config == library.load(run).config


def test_a_bert_is_made_longer_and_transformers_reads_it(formers: Formers):
    sizes = {"vocab_size": 31, "d_model": 22, "num_layers": 2, "num_heads": 2, "d_ff": 37, "max_length": 9}
    library.save(library.build("bert", **sizes), "short")
    assert formers("convert", "short", "long", "--long", "40", "--windows", "8").code == 0
    ids = torch.arange(1, 31)[None]
    theirs = transformers.AutoModelForMaskedLM.from_pretrained("long")
    assert type(theirs).__name__ == "LongformerForMaskedLM"
    with torch.no_grad():
        gap = theirs(ids, attention_mask=torch.ones_like(ids)).logits - library.load("long")(ids).logits
    assert gap.abs().max() <= 1e-5  # float32
    assert "a bert, a longformer" in formers.refuses("convert", "gpt2.nano", "x", "--long", "40")


def test_tokenizer_and_what_is_said_of_the_task_are_taken_along(formers: Formers):
    words = "[PAD] [UNK] [CLS] [SEP] [MASK] the ##s".split()
    library.save(library.build("bert", preset="nano", vocab_size=7, head="sequence"), "old")
    Path("old/vocab.txt").write_text("\n".join(words))
    config = json.loads(Path("old/config.json").read_text()) | {"problem_type": "multi_label_classification"}
    Path("old/config.json").write_text(json.dumps(config))
    before = library.pipeline("text-classification", "old")("the thes")
    outcome = formers("convert", "old", "new")
    assert outcome.code == 0
    assert "not taken along" not in outcome.err
    assert Path("new/tokenizer.json").is_file()
    assert library.pipeline("text-classification", "new")("the thes") == before
    assert sum(label.score for label in before) != pytest.approx(1, abs=1e-3)  # each label by itself


def test_what_sentence_transformers_keeps_elsewhere_is_said_to_stay(formers: Formers):
    library.save(library.build("bert", preset="nano", head="pooler"), "sentences")
    Path("sentences/1_Pooling").mkdir()
    Path("sentences/1_Pooling/config.json").write_text('{"pooling_mode_cls_token": true}')
    assert "not taken along: 1_Pooling/config.json" in formers("convert", "sentences", "new").err
