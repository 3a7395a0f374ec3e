"""Every so manieth token looks up: what the others are given, what it costs, and that how the text was cut does not show."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from formers.errors import ConfigError
from formers.inspection.anatomy import cost
from formers.laws import certify
from formers.parts.masks import Mask
from formers.parts.piecewise import NUMBERS_AT_A_TIME
from formers.parts.positions import Place, Positions
from formers.parts.search import Asked, Exact, Nearest, Store
from formers.parts.taps import listen
from tests.laws.test_memory_defects import model as small
from tests.models.test_memorizing import EXACT, TEXT, memory_layer, model, text


@dataclass(frozen=True)
class AskedByEvery(Mask):
    """The slow twin: every query looks up, and all but one of `stride` find that nothing is shown to them."""

    stride: int

    def allows(self, q: Place, k: Place) -> Tensor:
        return (q.index % self.stride == 0) & (k.index >= 0)


def twin_of(made: Any, stride: int, **changes: Any) -> Any:
    twin = model(**changes)
    twin.load_state_dict(made.state_dict())
    layer = memory_layer(twin)
    layer.memory = replace(layer.memory, shows=layer.memory.shows & AskedByEvery(stride))
    return twin


def places(kind: str) -> Positions:
    """Of two rows: whole texts; padding before one and two documents in the other; rows that go on in step."""
    index = torch.arange(TEXT).expand(2, -1)
    if kind == "whole":
        return Positions.whole(TEXT)
    if kind == "aligned":
        return Positions(index + TEXT, torch.zeros_like(index), aligned=TEXT)
    second = torch.where(index[0] < 19, index[0], index[0] - 19)
    return Positions(
        torch.stack([index[0] - 4, second]).clamp(min=-1), torch.stack([index[0] * 0, (index[0] >= 19).long()])
    )


def loss_and_gradients(made: Any, positions: Positions) -> list[Tensor]:
    logits = made(text(), positions=positions).logits * positions.rows(2).present[..., None]
    return [logits.detach(), *torch.autograd.grad(logits.square().mean(), list(made.parameters()))]


@pytest.mark.parametrize(
    ("kind", "stride", "changes"),
    [("whole", 2, {"merge": "joint"}), ("ragged", 3, {"memory_stride": 2}), ("aligned", 7, {"num_kv_heads": 1})],
)
def test_it_is_a_memory_that_shows_nothing_to_the_others_forward_and_backward(
    kind: str, stride: int, changes: dict[str, Any]
) -> None:
    made, positions = model(memory_query_stride=stride, **changes), places(kind)
    twin = twin_of(made, stride, **changes)
    for found, wanted in zip(loss_and_gradients(made, positions), loss_and_gradients(twin, positions), strict=True):
        assert (found - wanted).abs().max() < EXACT
    assert (model(**changes)(text()).logits - made(text()).logits).abs().max() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("kind", ["whole", "ragged"])
def test_how_the_text_was_cut_does_not_show(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a call, some, one and none look up; in pieces, too, where neighbours are many."""
    made, positions = model(memory_query_stride=3, memory_size=11), places(kind)
    whole = made(text(), positions=positions).logits
    for budget in [NUMBERS_AT_A_TIME["cpu"], 64][kind == "whole" :]:
        monkeypatch.setitem(NUMBERS_AT_A_TIME, "cpu", budget)
        state, found, start = made.init_state(2, TEXT), [], 0
        for length in (7, 1, 1, 1, 17, 10):
            out = made(text()[:, start : start + length], positions=positions.slice(start, start + length), state=state)
            found.append(out.logits)
            state, start = out.state.commit(), start + length
        assert ((torch.cat(found, 1) - whole) * positions.rows(2).present[..., None]).abs().max() < EXACT


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Queries of one row that searches of a memory are given."""
    given, search = [], Exact.search

    def counting(self: Exact, asked: Asked, store: Store) -> Nearest:
        given.append(asked.q.shape[2])
        return search(self, asked, store)

    with monkeypatch.context() as patch:
        patch.setattr(Exact, "search", counting)
        yield given


@torch.no_grad()
@pytest.mark.parametrize("kind", ["whole", "aligned", "ragged"])
def test_search_receives_a_quarter_of_the_queries(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ids, positions, received = text(2, TEXT), places(kind), {}
    for stride in (1, 4):
        made = model(memory_query_stride=stride)
        state = made(ids, state=made.init_state(2, 2 * TEXT)).state.commit()
        with counted(monkeypatch) as given:
            made(ids, positions=positions, state=state)
        received[stride] = sum(given) / 2  # once in the memory, once in the call
    assert received == {1: TEXT, 4: -(-TEXT // 4)}


@torch.no_grad()
def test_a_step_that_does_not_look_up_searches_nothing_and_still_remembers(monkeypatch: pytest.MonkeyPatch) -> None:
    made, ids = model(memory_query_stride=4), text(1)
    state = made.init_state(1, TEXT)
    with counted(monkeypatch) as given:
        for step in range(12):
            state = made(ids[:, step : step + 1], state=state).state.commit()
    assert given == [1, 1] * 3
    assert state.nodes[1][0].memory.held.tolist() == [12]


@torch.no_grad()
def test_taps_tell_of_every_token() -> None:
    made, ids = model(memory_query_stride=4, neighbours=3), text()
    names = [f"trunk.blocks.1.attention.{tap}" for tap in ("found", "memory_pattern", "remembered")]
    with listen(made, *names) as seen:
        made(ids)
    found, pattern, remembered = (seen[name][0] for name in names)
    assert found.shape == pattern.shape == (2, 2, TEXT, 3)
    asks = torch.arange(TEXT) % 4 == 0
    assert (found[:, :, ~asks] == -1).all()
    assert (found[:, :, asks][:, :, 2:] >= 0).all()
    assert not pattern[:, :, ~asks].any()
    assert not remembered[:, :, ~asks].any()


def test_what_a_look_up_costs_a_token_is_a_quarter() -> None:
    every, fourth = (cost(model(memory_query_stride=stride)).memories[0] for stride in (1, 4))
    assert every.look_up_per_token // 4 == fourth.look_up_per_token
    assert (every.query_stride, fourth.query_stride) == (1, 4)


def test_the_laws_hold_that_the_tests_above_do_not_try() -> None:
    laws = ["documents stay apart", "a row that is reset begins anew"]
    report = certify(small(memory_query_stride=2), laws=laws, length=11)
    assert report.ok, report.failed


def test_a_stride_below_one_is_refused() -> None:
    with pytest.raises(ConfigError, match="memory_query_stride is 0, wanted at least 1"):
        model(memory_query_stride=0)
