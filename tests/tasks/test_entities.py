"""Entities from tags and their F1: by hand, and as seqeval counts them."""

from __future__ import annotations

import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formers.errors import DataError
from formers.tasks import entity_scores, spans


@pytest.mark.parametrize(
    ("tags", "wanted"),
    [
        ("O O", []),
        ("B-PER I-PER O B-LOC", [("PER", 0, 2), ("LOC", 3, 4)]),
        ("B-PER B-PER I-PER", [("PER", 0, 1), ("PER", 1, 3)]),  # a B always begins
        ("I-PER I-PER", [("PER", 0, 2)]),  # an I after O begins too (IOB1)
        ("B-PER I-LOC I-LOC", [("PER", 0, 1), ("LOC", 1, 3)]),  # another type is another entity
        ("S-PER S-PER I-PER", [("PER", 0, 1), ("PER", 1, 2), ("PER", 2, 3)]),
        ("B-PER I-PER E-PER I-PER", [("PER", 0, 3), ("PER", 3, 4)]),  # nothing goes on behind an end
        ("E-PER E-PER", [("PER", 0, 1), ("PER", 1, 2)]),
        ("PER PER O LOC", [("PER", 0, 2), ("LOC", 3, 4)]),  # without letters
        ("B-a-b I-a-b I-b", [("a-b", 0, 2), ("b", 2, 3)]),
    ],
)
def test_entities_by_hand(tags: str, wanted: list[tuple[str, int, int]]) -> None:
    assert spans(tags.split()) == wanted


TAGS = ["O", *(f"{letter}-{kind}" for letter in "BIES" for kind in ("PER", "LOC", "ORG"))]
SENTENCES = st.lists(
    st.lists(st.tuples(st.sampled_from(TAGS), st.sampled_from(TAGS)), max_size=9), min_size=1, max_size=6
)


@given(SENTENCES)
def test_scores_and_entities_are_those_of_seqeval(sentences: list[list[tuple[str, str]]]) -> None:
    metrics = pytest.importorskip("seqeval.metrics")
    labeling = pytest.importorskip("seqeval.metrics.sequence_labeling")
    truth = [[tag for tag, _ in sentence] for sentence in sentences]
    guess = [[tag for _, tag in sentence] for sentence in sentences]
    for tags in truth:
        assert spans(tags) == [(kind, first, last + 1) for kind, first, last in labeling.get_entities(tags)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of shares of nothing, which are 0 here and there
        wanted = metrics.classification_report(truth, guess, output_dict=True, zero_division=0)
    found = entity_scores(truth, guess)
    rows = {"micro avg": found.overall, **found.types}
    for name, scores in rows.items():
        theirs = wanted[name]
        assert (scores.precision, scores.recall, scores.f1) == pytest.approx(
            (theirs["precision"], theirs["recall"], theirs["f1-score"])
        )
        assert scores.support == theirs["support"]
    if found.types:  # else the mean of nothing is nan there, 0 here
        assert found.macro_f1 == pytest.approx(wanted["macro avg"]["f1-score"])


def test_scores_by_hand() -> None:
    truth = [["B-PER", "I-PER", "O", "B-LOC"], ["B-LOC", "O", "O", "O"]]
    guess = [["B-PER", "I-PER", "O", "B-PER"], ["B-LOC", "I-LOC", "O", "B-LOC"]]
    found = entity_scores(truth, guess)
    assert (found.overall.precision, found.overall.recall) == (1 / 4, 1 / 3)
    assert found.overall.f1 == pytest.approx(2 / 7)
    assert (found.types["PER"].precision, found.types["PER"].recall, found.types["LOC"].f1) == (1 / 2, 1, 0)
    assert found.macro_f1 == pytest.approx((2 / 3 + 0) / 2)
    nothing = entity_scores([["O"]], [["O"]])
    assert (nothing.overall.f1, nothing.macro_f1, nothing.types) == (0.0, 0.0, {})


def test_what_does_not_fit_together_is_named() -> None:
    with pytest.raises(DataError, match="sentence 1 has 2 tags and 1"):
        entity_scores([["O"], ["O", "O"]], [["O"], ["O"]])
    with pytest.raises(DataError, match="2 sentences and 1"):
        entity_scores([["O"], ["O"]], [["O"]])
    with pytest.raises(DataError, match="sentence 0 is one text"):
        entity_scores(["O"], ["O"])
