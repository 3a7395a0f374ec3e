"""Defects seeded in what a mosaic carries from token to token and from call to call: some law must catch each."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import formers
from formers.laws import certify
from formers.parts import mosaic
from formers.parts.leaky import Last, StagedLast, Times

LAWS = [
    "step by step equals whole",
    "documents stay apart",
    "a row that is reset begins anew",
]
Patch = pytest.MonkeyPatch


def of_times(patch: Patch, change: Callable[[Times], Times]) -> None:
    made = Times.of
    patch.setattr(Times, "of", lambda *given: change(made(*given)))


def averages_run_on_across_documents(patch: Patch) -> None:
    def run_on(times: Times) -> Times:
        if times.apart is None:
            return times
        return dataclasses.replace(times, apart=dataclasses.replace(times.apart, text=times.apart.text.clamp(max=1)))

    of_times(patch, run_on)


def of_commit(patch: Patch, change: Callable[[Last], Last]) -> None:
    made = StagedLast.commit
    patch.setattr(StagedLast, "commit", lambda self: change(made(self)))


def the_average_is_forgotten_between_calls(patch: Patch) -> None:
    of_commit(patch, lambda last: dataclasses.replace(last, average=torch.zeros_like(last.average)))


def half_a_pair_is_forgotten_between_calls(patch: Patch) -> None:
    of_commit(patch, lambda last: dataclasses.replace(last, feature=torch.zeros_like(last.feature)))


def the_average_does_not_fade_between_calls(patch: Patch) -> None:
    of_commit(patch, lambda last: dataclasses.replace(last, index=last.index + 1))


def a_reset_row_keeps_its_pairs(patch: Patch) -> None:
    """The averages alone could not keep theirs: an index that falls begins a document."""

    def reset(self: mosaic.PairNode, rows: Tensor) -> mosaic.PairNode:
        return mosaic.PairNode(dataclasses.replace(self.pairs, start=None, most=None), self.half.reset(rows))

    patch.setattr(mosaic.PairNode, "reset", reset)


def decoding_peeks_at_the_token_itself(patch: Patch) -> None:
    """Where one token is read, its own value stands for the value of the token before it."""
    of = mosaic.Values.of

    def without(self: Any, now: Tensor, after: Tensor) -> Tensor:
        return of(self, now, now if after.shape[2] == 1 else after)

    patch.setattr(mosaic.Values, "of", without)


DEFECTS: dict[Callable[[Patch], None], set[str]] = {
    averages_run_on_across_documents: {"documents stay apart"},
    the_average_is_forgotten_between_calls: {"step by step equals whole"},
    half_a_pair_is_forgotten_between_calls: {"step by step equals whole"},
    the_average_does_not_fade_between_calls: {"step by step equals whole"},
    a_reset_row_keeps_its_pairs: {"a row that is reset begins anew"},
    decoding_peeks_at_the_token_itself: {"step by step equals whole"},
}


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda defect: defect.__name__)
def test_a_law_catches_it(defect: Callable[[Patch], None], monkeypatch: Patch) -> None:
    model = formers.build("memory_mosaics", vocab_size=97, d_model=24, num_layers=2, num_heads=3, memory_size=11)
    defect(monkeypatch)
    failed = {verdict.name for verdict in certify(model, laws=LAWS, length=13).failed}
    print(defect.__name__, sorted(failed))
    assert DEFECTS[defect] <= failed
