"""Key-value recall: the documents, the table, and the whole of it in small."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from formers.data.batch import NO_TARGET
from formers.errors import ConfigError
from formers.experiments import recall
from formers.experiments.recall import KEYS, VALUES, Pairs, RecallSettings, Stage, by_distance, document, verdict

FAR = Stage(128, 8, 24, 1)


def test_the_answer_of_a_question_was_defined_so_far_back_and_stands_nowhere_else() -> None:
    ids, targets, distance = document(FAR, np.random.default_rng(0))
    asked = np.flatnonzero(targets != NO_TARGET)
    assert len(asked) == 24
    for place in asked:
        defined = place - distance[place]
        assert ids[defined] == ids[place]
        assert ids[defined + 1] == targets[place]
    values = (ids >= KEYS) & (ids < KEYS + VALUES)
    assert not values[2 * FAR.pairs :].any()


def test_pairs_that_come_again_are_asked_for_from_their_second_time_on() -> None:
    ids, targets, _ = document(Stage(64, 8, 0, 1), np.random.default_rng(0))
    for place in range(0, 64, 2):
        seen = ids[place] in ids[:place:2]
        assert targets[place] == (ids[place + 1] if seen else NO_TARGET)


def test_a_batch_depends_on_its_number_and_seed_alone() -> None:
    one, again, other = Pairs(FAR, 0).batch(3), Pairs(FAR, 0).batch(3), Pairs(FAR, 1).batch(3)
    assert (one.input_ids == again.input_ids).all()
    assert (one.input_ids != other.input_ids).any()


def test_distances_are_told_apart_by_doubling() -> None:
    rows = by_distance(np.array([True, False, True, True]), np.array([10, 64, 65, 200]))
    assert [(row["to"], row["questions"], row["accuracy"]) for row in rows] == [
        (64, 2, 0.5),
        (128, 1, 1.0),
        (256, 1, 1.0),
    ]


@pytest.mark.parametrize(
    ("memory", "without", "word"),
    [(98, 2, "reproduced"), (60, 2, "smaller effect"), (98, 30, "not reproduced"), (2, 1, "not reproduced")],
)
def test_a_verdict_needs_both_the_memory_and_chance_without(memory: int, without: int, word: str) -> None:
    def rows(right: int) -> list[dict]:
        near = {"from": 0, "to": 64, "questions": 100, "right": 100, "accuracy": 1.0}
        return [near, {"from": 1024, "to": 2048, "questions": 100, "right": right, "accuracy": right / 100}]

    result = {"accuracy": {"memory": rows(memory), "no memory": rows(without)}, "chance": 1 / 64, "drawn": 100}
    assert verdict(result).word == word


def test_stages_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigError, match="40 pairs and 20 questions in 64 tokens"):
        RecallSettings(stages=(Stage(64, 40, 20, 1),))


def test_the_whole_of_it_runs_and_a_second_time_trains_nothing(tmp_path: Path) -> None:
    settings = RecallSettings(stages=(Stage(32, 4, 0, 2), Stage(96, 4, 8, 1)), documents=2)
    first = recall.run(tmp_path, settings, progress=False)
    written = sorted(path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors"))
    assert first is not None
    assert recall.run(tmp_path, settings, progress=False) == first
    assert sorted(path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")) == written
    assert set(first["accuracy"]) == {"memory", "no memory"}
