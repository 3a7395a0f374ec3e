"""Sentiment from texts that people rated from -4 to 4: negative, neutral or positive.

Classes and not the mean rating, because they are what a classifier's pipeline says and what accuracy and a majority mean
something of. The rating is rounded to whole steps of the scale and its sign is the class: raters differ by about one step, so
that the mean of twenty is known to a fifth, and from half a step on it is surely not 0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from formers.data.examples import LabelledRows, of_text
from formers.data.labelled import Rated, held_out, read_ratings
from formers.errors import DataError
from formers.experiments.bag_of_words import logistic_regression
from formers.experiments.bootstrap import difference, in_words, means, share
from formers.experiments.labelled import LabelledSettings, Start, learn, predict, result
from formers.hub import load

LABELS = ("negative", "neutral", "positive")
HALF_A_STEP = 0.5
MAJORITY, REGRESSION = "the most frequent class", "logistic regression on words"


def run(
    data: Path, out: Path, settings: LabelledSettings | None = None, *, progress: bool | None = None
) -> dict[str, Any] | None:
    """Train on rated texts and test on those that were held out, all sentences of a review or an article together. What
    stands in `out` is gone on with. None: stopped by a signal. Raises DataError where training lacks one of the classes."""
    settings = settings or LabelledSettings()
    train, test = held_out(read_ratings(data), settings.test, settings.seed)
    missing = sorted(set(LABELS) - {LABELS[label] for label in labels_of(train)})
    if missing:
        raise DataError(
            f"no text of {data} to train on is {' or '.join(missing)}", f"texts that are {', '.join(LABELS)}"
        )
    start = Start.of(settings, "sequence", LABELS, [rated.text for rated in train])
    facts = {"file": data.name, **_counts("train", train), **_counts("test", test), "labels": list(LABELS)}
    if not learn(start, _examples(start, train, settings), settings, out / "run", facts, progress=progress):
        return None
    sizes = {"batch_size": settings.batch_size, "seq_len": settings.seq_len}
    view = LabelledRows(_examples(start, test, settings), start.tokenizer, every=True, **sizes)
    answers = predict(load(out / "run" / "model"), view)
    return _judged(train, test, [answers[place][0] for place in range(len(test))], settings, out / "run", facts)


def class_of(rating: float) -> int:
    """A number of `LABELS`."""
    return 1 + (rating >= HALF_A_STEP) - (rating <= -HALF_A_STEP)


def labels_of(texts: Sequence[Rated]) -> list[int]:
    return [class_of(rated.rating) for rated in texts]


def _examples(start: Start, texts: Sequence[Rated], settings: LabelledSettings) -> list[Any]:
    return [of_text(start.tokenizer, each.text, class_of(each.rating), settings.seq_len) for each in texts]


def _counts(split: str, texts: Sequence[Rated]) -> dict[str, Any]:
    classes = Counter(LABELS[label] for label in labels_of(texts))
    groups = len({rated.group for rated in texts})
    return {f"{split}_groups": groups, f"{split}_texts": len(texts), f"{split}_classes": dict(sorted(classes.items()))}


def macro_f1(truth: Sequence[int], predicted: Sequence[int]) -> float:
    """The mean of the classes' F1."""
    pairs = np.array([truth, predicted])
    right = [int(((pairs[0] == k) & (pairs[1] == k)).sum()) for k in range(len(LABELS))]
    there = [int((pairs == k).sum()) for k in range(len(LABELS))]
    return float(np.mean([2 * hits / max(1, count) for hits, count in zip(right, there, strict=True)]))


def _judged(
    train: list[Rated], test: list[Rated], predicted: list[int], settings: LabelledSettings, run: Path, facts: Any
) -> dict[str, Any]:
    truth, learnt = labels_of(test), labels_of(train)
    texts = [rated.text for rated in train]
    guesses = {
        MAJORITY: [Counter(learnt).most_common(1)[0][0]] * len(test),
        REGRESSION: logistic_regression(texts, learnt, [rated.text for rated in test], len(LABELS)),
    }
    right = {name: _right(truth, said) for name, said in {"model": predicted, **guesses}.items()}
    accuracy = {name: sum(hits) / len(hits) for name, hits in right.items()}
    against = max(guesses, key=lambda name: accuracy[name])
    groups = [rated.group for rated in test]
    found = difference(means(right["model"]), means(right[against]), groups, share, seed=settings.seed)
    return result(
        "sentiment",
        settings,
        run,
        data=facts,
        measure="accuracy",
        score=accuracy["model"],
        baselines={name: accuracy[name] for name in guesses},
        against=against,
        found=found,
        verdict=in_words(found, "accuracy", against, "texts, sentences of one review or article together"),
        macro_f1={name: macro_f1(truth, said) for name, said in {"model": predicted, **guesses}.items()},
    )


def _right(truth: Sequence[int], said: Sequence[int]) -> list[float]:
    return [float(a == b) for a, b in zip(truth, said, strict=True)]
