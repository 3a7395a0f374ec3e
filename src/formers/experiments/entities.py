"""Named entities from words with tags: a label at the first token of each word, none at the others; F1 of entities."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from formers.data.examples import LabelledRows, of_words
from formers.data.labelled import Sentence, held_out, read_conll
from formers.experiments.bootstrap import difference, f1, in_words
from formers.experiments.labelled import LabelledSettings, Start, learn, predict, result
from formers.hub import load
from formers.tasks.entities import OUTSIDE, entity_scores, spans

BASELINE = "the most frequent tag of each word in training"
Tags = list[list[str]]


def run(
    data: Path, out: Path, settings: LabelledSettings | None = None, *, progress: bool | None = None
) -> dict[str, Any] | None:
    """Train on the sentences of a CoNLL file and test on articles that were held out. What stands in `out` is gone on with.
    None: stopped by a signal."""
    settings = settings or LabelledSettings()
    train, test = held_out(read_conll(data), settings.test, settings.seed)
    labels = tags_of(train)
    texts = [" ".join(sentence.words) for sentence in train]
    start = Start.of(settings, "token", labels, texts)
    numbers = {tag: number for number, tag in enumerate(labels)}
    examples = [
        example
        for sentence in train
        for example, _ in of_words(
            start.tokenizer, sentence.words, [numbers[t] for t in sentence.tags], settings.seq_len
        )
    ]
    facts = {"file": data.name, **_counts("train", train), **_counts("test", test), "labels": list(labels)}
    if not learn(start, examples, settings, out / "run", facts, progress=progress):
        return None
    predicted = tag(load(out / "run" / "model"), start, test, settings)
    return _judged(train, test, predicted, settings, out / "run", facts)


def tags_of(sentences: Sequence[Sentence]) -> tuple[str, ...]:
    """O, then the others by name."""
    return OUTSIDE, *sorted({tag for sentence in sentences for tag in sentence.tags} - {OUTSIDE})


def _counts(split: str, sentences: Sequence[Sentence]) -> dict[str, int]:
    groups = len({sentence.group for sentence in sentences})
    words = sum(len(sentence.words) for sentence in sentences)
    return {f"{split}_groups": groups, f"{split}_sentences": len(sentences), f"{split}_words": words}


def tag(model: Any, start: Start, sentences: Sequence[Sentence], settings: LabelledSettings) -> Tags:
    """The likeliest tag of each word; O of a word that the tokenizer drops."""
    cut = [
        (number, example, places)
        for number, sentence in enumerate(sentences)
        for example, places in of_words(start.tokenizer, sentence.words, [0] * len(sentence.words), settings.seq_len)
    ]
    sizes = {"batch_size": settings.batch_size, "seq_len": settings.seq_len}
    view = LabelledRows([example for _, example, _ in cut], start.tokenizer, every=True, **sizes)
    found = [[OUTSIDE] * len(sentence.words) for sentence in sentences]
    answers = predict(model, view)
    for which, (number, _, places) in enumerate(cut):
        for place, label in zip(places, answers[which], strict=True):
            found[number][place] = model.config.labels[label]
    return found


def most_frequent(train: Sequence[Sentence], sentences: Sequence[Sentence]) -> Tags:
    """What needs no model: each word's most frequent tag in training, O where it is not there."""
    seen: dict[str, Counter[str]] = defaultdict(Counter)
    for sentence in train:
        for word, tag in zip(sentence.words, sentence.tags, strict=True):
            seen[word][tag] += 1
    best = {word: max(sorted(tags), key=tags.__getitem__) for word, tags in seen.items()}
    return [[best.get(word, OUTSIDE) for word in sentence.words] for sentence in sentences]


def counted(truth: Sequence[Sequence[str]], predicted: Tags) -> np.ndarray:
    """[sentences, 3]: entities that are right, predicted and true."""
    pairs = [(set(spans(theirs)), set(spans(ours))) for theirs, ours in zip(truth, predicted, strict=True)]
    return np.array([(len(true & said), len(said), len(true)) for true, said in pairs])


def _judged(
    train: list[Sentence], test: list[Sentence], predicted: Tags, settings: LabelledSettings, run: Path, facts: Any
) -> dict[str, Any]:
    truth, guessed = [sentence.tags for sentence in test], most_frequent(train, test)
    scores, theirs = entity_scores(truth, predicted), entity_scores(truth, guessed)
    groups = [sentence.group for sentence in test]
    found = difference(counted(truth, predicted), counted(truth, guessed), groups, f1, seed=settings.seed)
    unit = "articles" if groups[0].startswith("article") else "sentences"
    return result(
        "entities",
        settings,
        run,
        data=facts,
        measure="F1 of entities",
        score=scores.overall.f1,
        baselines={BASELINE: theirs.overall.f1},
        against=BASELINE,
        found=found,
        verdict=in_words(found, "F1", BASELINE, unit),
        entities=scores,
        baseline_entities=theirs,
    )
