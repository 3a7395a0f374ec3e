"""Recall a piece at a time: the same as all at once, within bounds, and only where nobody learns or listens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from formers.inspection.footprint import Ledger
from formers.parts import piecewise
from formers.parts.attention import KeyValueWindow, Mix, Project, Score, scale_of
from formers.parts.looking import Found, look_up
from formers.parts.masks import Causal, EarlierSegment, SameDocument, Segments
from formers.parts.memory import Memory, recall
from formers.parts.piecewise import recall_together
from formers.parts.positions import Positions
from formers.parts.recollection import MERGES, MemoryAttention, MemorySettings, UnitVectors
from formers.parts.search import Asked
from formers.parts.taps import listen

EXACT = 1e-12
"""Two orders of summation in float64."""

D_MODEL, HEADS, D_HEAD, SEGMENT, TEXT, ENTRIES = 15, 4, 3, 5, 23, 100


def layer(merge: str, neighbours: int = ENTRIES, **settings: Any) -> MemoryAttention:
    """Grouped heads, every weight random, float64."""
    torch.manual_seed(3)
    made = MemoryAttention(
        Project(D_MODEL, HEADS, D_HEAD, num_kv_heads=2, bias=False),
        Score(Causal() & Segments(SEGMENT, 0) & SameDocument(), scale_of(D_HEAD)),
        Mix(HEADS, D_HEAD, D_MODEL, bias=False),
        remember=KeyValueWindow(2, D_HEAD, SEGMENT),
        memory=MemorySettings(ENTRIES, neighbours, EarlierSegment(SEGMENT) & SameDocument(), **settings),
        merge=MERGES[merge](HEADS),
        turn_memory=UnitVectors(HEADS, 2.0),
    ).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_()
    return made.eval()


def packed() -> Positions:
    """Three rows: one document, two of them, and one that is padded on the left."""
    index = torch.arange(TEXT)[None].repeat(3, 1)
    document = torch.zeros_like(index)
    document[1, 9:], index[1, 9:] = 1, torch.arange(TEXT - 9)
    index[2] = (index[2] - 4).clamp(min=-1)
    return Positions(index, document)


@torch.no_grad()
def read(made: MemoryAttention, cuts: list[int]) -> Tensor:
    """Three rows of one text in calls of these lengths, each going on from the state of the last."""
    x = torch.randn(3, TEXT, D_MODEL, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    node, found, start = made.init_state(3, 10**6, dtype=x.dtype), [], 0
    for length in cuts:
        y, staged = made(x[:, start : start + length], packed().slice(start, start + length), node)
        node, start = staged.commit(), start + length
        found.append(y)
    return torch.cat(found, 1)


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Asked, Found]]:
    """What pieces asked and found."""
    seen: list[tuple[Asked, Found]] = []

    def watch(asked: Asked, *stores: Any) -> Any:
        found = look_up(asked, *stores)
        seen.append((asked, found[0]))
        return found

    monkeypatch.setattr(piecewise, "look_up", watch)
    return seen


Seen = list[tuple[Asked, Found]]


def at_most(numbers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(piecewise.NUMBERS_AT_A_TIME, "cpu", numbers)


@pytest.mark.parametrize(("neighbours", "storage"), [(3, None), (ENTRIES, None), (3, "int8")])
@pytest.mark.parametrize("cuts", [[TEXT], [7, 11, 5]], ids=len)
@pytest.mark.parametrize(("merge", "scope"), [("gate", "row"), ("joint", "row"), ("joint", "batch")])
def test_pieces_give_what_all_at_once_gives(
    merge: str,
    scope: str,
    cuts: list[int],
    neighbours: int,
    storage: str | None,
    watched: Seen,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = layer(merge, neighbours, storage=storage, scope=scope)
    whole = read(made, cuts)
    assert not watched
    at_most(70, monkeypatch)
    pieces = read(made, cuts)
    assert len(watched) > 12
    assert (pieces - whole).abs().max() < EXACT


def test_a_piece_holds_no_more_than_it_may_and_never_less_than_a_query(
    watched: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_most(700, monkeypatch)
    read(layer("gate"), [TEXT])
    sizes = {(found.keys.numel(), asked.q.shape[2]) for asked, found in watched}
    assert all(numbers <= 700 or queries == 1 for numbers, queries in sizes)
    assert any(numbers > 350 and queries > 1 for numbers, queries in sizes)


def test_neighbours_beyond_what_is_stored_are_all_that_is_stored(
    watched: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was read before and what this call brings, of each row by itself: the third has 4 tokens less."""
    at_most(300, monkeypatch)
    read(layer("gate", neighbours=100_000), [11, TEXT - 11])
    wanted = {0: {11, TEXT}, 1: {11, TEXT}, 2: {11 - 4, TEXT - 4}}
    for row, most in wanted.items():
        asked_for = {asked.k for asked, _ in watched if asked.store_rows() == [row]}
        assert asked_for == most


@pytest.mark.parametrize("taps", ["found", "memory_pattern"])
def test_who_learns_or_listens_sees_each_entry(taps: str, watched: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    at_most(1, monkeypatch)
    made, x = layer("gate"), torch.randn(2, TEXT, D_MODEL, dtype=torch.float64)
    with torch.no_grad(), listen(made, taps) as seen:
        made(x, Positions.whole(TEXT))
    assert seen[taps][0].shape == (2, HEADS, TEXT, ENTRIES)
    made(x, Positions.whole(TEXT))
    with torch.no_grad():
        made.train()(x, Positions.whole(TEXT))
        assert not watched
        made.eval()(x, Positions.whole(TEXT))
    assert watched


def test_a_memory_that_is_only_read_is_not_written() -> None:
    memory = Memory.empty(1, 1, 8, D_HEAD, D_HEAD)
    q, k, v = torch.randn(3, 1, 1, 4, D_HEAD)
    ask = {"mask": EarlierSegment(2), "most": 5}
    together, staged = recall_together(memory, q, k, v, Positions.whole(4), **ask)
    assert staged is not None
    assert bool(together.present[..., 2:].all())
    assert not together.present[..., :2].any()
    memory.read_only = True
    assert recall_together(memory, q, k, v, Positions.whole(4), **ask)[1] is None
    assert recall_together(None, q, k, v, Positions.whole(4), **ask)[1] is None


def test_what_is_held_at_once_is_bounded_however_many_neighbours_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of 1,024 entries of 2 heads and 16 numbers for 256 queries: 34 MB of keys, and as many of values."""
    at_most(1 << 18, monkeypatch)
    memory = Memory.empty(1, 2, 1024, 16, 16).add(*torch.randn(2, 1, 2, 1024, 16), Positions.whole(1024))
    q, k, v = torch.randn(3, 1, 2, 256, 16)
    asked = (memory, q, k, v, Positions.offset(1024, 256))
    mask = EarlierSegment(256)
    assert most_held(lambda: recall_together(*asked, mask=mask, most=100_000)) < 32 * (1 << 18)
    assert most_held(lambda: recall(*asked, mask=mask, most=1024)) > 32 * (1 << 18) * 10


def most_held(run: Callable[[], Any]) -> int:
    """Bytes that were alive at once."""
    with torch.no_grad(), Ledger({}) as ledger:
        run()
    return ledger.most
