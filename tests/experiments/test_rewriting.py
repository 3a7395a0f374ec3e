"""Texts written from texts, in small: what is compared, what is kept, what is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from formers.errors import ConfigError
from formers.experiments import rewriting
from formers.experiments.rewriting import RewritingSettings, first_sentence
from formers.tasks.metrics import chrf, each_chrf, each_rouge_l, rouge
from tests.experiments.labelled_files import pairs

QUICK = RewritingSettings(
    init="t5.nano", steps=3, batch_size=4, seq_len=24, target_len=6, test=7, vocab_size=300, seed=1
)


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORMERS_CACHE", str(tmp_path / "cache"))


def test_a_run_judges_what_it_writes_and_a_second_one_trains_nothing(tmp_path: Path) -> None:
    task, data = rewriting.synopsis(), pairs(tmp_path / "p.jsonl")
    found = rewriting.run(task, data, tmp_path / "out", QUICK, progress=False)
    assert found is not None
    assert found["data"] == {"file": "p.jsonl", "train_pairs": 60, "test_pairs": 7, "fields": ["doc", "summary"]}
    assert 0.4 < found["baselines"]["the first sentence"] < 0.7  # "This is a red tool." against "red tool"
    assert found["verdict"].startswith("worse than the first sentence")
    assert (found["settings"]["steps"], found["settings"]["minutes"]) == (3, None)  # the clock was not asked
    truths = [row["truth"] for row in found["written"]]
    mean = sum(each_rouge_l([row["model"] for row in found["written"]], truths)) / len(truths)
    assert found["score"] == pytest.approx(mean) == pytest.approx(found["measures"]["model"]["rougeL"])
    again = rewriting.run(task, data, tmp_path / "out", QUICK, progress=False)
    assert again is not None
    assert again == found


@pytest.mark.slow
def test_synopses_that_stand_in_their_descriptions_are_learnt(tmp_path: Path) -> None:
    quick = dataclasses.replace(QUICK, steps=250, batch_size=16, test=40)
    found = rewriting.run(
        rewriting.synopsis(), pairs(tmp_path / "p.jsonl", 400), tmp_path / "out", quick, progress=False
    )
    assert found is not None
    assert found["score"] > 0.8
    assert found["verdict"].startswith("better than the first sentence")


def test_no_test_pair_is_trained_on(tmp_path: Path) -> None:
    data = pairs(tmp_path / "p.jsonl")
    rewriting.run(rewriting.synopsis(), data, tmp_path / "out", QUICK, progress=False)
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    trained = {json.loads(line)["source"] for line in (tmp_path / "out" / "pairs.jsonl").read_text().splitlines()}
    assert trained == {row["doc"] for row in rows if row["split"] == "train"}


def test_a_model_that_was_trained_goes_on_with_its_own_tokenizer(tmp_path: Path) -> None:
    data = pairs(tmp_path / "p.jsonl")
    rewriting.run(rewriting.synopsis(), data, tmp_path / "one", QUICK, progress=False)
    begun = dataclasses.replace(QUICK, init=str(tmp_path / "one" / "run"))
    found = rewriting.run(rewriting.synopsis(), data, tmp_path / "two", begun, progress=False)
    assert found is not None
    assert found["settings"]["init"] == "one/run"
    files = [tmp_path / name / "run" / "model" / "tokenizer.json" for name in ("one", "two")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_the_first_sentence_ends_at_its_mark() -> None:
    assert first_sentence("A tool\nfor text. It is e.g. fast!") == "A tool for text."
    assert first_sentence("Version 1.2 of it? Yes.") == "Version 1.2 of it?"
    assert first_sentence("no mark at all") == "no mark at all"


def test_scores_of_texts_have_the_mean_of_the_corpus_where_it_is_one() -> None:
    texts, truths = ["a small tool", "the game"], ["a tool", "a free game"]
    assert sum(each_rouge_l(texts, truths)) / 2 == pytest.approx(rouge(texts, [[t] for t in truths])["rougeL"])
    assert each_chrf(texts[:1], truths[:1])[0] == pytest.approx(chrf(texts[:1], [truths[:1]]))
    assert each_chrf(["x"], ["x"]) == [100.0]


def test_copying_is_the_baseline_of_a_translation_and_a_pair_names_two_fields() -> None:
    task = rewriting.translation("en-de")
    assert task.fields == ("en", "de")
    assert task.without("a text") == "a text"
    assert set(task.whole(["ein Text"], ["ein Text"])) == {"chrF", "BLEU"}
    for wrong in ("en", "-de", "en-"):
        with pytest.raises(ConfigError, match="two languages"):
            rewriting.translation(wrong)


def test_settings_that_cannot_be_are_refused() -> None:
    for wrong in ({"steps": None, "minutes": None}, {"test": 1}):
        with pytest.raises(ConfigError):
            RewritingSettings(**wrong)
