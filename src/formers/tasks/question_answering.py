"""Question answering over passages: the span of the passage that the model's start and end logits like best.

A span scores start + end logit (Devlin et al. 2018, 1810.04805, section 4.2). It lies in the passage, never in the question,
ends where it begins or behind, and is no longer than `max_answer`. A long passage is read in windows that overlap; a span of
several windows has its best score. Its probability is exp(score) over the sum of those of *all* spans of *all* windows, so that
windows without an answer do not compete with certainties of their own, as they do where each is normalised by itself.

With `no_answer` the model may say, by its first token, that there is none (SQuAD 2.0, 1806.03822): scored by the window that
says so least, and given first where it is higher than the best span by more than `null_threshold` (1810.04805, section 4.3).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from formers.errors import ConfigError, DataError
from formers.tasks.base import Given, Item, Pipeline
from formers.tasks.options import AnswerOptions
from formers.tasks.results import Answer
from formers.tasks.rows import Rows, each_row, outputs
from formers.text import Encodings, encode_texts

WINDOW, OVERLAP = 384, 128
"""Of BERT's own SQuAD code: max_seq_length and doc_stride."""

NOTHING = (-1, -1)
"""Where the answer stands that there is none."""


class QuestionAnswering(Pipeline[AnswerOptions, list[Answer]]):
    """A pair (question, context) gives its answers, the best first.

    answer(question="Who?", context="Ada did.")
    answer([("Who?", "Ada did."), ("What?", "Ada did.")])
    answer(question=["Who?", "What?"], context="Ada did.")
    """

    def __call__(
        self,
        texts: Given | Sequence[Given] | None = None,
        *,
        question: str | Sequence[str] | None = None,
        context: str | Sequence[str] | None = None,
        **changes: Any,
    ) -> Any:
        given: Any = texts
        if texts is None:
            given = _pairs(question, context)
        elif question is not None or context is not None:
            raise DataError("pairs and a question or context beside them", "one or the other")
        return super().__call__(given, **changes)

    def answer(self, items: Sequence[Item], options: AnswerOptions) -> list[list[Answer]]:
        encodings = self._encode(items, options)
        if options.no_answer and (encodings.which[:, 0] >= 0).any():
            raise ConfigError(
                "no_answer, and texts that begin without a special token",
                "a tokenizer that begins texts with one ([CLS]), by which the model says that there is no answer",
                "leave no_answer out",
            )

        def read(rows: Rows) -> list[np.ndarray]:
            logits = outputs(self.model, rows).logits
            fine = logits.to(torch.promote_types(logits.dtype, torch.float32)).cpu().numpy()
            return [row[:length] for row, length in zip(fine, rows.lengths, strict=True)]

        logits = each_row(self.model, encodings, self.batch_size, read)
        return [self._answers(item, place, encodings, logits, options) for place, item in enumerate(items)]

    # -- windows --------------------------------------------------------------------------------------------------------

    def _encode(self, items: Sequence[Item], options: AnswerOptions) -> Encodings:
        limit = self.limit(options.max_length, WINDOW) or WINDOW
        stride = min(OVERLAP, limit // 2) if options.stride is None else options.stride
        self._check_room(items, limit, stride)
        questions, contexts = [item.text for item in items], [item.second or "" for item in items]
        windows: dict[str, Any] = {"max_length": limit, "truncation": "only_second", "stride": stride}
        return encode_texts(self.tokenizer, questions, contexts, offsets=True, **windows)

    def _check_room(self, items: Sequence[Item], limit: int, stride: int) -> None:
        """Of long passages `encode_texts` would say the same, but not of short ones, and a question that is too long is so for
        any passage."""
        frame = encode_texts(self.tokenizer, [""], [""]).mask.sum()
        room = int(limit - stride - frame - 1)
        for item, ids in zip(items, self.tokenizer.encode_batch([item.text for item in items]), strict=True):
            if len(ids) > room:
                raise DataError(
                    f"question {item.place} has {len(ids)} tokens",
                    f"at most {max(room, 0)}, in windows of {limit} that overlap by {stride}",
                    "shorten it, ask for a smaller stride, or put question and context the other way round",
                )

    # -- the best spans -------------------------------------------------------------------------------------------------

    def _answers(
        self, item: Item, place: int, encodings: Encodings, logits: Sequence[np.ndarray], options: AnswerOptions
    ) -> list[Answer]:
        assert item.second is not None
        rows = np.flatnonzero(encodings.sample == place).tolist()
        found = best_spans(encodings, rows, [logits[row] for row in rows], item.second, options)
        if not found:
            raise DataError(
                f"the context of question {item.place} has no token that could be an answer", "a passage of text"
            )
        return [_answer(item.second, *span) for span in found]


def _pairs(question: str | Sequence[str] | None, context: str | Sequence[str] | None) -> Any:
    """One pair, or a list of pairs; one context serves many questions."""
    if question is None or context is None:
        raise DataError("a question without a context" if context is None else "a context without a question", "both")
    if isinstance(question, str) and isinstance(context, str):
        return question, context
    questions = [question] * len(context) if isinstance(question, str) else list(question)
    contexts = [context] * len(questions) if isinstance(context, str) else list(context)
    if len(questions) != len(contexts):
        raise DataError(f"{len(questions)} questions and {len(contexts)} contexts", "as many of each, or one context")
    return list(zip(questions, contexts, strict=True))


def _answer(context: str, start: int, end: int, score: float) -> Answer:
    """Without white space around it."""
    if (start, end) == NOTHING:
        return Answer("", score, 0, 0)
    text = context[start:end]
    start += len(text) - len(text.lstrip())
    return Answer(text.strip(), score, start, start + len(text.strip()))


Span = tuple[int, int, float]
"""First character, the one behind the last, probability."""


def best_spans(
    encodings: Encodings, rows: Sequence[int], logits: Sequence[np.ndarray], context: str, options: AnswerOptions
) -> list[Span]:
    """The `top_k` spans of a passage, from the rows that are its windows. logits: [row's tokens, 2] of each row."""
    assert encodings.offsets is not None
    candidates = [
        span
        for row, of_row in zip(rows, logits, strict=True)
        for span in _of_window(encodings, row, of_row, context, options.max_answer)
    ]
    if not candidates:
        return []
    places, scores = _once_each(np.concatenate([c for c, _ in candidates]), np.concatenate([s for _, s in candidates]))
    null = min(of_row[0].sum() for of_row in logits) if options.no_answer else -np.inf
    total = np.logaddexp(np.logaddexp.reduce(scores), null)
    order = np.argsort(-scores, kind="stable")[: options.top_k]
    found = [(*places[i].tolist(), float(np.exp(scores[i] - total))) for i in order]
    if options.no_answer:
        nothing = (*NOTHING, float(np.exp(null - total)))
        wins = null - scores[order[0]] > options.null_threshold
        rank = 0 if wins else max(1, sum(span[2] > nothing[2] for span in found))
        found.insert(rank, nothing)
    return found[: options.top_k]


def _of_window(
    encodings: Encodings, row: int, logits: np.ndarray, context: str, longest: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """All spans of a window as characters [spans, 2], and their scores [spans]; of a window without any, nothing."""
    assert encodings.offsets is not None
    offsets = encodings.offsets[row, : len(logits)]
    may = [bool(context[start:end].strip()) for start, end in offsets.tolist()]
    tokens = np.flatnonzero((encodings.which[row, : len(logits)] == 1) & np.array(may))
    first, last = np.triu_indices(len(tokens))
    within = tokens[last] - tokens[first] < longest
    first, last = tokens[first[within]], tokens[last[within]]
    if not len(first):
        return []
    characters = np.stack([offsets[first, 0], offsets[last, 1]], axis=1)
    return [(characters, logits[first, 0] + logits[last, 1])]


def _once_each(places: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every span once, with its best score."""
    unique, which = np.unique(places, axis=0, return_inverse=True)
    best = np.full(len(unique), -np.inf, dtype=scores.dtype)
    np.maximum.at(best, which.reshape(-1), scores)
    return unique, best
