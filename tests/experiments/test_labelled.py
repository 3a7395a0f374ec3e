"""Trainings from labelled data in small: they learn, go on where they stopped, and judge honestly."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

import formers
from formers.data.labelled import Sentence, held_out, read_conll
from formers.errors import ConfigError, DataError, RunError
from formers.experiments import entities, sentiment
from formers.experiments.bag_of_words import logistic_regression, words
from formers.experiments.labelled import LabelledSettings, curve
from formers.tasks import entity_scores
from tests.experiments.labelled_files import conll, ratings

QUICK = LabelledSettings(init="bert.nano", steps=60, batch_size=4, seq_len=32, vocab_size=60, lr=3e-3)


def test_tags_that_words_tell_are_learnt_and_the_model_is_one_for_the_pipeline(tmp_path: Path) -> None:
    found = entities.run(conll(tmp_path / "c.txt"), tmp_path / "out", QUICK, progress=False)
    assert found is not None
    assert found["score"] > 0.9
    assert found["data"]["train_groups"] + found["data"]["test_groups"] == 15
    assert found["training"]["steps"] == 60
    (first, *_), _ = (pipe := formers.pipeline("ner", tmp_path / "out" / "run"))(["Ada went to Oslo .", "to to"])
    assert (first.label, first.text) == ("PER", "Ada")
    assert pipe.labels == ("O", "I-LOC", "I-PER")


def test_the_predictions_are_those_of_the_pipeline(tmp_path: Path) -> None:
    quick = dataclasses.replace(QUICK, steps=8)
    found = entities.run(conll(tmp_path / "c.txt"), tmp_path / "out", quick, progress=False)
    _, test = held_out(read_conll(tmp_path / "c.txt"), quick.test, quick.seed)
    pipe = formers.pipeline("ner", tmp_path / "out" / "run")
    tagged = []
    for sentence in test:
        tags, text = ["O"] * len(sentence.words), " ".join(sentence.words)
        for entity in pipe(text, aggregation="first"):
            for place in range(text[: entity.start].count(" "), text[: entity.end].count(" ") + 1):
                tags[place] = f"I-{entity.label}"
        tagged.append(tags)
    assert found is not None
    assert entity_scores([s.tags for s in test], tagged) == found["entities"]


def test_the_same_command_again_trains_nothing_and_says_the_same(tmp_path: Path) -> None:
    quick = dataclasses.replace(QUICK, steps=3)
    runs = [entities.run(conll(tmp_path / "c.txt"), tmp_path / "out", quick, progress=False) for _ in range(2)]
    assert runs[0] is not None
    assert runs[1] is not None
    assert runs[0] == runs[1]
    with pytest.raises(RunError):  # other data, or another seed: another run
        entities.run(tmp_path / "c.txt", tmp_path / "out", dataclasses.replace(quick, seed=1), progress=False)


def test_one_half_and_the_rest_are_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped in the middle and gone on with, to the bit."""
    from formers.training import trainer

    quick, goes_on = dataclasses.replace(QUICK, steps=6), trainer.Trainer.goes_on
    whole = entities.run(conll(tmp_path / "c.txt"), tmp_path / "whole", quick, progress=False)

    def stops(self: trainer.Trainer) -> bool:
        if self.step == 3 and self.resumed_from is None:
            self.stopped_by = "SIGINT"
            return False
        return goes_on(self)

    monkeypatch.setattr(trainer.Trainer, "goes_on", stops)
    assert entities.run(tmp_path / "c.txt", tmp_path / "halves", quick, progress=False) is None
    found = entities.run(tmp_path / "c.txt", tmp_path / "halves", quick, progress=False)
    assert whole is not None
    assert found is not None
    assert found["curve"] == whole["curve"]
    assert found["score"] == whole["score"]


def test_sentiment_that_a_word_tells_is_learnt(tmp_path: Path) -> None:
    found = sentiment.run(ratings(tmp_path / "r.txt"), tmp_path / "out", QUICK, progress=False)
    assert found is not None
    assert found["score"] > 0.9
    assert found["baselines"][sentiment.REGRESSION] == 1.0
    assert found["baselines"][sentiment.MAJORITY] < 0.6
    assert found["against"] == sentiment.REGRESSION
    assert found["verdict"].startswith("not to be told apart" if found["score"] == 1.0 else ("not", "worse"))
    label = formers.pipeline("text-classification", tmp_path / "out" / "run")("the red tool is awful")[0]
    assert label.label == "negative"


def test_a_folder_of_other_labels_is_gone_on_with_under_a_new_head(tmp_path: Path) -> None:
    quick = dataclasses.replace(QUICK, steps=2)
    entities.run(conll(tmp_path / "c.txt"), tmp_path / "one", quick, progress=False)
    begun = dataclasses.replace(quick, init=str(tmp_path / "one" / "run"))
    found = sentiment.run(ratings(tmp_path / "r.txt"), tmp_path / "two", begun, progress=False)
    assert found is not None
    assert found["settings"]["init"] == "one/run"  # no more of this machine's folders than it needs
    assert str(tmp_path) not in str(found)


def test_half_a_step_is_neutral_no_longer() -> None:
    assert [sentiment.class_of(rating) for rating in (-4, -0.5, -0.49, 0, 0.49, 0.5, 4)] == [0, 0, 1, 1, 1, 2, 2]


def test_macro_f1_is_the_mean_of_the_classes() -> None:
    assert sentiment.macro_f1([0, 0, 1, 2], [0, 1, 1, 2]) == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)


def test_a_class_without_texts_is_refused(tmp_path: Path) -> None:
    (tmp_path / "r.txt").write_text("".join(f"{n}\t2\tgood {n}\n" for n in range(9)))
    with pytest.raises(DataError, match="negative or neutral"):
        sentiment.run(tmp_path / "r.txt", tmp_path / "out", QUICK, progress=False)


def test_the_baseline_is_each_words_most_frequent_tag() -> None:
    def sentence(text: str, tags: str) -> Sentence:
        return Sentence(tuple(text.split()), tuple(tags.split()), "a")

    train = [sentence("Rome is Rome", "I-LOC O I-ORG"), sentence("Rome Ada", "I-LOC I-PER")]
    assert entities.most_frequent(train, [sentence("Ada saw Rome", "O O O")]) == [["I-PER", "O", "I-LOC"]]


def test_counted_entities_give_the_scores_of_tasks() -> None:
    truth, said = [["I-A", "I-A", "O", "I-B"], ["O"]], [["I-A", "O", "O", "I-B"], ["I-A"]]
    right, predicted, true = entities.counted(truth, said).sum(0)
    scores = entity_scores(truth, said).overall
    assert (right / predicted, right / true) == (scores.precision, scores.recall)


def test_logistic_regression_is_at_its_optimum() -> None:
    """Where the gradient of the penalised loss vanishes, every word's weights are its residuals."""
    draw = np.random.default_rng(0)
    texts = [" ".join(draw.choice("a b c d e f".split(), 3)) for _ in range(60)]
    labels = [int("a" in text.split()) + int("b" in text.split()) for text in texts]
    found = logistic_regression(texts, labels, texts, 3)
    assert found == logistic_regression(texts, labels, texts, 3)
    assert np.mean(np.array(found) == labels) > 0.85
    assert logistic_regression(texts, labels, ["never seen"], 3)[0] in (0, 1, 2)
    assert words("It's GREAT, great :-)") == [",", ":-)", "great", "it's"]


def test_a_curve_has_few_points_and_the_last_step() -> None:
    rows = [{"step": n, "loss": float(n)} for n in range(1, 124)]
    points = curve(rows)
    assert len(points) <= 50
    assert points[-1]["step"] == 123
    assert points[0] == {"step": 3, "loss": 2.0}


def test_settings_that_cannot_be_are_refused() -> None:
    for wrong in ({"steps": None, "minutes": None}, {"seq_len": 4}, {"test": 1.0}):
        with pytest.raises(ConfigError):
            LabelledSettings(**wrong)
