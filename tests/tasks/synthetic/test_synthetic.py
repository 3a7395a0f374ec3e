"""Synthetic tasks: rows are pure functions of their numbers, what is asked follows from the row, and scores count it."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import formers
from formers.errors import ConfigError
from formers.tasks.synthetic import TASKS, Automata, Brackets, Copying, Induction, Moons, Recall, Settings
from formers.tasks.synthetic.base import NOT_ASKED

FEW = Settings(batch_size=5, seed=3, rows=11)


@pytest.mark.parametrize("name", TASKS)
def test_a_batch_is_a_pure_function_of_settings_and_step(name: str) -> None:
    a, b = TASKS[name](FEW), TASKS[name](FEW)
    b.batch(0)
    assert np.array_equal(a.batch(7).input_ids, b.batch(7).input_ids)
    assert not np.array_equal(a.batch(7).input_ids, a.batch(8).input_ids)
    other = TASKS[name](Settings(batch_size=5, seed=4))
    assert not np.array_equal(a.batch(7).input_ids, other.batch(7).input_ids)
    asked = np.stack([row.ids for row in a.questions()])
    assert np.array_equal(asked, np.stack([row.ids for row in TASKS[name](Settings(seed=9, rows=11)).questions()]))


@pytest.mark.parametrize("name", TASKS)
def test_a_batch_has_the_shapes_and_the_vocabulary_that_the_task_says(name: str) -> None:
    task = TASKS[name](FEW)
    batch = task.batch(0)
    assert batch.input_ids.shape == batch.targets.shape == batch.index.shape == (5, task.seq_len)
    assert 0 <= batch.input_ids.min() <= batch.input_ids.max() < task.vocab_size
    assert set(np.unique(batch.targets)) <= {-100, *range(task.vocab_size)}
    assert batch.scored > 0
    assert batch.fresh.all()
    follows = batch.targets[:, :-1] != -100
    assert (batch.targets[:, :-1] == batch.input_ids[:, 1:])[follows].all()


@pytest.mark.parametrize("name", TASKS)
def test_what_is_asked_is_learnt_and_counted(name: str) -> None:
    for row in TASKS[name](FEW).questions():
        assert (row.group != NOT_ASKED).any()
        assert (row.targets[row.group != NOT_ASKED] != -100).all()


# --- what is asked follows from what stands before it -------------------------------------------------------------------


def by_longest_match(ids: list[int]) -> int:
    """The token that followed the longest earlier stretch like the end of `ids`."""
    best, answer = 0, -1
    for end in range(len(ids) - 1):
        same = 0
        while same <= end and ids[end - same] == ids[-1 - same]:
            same += 1
        if same > best:
            best, answer = same, ids[end + 1]
    return answer


def by_the_open_bracket(ids: list[int]) -> int:
    still_open: list[int] = []
    for token in ids:
        if token < 4:
            still_open.append(token)
        else:
            assert still_open.pop() == token - 4
    return 4 + still_open[-1]


def by_each_moon(ids: list[int]) -> int:
    mine = ids[len(ids) % 3 :: 3]
    period = next(p for p in range(1, len(mine) + 1) if all(a == b for a, b in zip(mine[p:], mine, strict=False)))
    return mine[len(mine) - period] if period < len(mine) else -1


def by_the_last_mark(ids: list[int]) -> int:
    mark = max(i for i, token in enumerate(ids) if token == 32)
    start = max([i + 1 for i, token in enumerate(ids[:mark]) if token == 33], default=0)
    return ids[start + len(ids) - mark - 1]


SOLVED: dict[str, tuple[Callable[[list[int]], int], float]] = {
    "induction": (by_longest_match, 0.98),
    "recall": (by_longest_match, 1.0),
    "copying": (by_the_last_mark, 1.0),
    "brackets": (by_the_open_bracket, 1.0),
    "moons": (by_each_moon, 0.85),  # at first a short stretch may look like a shorter period
}


@pytest.mark.parametrize("name", SOLVED)
def test_who_reads_the_row_can_answer(name: str) -> None:
    solve, wanted = SOLVED[name]
    right = [
        solve(row.ids[: i + 1].tolist()) == row.targets[i]
        for row in TASKS[name](Settings(rows=6)).questions()
        for i in np.flatnonzero(row.group != NOT_ASKED)
    ]
    assert np.mean(right) >= wanted


def test_the_automaton_of_a_row_allows_what_stands_there_and_little_else() -> None:
    task = Automata(FEW)
    for row in task.questions():
        assert row.right is not None
        assert row.right[np.arange(task.seq_len), row.targets].all()
        share = row.right[row.group != NOT_ASKED].sum(-1).mean()
        assert 1 <= share <= task.arcs


def test_moons_meet_again_after_the_common_multiple_and_only_then_is_the_sky_known() -> None:
    for row in Moons(FEW).questions():
        text = np.append(row.ids, row.targets[-1])
        sky = text.reshape(-1, 3)
        again = np.flatnonzero((sky[1:] == sky[0]).all(-1))
        whole = np.append(0, row.group == 1).reshape(-1, 3)[:, 0]
        first = whole.argmax() if whole.any() else len(sky)
        assert not whole.any() or first - 1 in again


def test_the_two_of_an_induction_stand_at_no_fixed_distance() -> None:
    distances = set()
    for row in Induction(Settings(rows=64)).questions():
        text, again = np.append(row.ids, row.targets[-1]).tolist(), int(np.argmax(row.targets != -100))
        distances |= {d for d in range(32, 65) if text[again:] == text[again - d : again - d + 32]}
    assert distances <= set(range(32, 65))
    assert len(distances) > 20


# --- scores -------------------------------------------------------------------------------------------------------------


class Oracle(nn.Module):
    """Knows the rows it will be asked, and answers the share of them that it is told right."""

    def __init__(self, task: Any, wrong: int = 0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.rows = {row.ids.tobytes(): row for row in task.questions()}
        self.vocab_size, self.wrong = task.vocab_size, wrong

    def forward(self, input_ids: Tensor) -> Any:
        targets = np.stack([self.rows[ids.tobytes()].targets for ids in input_ids.numpy()]).clip(0)
        targets = torch.from_numpy((targets + self.wrong) % self.vocab_size)
        return SimpleNamespace(logits=nn.functional.one_hot(targets, self.vocab_size).float() * 50)


@pytest.mark.parametrize("name", TASKS)
def test_who_knows_the_answers_scores_all_and_who_knows_none_nothing(name: str) -> None:
    task = TASKS[name](FEW)
    score = task.score(Oracle(task))
    assert (score["accuracy"], score["loss"] < 1e-6) == (1.0, True)
    assert score["questions"] == sum((row.group != NOT_ASKED).sum() for row in task.questions())
    if name != "automata":  # where the next symbol may be right too
        assert task.score(Oracle(task, wrong=1))["accuracy"] <= (0.5 if name == "brackets" else 0.0)


class Blind(nn.Module):
    """Guesses without looking."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.weight, self.vocab_size = nn.Parameter(torch.zeros(1)), vocab_size
        self.generator = torch.Generator().manual_seed(0)

    def forward(self, input_ids: Tensor) -> Any:
        return SimpleNamespace(logits=torch.randn(*input_ids.shape, self.vocab_size, generator=self.generator))


@pytest.mark.parametrize("name", TASKS)
def test_a_guess_is_right_as_often_as_the_task_says(name: str) -> None:
    task = TASKS[name](Settings(rows=96))
    guessed = task.chance
    if name == "moons":  # a place of a moon is among its own, and the blind guess among all
        guessed /= task.moons
    if name in ("recall", "copying"):  # as an answer is of its own kind
        guessed *= (task.values if name == "recall" else task.symbols) / task.vocab_size
    if name == "automata":
        guessed *= task.symbols / task.vocab_size
    score = task.score(Blind(task.vocab_size))
    assert abs(score["accuracy"] - guessed) <= 4 * (guessed / score["questions"]) ** 0.5


def test_a_score_leaves_the_model_as_it_was() -> None:
    task = Induction(FEW)
    model = formers.build("gpt2", preset="nano", vocab_size=task.vocab_size).train()
    assert task.score(model)["accuracy"] < 0.2
    assert model.training


def test_brackets_are_scored_by_depth_and_moons_by_whether_the_sky_came_before() -> None:
    task = Brackets(FEW)
    assert {f"accuracy depth {d}" for d in range(1, 6)} <= task.score(Oracle(task)).keys()
    assert {"accuracy sky seen before 0", "accuracy sky seen before 1"} <= Moons(FEW).score(Oracle(Moons(FEW))).keys()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Settings(rows=0), "rows is 0"),
        (lambda: Induction(length=0), "length is 0"),
        (lambda: Induction(spread=-1), "spread is negative"),
        (lambda: Recall(pairs=65), "at most keys"),
        (lambda: Copying(longest=64), "do not fit"),
        (lambda: Moons(longest=4), "too few for 3 moons"),
        (lambda: Moons(times=11), "more than the longest"),
        (lambda: Brackets(kinds=0), "kinds is 0"),
        (lambda: Automata(most=3), "at least fewest"),
        (lambda: Automata(fewest=1), "at least 2 states"),
        (lambda: Automata(arcs=17), "at most symbols"),
    ],
)
def test_sizes_that_cannot_be_are_refused(make: Callable[[], Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make()
