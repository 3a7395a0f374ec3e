"""Padding and batching never change an answer: what a text gives alone, it gives among others, in its place."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from tests.tasks.conftest import words

FLOAT64 = 1e-9
"""The same sums in another order."""

Pipe = Callable[..., Any]
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "fill-mask": ("masked_token", {}),
    "ner": ("token", {"aggregation": "average"}),
    "text-classification": ("sequence", {}),
    "pair-classification": ("pair", {}),
    "question-answering": ("span", {"top_k": 3, "no_answer": True, "max_length": 30, "stride": 5}),
    "sentence-embedding": ("pooler", {}),
    "summarization": ("t5", {"max_new_tokens": 4, "beams": 2}),
    "translation": ("t5", {"max_new_tokens": 4, "beams": 1}),
    "text-generation": ("gpt2", {"max_new_tokens": 4, "num_samples": 2, "seed": 3}),
}


def inputs(task: str, count: int) -> list[Any]:
    texts = words(count, 12, seed=5)
    if task == "fill-mask":
        return [f"{text} [MASK]" if i % 3 else f"[MASK] {text} [MASK]" for i, text in enumerate(texts)]
    if task == "pair-classification":
        return list(zip(texts, words(count, 9, seed=6), strict=True))
    if task == "question-answering":
        return list(zip(words(count, 3, seed=6), words(count, 30, shortest=2, seed=7), strict=True))
    return texts


def flat(result: Any) -> Iterator[Any]:
    """Everything in a result, numbers and texts, in order."""
    if isinstance(result, torch.Tensor):
        result = result.tolist()
    if dataclasses.is_dataclass(result):
        result = [getattr(result, field.name) for field in dataclasses.fields(result)]
    if isinstance(result, list | tuple):
        for part in result:
            yield from flat(part)
    else:
        yield result


def assert_same(found: Any, wanted: Any) -> None:
    ours, theirs = list(flat(found)), list(flat(wanted))
    assert [x for x in ours if not isinstance(x, float)] == [x for x in theirs if not isinstance(x, float)]
    numbers = [x for x in ours if isinstance(x, float)]
    assert numbers == pytest.approx([x for x in theirs if isinstance(x, float)], abs=FLOAT64)


WRITING = ("summarization", "translation", "text-generation")
COUNTS = [
    pytest.param(task, count, marks=[pytest.mark.slow] if count == 200 and task in WRITING else [])
    for task in CASES
    for count in ((25, 200) if task in WRITING else (200,))
]


@pytest.mark.parametrize(("task", "count"), COUNTS)
def test_many_texts_together_give_what_each_gives_alone(pipe: Pipe, task: str, count: int) -> None:
    name, options = CASES[task]
    ours, given = pipe(task, name, batch_size=13, **options), inputs(task, count)
    together = ours(given)
    assert len(together) == len(given)
    for text, found in zip(given, together, strict=True):
        assert_same(found, ours(text))


@pytest.mark.parametrize("task", ["ner", "question-answering", "translation"])
def test_results_come_one_by_one_from_an_iterator_too(pipe: Pipe, task: str) -> None:
    name, options = CASES[task]
    ours, given = pipe(task, name, batch_size=4, **options), inputs(task, 11)
    taken: list[Any] = []

    def texts() -> Iterator[Any]:
        for text in given:
            taken.append(text)
            yield text

    found = ours.each(texts())
    first = next(found)
    assert len(taken) == 4  # no more than it needs
    assert_same([first, *found], ours(given))


def test_many_texts_go_through_in_chunks_in_their_order(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, given = pipe("text-classification", "sequence", batch_size=3), inputs("text-classification", 25)
    whole = ours(given)
    monkeypatch.setattr("formers.tasks.base.BATCHES_AT_ONCE", 2)
    assert_same(ours(given), whole)


def test_texts_and_pairs_stand_side_by_side(pipe: Pipe) -> None:
    ours = pipe("text-classification", "sequence")
    given = [
        "Ada met Charles.",
        ("Ada met.", "They spoke."),
        "The sea.",
        {"text": "Ada met.", "text_pair": "They spoke."},
    ]
    found = ours(given)
    assert_same(found, [ours(one) for one in given])
    assert_same(found[1], found[3])


def test_pipelines_leave_the_model_as_it_was_and_run_without_dropout(pipe: Pipe) -> None:
    ours = pipe("text-classification", "sequence")
    quiet = ours("Ada met Charles.")
    ours.model.train()
    assert_same(ours("Ada met Charles."), quiet)
    assert all(module.training for module in ours.model.modules())


def test_a_pipeline_reads_half_precision(pipe: Pipe) -> None:
    text = "Ada met Charles in London."
    fine, coarse = (pipe("sentence-embedding", "pooler", dtype=kind)(text) for kind in (torch.float32, torch.bfloat16))
    assert coarse.dtype == torch.float32
    assert float(fine @ coarse) > 0.99


def test_streamed_pieces_make_the_text(pipe: Pipe) -> None:
    ours = pipe("text-generation", "gpt2", max_new_tokens=9, seed=4)
    assert "".join(piece.text for piece in ours.stream("Ada met")) == ours("Ada met")[0].text
