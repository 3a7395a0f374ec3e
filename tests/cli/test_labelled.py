"""`formers experiment entities, sentiment, synopsis, translation`: files, tables, verdicts, errors."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.commands import Formers
from tests.experiments.labelled_files import conll, pairs, ratings

QUICK = ("--steps", 2, "--batch-size", 2, "--seq-len", 32)
ENCODER = (*QUICK, "--init", "bert.nano", "--vocab-size", 60)
BOTH = (*QUICK, "--init", "t5.nano", "--vocab-size", 300, "--target-len", 6, "--test", 4)


def test_entities_writes_data_and_a_plot_and_says_its_verdict(formers: Formers, tmp_path: Path) -> None:
    asked = ("experiment", "entities", conll(tmp_path / "c.txt"), *ENCODER, "--out", "found")
    listed = formers(*asked, "--json")
    assert listed.code == 0, listed.err
    assert {"score", "baselines", "difference", "verdict", "environment"} <= listed.json.keys()
    assert json.loads(Path("found/entities.json").read_text())["verdict"] == listed.json["verdict"]
    assert "<svg" in Path("found/entities.svg").read_text()
    said = formers(*asked)
    assert said.code == 0
    assert listed.json["verdict"][:40] in said.out.replace("\n", " ")
    assert "the most frequent tag" in said.out


def test_sentiment_and_synopsis_and_translation_run(formers: Formers, tmp_path: Path) -> None:
    rated, rows = ratings(tmp_path / "r.txt"), pairs(tmp_path / "p.jsonl", 24)
    found = formers("experiment", "sentiment", rated, *ENCODER, "--json")
    assert found.code == 0, found.err
    assert Path("runs/sentiment/sentiment.json").is_file()
    found = formers("experiment", "synopsis", rows, *BOTH, "--json")
    assert found.code == 0, found.err
    found = formers("experiment", "translation", rows, "--pair", "doc-summary", *BOTH, "--json")
    assert found.code == 0, found.err
    assert set(found.json["measures"]["model"]) == {"chrF", "BLEU"}


def test_mistakes_are_one_error(formers: Formers, tmp_path: Path) -> None:
    data = conll(tmp_path / "c.txt")
    assert "cannot be read" in formers.refuses("experiment", "entities", tmp_path / "none")
    assert "did you mean" in formers.refuses("experiment", "entities", data, "--init", "bert.nan0")
    assert "smaller vocabulary" in formers.refuses("experiment", "entities", data, "--init", "bert.nano")
    assert "two languages" in formers.refuses("experiment", "translation", pairs(tmp_path / "p.jsonl"), "--pair", "en")
    assert "none of them empty" in formers.refuses("experiment", "translation", tmp_path / "p.jsonl")
