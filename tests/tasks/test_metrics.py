"""Exact match and F1 of answers by SQuAD's rules, by hand; BLEU, chrF and ROUGE are the libraries' own."""

from __future__ import annotations

import sys

import pytest

from formers.errors import DataError, TargetError
from formers.tasks import answer_scores, bleu, chrf, rouge
from formers.tasks.metrics import answer_f1, exact_match, normalised


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        ("The  Thames.", "thames"),
        ("an Engine, a poet", "engine poet"),
        ("Theatre", "theatre"),  # an article is a word of its own
        ("U.S.", "us"),
        ("the", ""),
        ("Zürich’s", "zürich’s"),  # only ASCII is punctuation there
    ],
)
def test_answers_are_compared_without_case_articles_and_punctuation(answer: str, wanted: str) -> None:
    assert normalised(answer) == wanted


@pytest.mark.parametrize(
    ("answer", "truth", "exact", "f1"),
    [
        ("the river Thames", "River Thames", True, 1.0),
        ("Thames", "the river Thames", False, 2 / 3),
        ("London London", "London", False, 2 / 3),  # a word counts as often as both have it
        ("London London river", "London London", False, 4 / 5),
        ("Paris", "London", False, 0.0),
        ("", "", True, 1.0),
        ("", "London", False, 0.0),
        ("the", "", True, 1.0),
    ],
)
def test_exact_match_and_f1_by_hand(answer: str, truth: str, exact: bool, f1: float) -> None:
    assert exact_match(answer, truth) is exact
    assert answer_f1(answer, truth) == pytest.approx(f1)


def test_the_best_true_answer_counts_and_a_question_without_one_wants_none() -> None:
    found = answer_scores(["Thames", "", "London"], [["the sea", "river Thames"], [], ["the"]])
    assert (found.exact, found.f1, found.questions) == (1 / 3, pytest.approx((2 / 3 + 1 + 0) / 3), 3)
    with pytest.raises(DataError, match="1 answers to 2 questions"):
        answer_scores(["a"], [["a"], ["b"]])
    with pytest.raises(DataError, match="true answers of text 0 are one text"):
        answer_scores(["a"], ["a"])


TEXTS = ["the house is very old", "it rains in london"]
REFERENCES = [["the house is old", "the house is quite old"], ["it rains in london", "rain falls"]]


def test_bleu_and_chrf_are_those_of_sacrebleu() -> None:
    sacrebleu = pytest.importorskip("sacrebleu")
    columns = [["the house is old", "it rains in london"], ["the house is quite old", "rain falls"]]
    assert bleu(TEXTS, REFERENCES) == pytest.approx(sacrebleu.corpus_bleu(TEXTS, columns).score)
    assert chrf(TEXTS, REFERENCES) == pytest.approx(sacrebleu.corpus_chrf(TEXTS, columns).score)
    assert chrf(["it rains"], [["it rains"]]) == pytest.approx(100.0)
    with pytest.raises(DataError, match="between 1 and 2 references"):
        bleu(TEXTS, [["a"], ["b", "c"]])


def test_rouge_takes_the_best_of_the_references() -> None:
    pytest.importorskip("rouge_score")
    found = rouge(TEXTS, [["the house is old"], ["it rains in london", "rain falls"]])
    assert found["rougeL"] == pytest.approx((8 / 9 + 1) / 2)
    assert set(found) == {"rouge1", "rouge2", "rougeL"}


@pytest.mark.parametrize("metric", [bleu, chrf, rouge])
def test_what_cannot_be_scored_is_named(metric) -> None:
    with pytest.raises(DataError, match="1 texts and references of 2"):
        metric(["a"], [["a"], ["b"]])
    with pytest.raises(DataError, match="0 texts"):
        metric([], [])
    with pytest.raises(DataError, match="references of text 0 are one text"):
        metric(["a"], ["a"])
    with pytest.raises(DataError, match="without a reference: 1"):
        metric(["a", "b"], [["a"], []])


@pytest.mark.parametrize(
    ("metric", "module", "package"),
    [(bleu, "sacrebleu", "sacrebleu"), (rouge, "rouge_score.rouge_scorer", "rouge-score")],
)
def test_a_library_that_is_absent_is_named_with_what_to_install(
    metric, module: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(TargetError, match=rf"{package}'s(.|\n)*formers\[metrics\]"):
        metric(TEXTS, REFERENCES)
