"""Metrics of answers and of texts: SQuAD's exact match and F1; BLEU, chrF and ROUGE by the libraries that define them."""

from __future__ import annotations

import importlib
import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType

from formers.errors import DataError, TargetError

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


# -- answers ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AnswerScores:
    """Means over questions, from 0 to 1."""

    exact: float
    f1: float
    questions: int


def normalised(answer: str) -> str:
    """As SQuAD's evaluation compares answers (1606.05250): lower case, no punctuation, no articles, single spaces."""
    return " ".join(_ARTICLES.sub(" ", answer.lower().translate(_PUNCTUATION)).split())


def exact_match(answer: str, truth: str) -> bool:
    return normalised(answer) == normalised(truth)


def answer_f1(answer: str, truth: str) -> float:
    """F1 of the words that both have in common. Where either is empty ("no answer"), 1 if both are, else 0."""
    ours, theirs = normalised(answer).split(), normalised(truth).split()
    if not ours or not theirs:
        return float(ours == theirs)
    common = (Counter(ours) & Counter(theirs)).total()
    return 2 * common / (len(ours) + len(theirs))


def answer_scores(answers: Sequence[str], truths: Sequence[Sequence[str]]) -> AnswerScores:
    """Each answer counts by the best of its true ones; a question without any has the true answer ""."""
    if len(answers) != len(truths) or not answers:
        raise DataError(f"{len(answers)} answers to {len(truths)} questions", "as many of each, at least one")
    _check_lists(truths, "true answers")
    golds = [list(filter(normalised, truth)) or [""] for truth in truths]  # as SQuAD 2.0's own evaluation
    pairs = list(zip(answers, golds, strict=True))
    exact = [max(exact_match(answer, gold) for gold in those) for answer, those in pairs]
    f1 = [max(answer_f1(answer, gold) for gold in those) for answer, those in pairs]
    return AnswerScores(sum(exact) / len(pairs), sum(f1) / len(pairs), len(pairs))


# -- texts --------------------------------------------------------------------------------------------------------------


def bleu(texts: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Corpus BLEU from 0 to 100, by sacrebleu. references: the true texts of every text."""
    return float(_library("sacrebleu").corpus_bleu(list(texts), _by_number(texts, references)).score)


def chrf(texts: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Corpus chrF from 0 to 100, by sacrebleu."""
    return float(_library("sacrebleu").corpus_chrf(list(texts), _by_number(texts, references)).score)


def rouge(
    texts: Sequence[str], references: Sequence[Sequence[str]], kinds: Sequence[str] = ("rouge1", "rouge2", "rougeL")
) -> dict[str, float]:
    """Mean F1 from 0 to 1 of each kind, by rouge-score; of several references the best counts."""
    _check(texts, references)
    scorer = _library("rouge_score.rouge_scorer").RougeScorer(list(kinds))
    found = [scorer.score_multi(list(truths), text) for text, truths in zip(texts, references, strict=True)]
    return {kind: sum(scores[kind].fmeasure for scores in found) / len(found) for kind in kinds}


def each_chrf(texts: Sequence[str], truths: Sequence[str]) -> list[float]:
    """chrF of every text by itself, from 0 to 100, against its one true text."""
    sentence_chrf = _library("sacrebleu").sentence_chrf
    return [float(sentence_chrf(text, [truth]).score) for text, truth in zip(texts, truths, strict=True)]


def each_rouge_l(texts: Sequence[str], truths: Sequence[str]) -> list[float]:
    """F1 of ROUGE-L of every text by itself, from 0 to 1, against its one true text."""
    scorer = _library("rouge_score.rouge_scorer").RougeScorer(["rougeL"])
    return [scorer.score(truth, text)["rougeL"].fmeasure for text, truth in zip(texts, truths, strict=True)]


def _library(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        package = name.partition(".")[0].replace("_", "-")
        raise TargetError(
            f"this metric is the library {package}'s, and {error.name} is not installed",
            "the extra packages of metrics",
            "pip install 'formers[metrics]'",
        ) from None


def _by_number(texts: Sequence[str], references: Sequence[Sequence[str]]) -> list[list[str]]:
    """sacrebleu's order: the first reference of every text, then the second of every text, .."""
    _check(texts, references)
    counts = {len(truths) for truths in references}
    if len(counts) > 1:
        raise DataError(f"between {min(counts)} and {max(counts)} references a text", "as many for each text")
    return [list(column) for column in zip(*references, strict=True)]


def _check(texts: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    if len(texts) != len(references) or not texts:
        raise DataError(f"{len(texts)} texts and references of {len(references)}", "as many of each, at least one")
    _check_lists(references, "references")
    without = [str(place) for place, truths in enumerate(references) if not truths]
    if without:
        raise DataError(f"texts without a reference: {', '.join(without[:5])}", "at least one for each text")


def _check_lists(lists: Sequence[Sequence[str]], what: str) -> None:
    """A lone string is a sequence of strings too."""
    for place, some in enumerate(lists):
        if isinstance(some, str):
            raise DataError(f"the {what} of text {place} are one text", "a list of texts", "put it in a list")
