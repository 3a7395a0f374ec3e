"""Losses and ranks of tokens against a count one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import formers
from formers.experiments.ranks import _starts, _windows, predicted, read_windows
from formers.experiments.reading import read

VOCAB = 13


def texts() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, VOCAB, size).astype(np.int64) for size in (31, 7, 2, 150)]


def gpt2(**changes: Any) -> Any:
    """Every parameter random and large, and dropout that would show."""
    sizes = {"vocab_size": VOCAB, "d_model": 12, "num_layers": 2, "num_heads": 2, "max_length": 160, "dropout": 0.5}
    model = formers.build("gpt2", **{**sizes, **changes}).double()
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.4
    return model.train()


def brute(model: Any, ids: np.ndarray) -> tuple[float, int, int]:
    """Loss and hits, one token at a time, by sorting all logits."""
    loss, first, five = 0.0, 0, 0
    model.eval()
    for at in range(1, len(ids)):
        with torch.no_grad():
            logits = model(torch.from_numpy(ids[None, :at])).logits[0, -1]
        order = logits.argsort(descending=True).tolist()
        loss -= float(logits.log_softmax(0)[ids[at]])
        first += order[0] == ids[at]
        five += ids[at] in order[:5]
    model.train()
    return loss, first, five


def test_top_1_and_top_5_equal_a_count_one_by_one_padding_and_dropout_aside() -> None:
    model, several = gpt2(), texts()
    for rows in (read(model, several), read_windows(model, several, 150)):
        for row, ids in zip(rows, several, strict=True):
            loss, first, five = brute(model, ids)
            assert (row["right"], row["top5"]) == (first, five)
            assert row["loss"] == pytest.approx(loss, abs=1e-9)
            assert sum(n for _, _, n in row["by_position"]) == row["tokens"] == len(ids) - 1
    assert model.training  # modes are put back
    assert 0 < rows[3]["right"] < rows[3]["top5"] < rows[3]["tokens"]


def test_equal_logits_have_ranks_of_their_own_and_a_model_that_knows_nothing_is_right_by_chance() -> None:
    """Where all logits are equal, the likeliest is token 0: a rank that counts larger ones alone would be 0 for every one."""
    model = gpt2()
    for parameter in model.parameters():
        parameter.data.zero_()
    ids = np.arange(VOCAB, dtype=np.int64)
    row = read_windows(model, [ids], 32)[0]
    assert (row["right"], row["top5"]) == (0, 4)  # of tokens 1 to 12 the first four have fewer than five before them


@pytest.mark.parametrize("length", [1, 2, 5, 8, 30, 149, 200])
def test_windows_score_every_token_once(length: int) -> None:
    several = texts()
    seen: list[set[int]] = [set() for _ in several]
    for text, ids in enumerate(several):
        for start in _starts(len(ids) - 1, length):
            read_ids, wanted, index = _windows(several, [(text, start)], length)
            for at in np.flatnonzero(wanted[0] != -100):
                place = int(index[0, at])
                assert place not in seen[text]
                seen[text].add(place)
                assert (read_ids[0, at], wanted[0, at]) == (ids[place], ids[place + 1])
                assert place < length or at >= length // 2  # half a window before it
    assert [len(places) for places in seen] == [len(ids) - 1 for ids in several]


def test_true_and_predicted_tokens_are_those_of_the_forward() -> None:
    model, ids = gpt2(), texts()[0]
    likeliest, chance, rank = predicted(model, ids)
    with torch.no_grad():
        logits = model.eval()(torch.from_numpy(ids[None])).logits[0, :-1]
    assert likeliest.tolist() == logits.argmax(-1).tolist()
    assert ((rank == 0) == (likeliest == ids[1:])).all()
    assert chance[3] == pytest.approx(float(logits[3].softmax(0)[ids[4]]))
