"""The duplication task: its texts, ways to attend with one set of weights, and the whole of it in small."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from formers.cli.main import main
from formers.data.batch import NO_TARGET
from formers.errors import ConfigError
from formers.experiments import duplication
from formers.experiments.duplication import ASKED, Doubles, DuplicationSettings, config, verdict
from formers.models.reformer import Reformer

SMALL = DuplicationSettings(
    word=7, symbols=5, chunk=4, d_model=16, num_heads=2, trained=("full", "2"), steps=3, batch_size=4, texts=8
)


def test_a_text_says_its_word_twice_and_asks_for_the_second_alone() -> None:
    batch = Doubles(SMALL, 0).batch(3)
    ids, targets = batch.input_ids, batch.targets
    assert ids.shape == (4, 16)
    assert (ids[:, :8] == ids[:, 8:]).all()
    assert (ids[:, [0, 8]] == 0).all()
    assert ids[:, 1:8].min() >= 1
    assert ids.max() <= 5
    assert (targets[:, 8:15] == ids[:, 9:]).all()
    assert (targets[:, :8] == NO_TARGET).all()
    assert (targets[:, 15] == NO_TARGET).all()


def test_a_batch_depends_on_its_number_and_seed_alone() -> None:
    one, again, other = Doubles(SMALL, 0).batch(3), Doubles(SMALL, 0).batch(3), Doubles(SMALL, 1).batch(3)
    assert (one.input_ids == again.input_ids).all()
    assert (one.input_ids != other.input_ids).any()


@torch.no_grad()
def test_one_set_of_weights_attends_in_every_way_and_full_is_without_hashing() -> None:
    model = Reformer(config(SMALL, "2"), seed=0)
    ids = torch.from_numpy(Doubles(SMALL, 0).batch(0).input_ids)
    for way in ASKED:
        for seed in (0, 1):
            asked = Reformer(config(SMALL, way, hash_seed=seed)).eval()
            asked.load_state_dict(model.state_dict())
            logits = asked(ids).logits
            assert logits.shape == (4, 16, 6)
            if way == "full":
                first = logits if seed == 0 else first
                assert torch.equal(logits, first)


@pytest.mark.parametrize(
    ("shares", "word"),
    [
        ((0.80, 0.90, 0.97, 0.99), "reproduced"),
        ((0.30, 0.40, 0.50, 0.60), "smaller effect"),
        ((0.90, 0.80, 0.70, 0.99), "not reproduced"),
        ((0.07, 0.07, 0.07, 0.07), "not reproduced"),
    ],
)
def test_a_verdict_needs_the_task_solved_and_more_rounds_to_be_better(shares: tuple[float, ...], word: str) -> None:
    hashed = dict(zip(("1", "2", "4", "8"), shares, strict=True)) | {"full": 0.1}
    result = {"chance": 1 / 15, "accuracy": {"full": dict.fromkeys(ASKED, 1.0), "4": hashed}}
    assert verdict(result).word == word


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"trained": ("3",)}, "trained has '3'"), ({"trained": ()}, "nothing"), ({"word": 0}, "words of 0")],
)
def test_settings_that_do_not_fit_are_refused(changes: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        DuplicationSettings(**changes)


def test_all_of_it_in_small_and_the_same_command_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = duplication.run(tmp_path / "out", SMALL, progress=False)
    assert first is not None
    assert list(first["accuracy"]) == ["full", "2"]
    assert all(0 <= share <= 1 for shares in first["accuracy"].values() for share in shares.values())
    monkeypatch.setattr(duplication, "train", lambda *a, **k: pytest.fail("what is finished was trained again"))
    assert duplication.run(tmp_path / "out", SMALL, progress=False) == first


def test_the_command_writes_a_table_data_and_a_plot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["experiment", "duplication", "--word", "7", "--symbols", "5", "--steps", "2", "--texts", "8"]
    assert main([*command, "--trained", "2", "--out", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    assert "2 rounds" in shown
    assert "the duplication task" in shown
    stored = json.loads((tmp_path / "out" / "duplication.json").read_text())
    assert np.isclose(stored["chance"], 1 / 5)
    assert stored["verdict"]["word"] in ("reproduced", "smaller effect", "not reproduced")
    assert (tmp_path / "out" / "duplication.svg").read_text().startswith("<svg")
