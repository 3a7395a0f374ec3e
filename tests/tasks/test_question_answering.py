"""Answers are the spans that a search over everything finds, whatever the windows; never in the question, never too long."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from formers.errors import ConfigError, DataError
from formers.tasks import Answer
from tests.tasks.conftest import words

transformers = pytest.importorskip("transformers")

FLOAT32 = 1e-5
Pipe = Callable[..., Any]
QUESTIONS = words(7, 4, seed=8)
CONTEXTS = [*words(3, 12, shortest=5, seed=9), *words(4, 60, shortest=40, seed=10)]


@pytest.fixture(scope="module")
def reference(folder: Callable[[str], Path]) -> tuple[Any, Any]:
    """transformers' model and tokenizer."""
    model = transformers.BertForQuestionAnswering.from_pretrained(folder("span")).double()
    return model, transformers.AutoTokenizer.from_pretrained(folder("span"))


def spans_of_windows(
    model: Any, tokenizer: Any, question: str, context: str, max_length: int, stride: int, longest: int
) -> tuple[dict[tuple[int, int], float], float]:
    """Slow twin: the best score of every span, and that of no answer, one window after another."""
    windows = tokenizer(
        question, context, max_length=max_length, truncation="only_second", stride=stride,
        return_overflowing_tokens=True, return_offsets_mapping=True,
    )  # fmt: skip
    found: dict[tuple[int, int], float] = {}
    null = math.inf
    for number in range(len(windows["input_ids"])):
        given = {name: torch.tensor([windows[name][number]]) for name in ("input_ids", "token_type_ids")}
        with torch.no_grad():
            out = model(**given)
        starts, ends = out.start_logits[0].tolist(), out.end_logits[0].tolist()
        null = min(null, starts[0] + ends[0])
        offsets, which = windows["offset_mapping"][number], windows.sequence_ids(number)
        for i, first in enumerate(offsets):
            for j, last in enumerate(offsets):
                if which[i] == which[j] == 1 and i <= j < i + longest:
                    span = (first[0], last[1])
                    found[span] = max(found.get(span, -math.inf), starts[i] + ends[j])
    return found, null


@pytest.mark.parametrize("number", range(7))
@pytest.mark.parametrize("no_answer", [False, True])
def test_answers_are_the_best_of_all_spans_of_all_windows(
    reference: tuple[Any, Any], pipe: Pipe, number: int, no_answer: bool
) -> None:
    question, context = QUESTIONS[number], CONTEXTS[number]
    every, null = spans_of_windows(*reference, question, context, 40, 9, 5)
    scores = {**every, **({(0, 0): null} if no_answer else {})}
    total = math.log(sum(math.exp(score) for score in scores.values()))
    best = sorted(scores, key=lambda span: -scores[span])[:6]
    found = pipe("question-answering", "span")(
        (question, context), top_k=6, max_length=40, stride=9, max_answer=5, no_answer=no_answer
    )
    assert [(a.start, a.end) for a in found] == best
    assert [a.score for a in found] == pytest.approx([math.exp(scores[span] - total) for span in best], rel=1e-9)
    assert [a.text for a in found] == [context[start:end] for start, end in best]


def test_the_long_contexts_have_windows(pipe: Pipe) -> None:
    """Or the test above would show nothing of them."""
    ours = pipe("question-answering", "span", max_length=40, stride=9)
    items = [ours.item(i, pair) for i, pair in enumerate(zip(QUESTIONS, CONTEXTS, strict=True))]
    assert len(ours._encode(items, ours.options).sample) > 7 + 4


def test_all_answers_together_have_probability_one(pipe: Pipe) -> None:
    found = pipe("question-answering", "span")(("Who?", CONTEXTS[1]), top_k=10**6, no_answer=True)
    assert sum(answer.score for answer in found) == pytest.approx(1, abs=1e-9)
    assert [answer.score for answer in found] == sorted((answer.score for answer in found), reverse=True)


def test_the_threshold_decides_whether_there_is_an_answer(pipe: Pipe) -> None:
    ours = pipe("question-answering", "span", no_answer=True, top_k=2)
    nothing = ours(("Who?", CONTEXTS[0]), null_threshold=-1e6)
    assert nothing[0] == Answer("", nothing[0].score, 0, 0)
    something = ours(("Who?", CONTEXTS[0]), null_threshold=1e6)
    assert something[0].text
    assert something[0].score == nothing[1].score


def test_it_is_called_in_three_ways(pipe: Pipe) -> None:
    ours = pipe("question-answering", "span")
    one = ours(("Who met?", CONTEXTS[0]))
    assert ours(question="Who met?", context=CONTEXTS[0]) == one
    assert ours({"question": "Who met?", "context": CONTEXTS[0]}) == one
    many = ours(question=["Where?", "Who met?"], context=CONTEXTS[0])
    assert [(a.start, a.end) for a in many[1]] == [(a.start, a.end) for a in one]
    assert len(ours(question="Who met?", context=CONTEXTS[:3])) == 3


def test_what_cannot_be_answered_is_named(pipe: Pipe) -> None:
    ours = pipe("question-answering", "span")
    with pytest.raises(DataError, match="a question without a context"):
        ours(question="Who?")
    with pytest.raises(DataError, match="2 questions and 1 contexts"):
        ours(question=["Who?", "What?"], context=["Ada."])
    with pytest.raises(DataError, match="pairs and a question"):
        ours(("Who?", "Ada."), question="Who?")
    with pytest.raises(DataError, match="item 0 is one text"):
        ours("Who?")
    with pytest.raises(DataError, match="text 1 is empty"):
        ours([("Who?", "Ada."), ("Who?", " ")])
    with pytest.raises(DataError, match=r"question 1 has \d+ tokens"):
        ours([("Who?", "Ada."), (" ".join(["London"] * 40), "Ada.")])
    with pytest.raises(DataError, match="context of question 0 has no token"):
        ours(("Who?", "\x07\x08"))
    with pytest.raises(ConfigError, match="max_length is 65"):
        ours(("Who?", "Ada."), max_length=65)
