"""One-layer induction: contestants of one size, the whole of it in small, and what the verdict needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from formers.cli import experiment_induction
from formers.errors import ConfigError
from formers.experiments import induction
from formers.experiments.induction import MOSAIC, ONE, TWO, InductionSettings, Rehearsal, configs, verdict
from formers.tasks.synthetic import Induction, Settings

TINY = InductionSettings(seeds=2, steps=2, rows=2, asked=3, d_model=16, num_heads=2)


@pytest.mark.parametrize("settings", [TINY, InductionSettings()])
def test_contestants_have_as_many_parameters_within_a_hundredth(settings: InductionSettings) -> None:
    counts = [induction._parameters(kind, sizes) for kind, sizes in configs(settings).values()]
    assert max(counts) <= 1.01 * min(counts)
    assert [sizes["num_layers"] for _, sizes in configs(settings).values()] == [1, 1, 2]


def test_the_whole_of_it_in_small_and_what_is_done_is_not_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = induction.run(tmp_path, TINY, progress=False)
    assert result is not None
    assert {name: len(scores) for name, scores in result["scores"].items()} == {MOSAIC: 2, ONE: 2, TWO: 2}
    monkeypatch.setattr(induction, "train", None)
    assert induction.run(tmp_path, TINY, progress=False) == result


def made(mosaic: float, one: float, two: float) -> dict[str, Any]:
    shares = {MOSAIC: mosaic, ONE: one, TWO: two}
    return {"scores": {name: [{"accuracy": share}, {"accuracy": share}] for name, share in shares.items()}}


@pytest.mark.parametrize(
    ("shares", "word"),
    [
        ((0.99, 0.03, 0.98), "reproduced"),
        ((0.99, 0.03, 0.5), "smaller effect"),
        ((0.99, 0.2, 0.99), "smaller effect"),
        ((0.99, 0.9, 0.99), "not reproduced"),
        ((0.05, 0.03, 0.99), "not reproduced"),
    ],
)
def test_a_verdict_needs_all_three(shares: tuple[float, float, float], word: str) -> None:
    assert verdict(made(*shares)).word == word


def test_what_is_rehearsed_comes_again_and_again_and_depends_on_its_number_alone() -> None:
    view = Rehearsal(Induction(Settings(batch_size=400, seed=1)), shortest=4)
    batch = view.batch(3)
    assert np.array_equal(batch.input_ids, view.batch(3).input_ids)
    assert not np.array_equal(batch.input_ids, view.batch(4).input_ids)
    lengths = set()
    assert (batch.targets[::4, :64] == -100).all()  # rows of the task, which ask for the last 31 tokens
    assert (batch.targets[::4, 64:] != -100).all()
    for ids, targets in zip(batch.input_ids[1::4], batch.targets[1::4], strict=True):
        length = int(np.argmax(targets != -100))
        lengths.add(length)
        assert (ids[length:] == ids[:-length]).all()
        assert (targets[length:-1] == ids[length + 1 :]).all()
        assert (targets[:length] == -100).all()
    assert {4, 32} <= lengths <= set(range(4, 33))


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"seeds": 0}, "seeds is 0"), ({"d_model": 18}, "multiple of 4"), ({"shortest": 33}, "at most 32")],
)
def test_sizes_that_cannot_be_are_refused(changes: dict[str, int], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        InductionSettings(**changes)


def test_the_command_prints_a_table_and_writes_the_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = {name: [{"accuracy": 0.5, "loss": 1.25}] for name in (MOSAIC, ONE, TWO)}
    result = {"scores": scores, "parameters": dict.fromkeys(scores, 53_000), "settings": {"seeds": 1}}
    monkeypatch.setattr(induction, "run", lambda *_, **__: result)
    tmp_path.joinpath("out").mkdir()
    assert experiment_induction.main(["--out", str(tmp_path / "out"), "--seeds", "1"]) == 0
    printed = capsys.readouterr().out
    assert all(word in printed for word in (MOSAIC, "50.0 %", "53,000", "1.25"))
    assert (tmp_path / "out" / "induction.json").is_file()
