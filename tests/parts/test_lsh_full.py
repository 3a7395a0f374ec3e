"""Hashed attention that does not hash: short texts are seen whole by torch's kernels, and local heads sort by place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from formers.parts import hashing
from formers.parts.attention import Mix
from formers.parts.chunked import Window
from formers.parts.hashing import Hashing
from formers.parts.lsh import RULES, HashedAttention, SharedProject, unit
from formers.parts.positions import Positions
from formers.parts.taps import listen
from tests.parts.lsh_oracle import stepwise

EQUAL = 1e-9
"""Of float64, forward and backward, whichever kernel adds up."""
HEADS, WIDTH, D_HEAD = 3, 7, 5


def layer(
    *, rules: str = "paper", rounds: int = 2, num_buckets: int | None = 4, causal: bool = True, chunk: int = 4,
    **settings: Any,
) -> HashedAttention:  # fmt: skip
    torch.manual_seed(1)
    made = HashedAttention(
        SharedProject(WIDTH, HEADS, D_HEAD),
        Mix(HEADS, D_HEAD, WIDTH, bias=False),
        window=Window(chunk, 1, 0, chunk, causal=causal),
        hashing=Hashing(rounds, num_buckets, 0, chunk, 4096),
        rules=RULES[rules],
        eps=1e-6,
        **settings,
    )
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, 0, 0.6)
    return made.double()


def text(n: int, *, batch: int = 2, seed: int = 0) -> Tensor:
    return torch.randn(batch, n, WIDTH, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def with_gradients(made: HashedAttention, x: Tensor, positions: Positions, *taps: str) -> list[Tensor]:
    x = x.clone().requires_grad_()
    if taps:
        with listen(made, *taps):
            y, _ = made(x, positions)
    else:
        y, _ = made(x, positions)
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(9), dtype=y.dtype)
    return [y.detach(), *torch.autograd.grad((y * weights).sum(), [x, *made.parameters()])]


def gap(found: list[Tensor], wanted: list[Tensor]) -> float:
    return max(float((f - w).detach().abs().max()) for f, w in zip(found, wanted, strict=True))


@contextmanager
def nothing_is_drawn() -> Iterator[None]:
    """Rotations raise."""

    def refuse(*_: Any) -> Tensor:
        raise AssertionError("a rotation was drawn")

    before, hashing.rotations = hashing.rotations, refuse
    try:
        yield
    finally:
        hashing.rotations = before


# --- short texts are seen whole -----------------------------------------------------------------------------------------


@st.composite
def rows(draw: st.DrawFn) -> Positions:
    """Rows of documents one after another with padding anywhere, whole rows, and rows that begin elsewhere."""
    n = draw(st.integers(1, 19))
    kind = draw(st.sampled_from(["whole", "offset", "ragged"]))
    if kind != "ragged":
        return Positions.whole(n) if kind == "whole" else Positions.offset(3, n)
    index, document = torch.full((2, n), -1), torch.zeros(2, n, dtype=torch.long)
    for row in range(2):
        place, number, begins = 0, 0, draw(st.integers(0, 2))
        for t in range(n):
            if draw(st.integers(0, 5)) == 0:
                number, place, begins = number + 1, 0, draw(st.integers(0, 2))
            document[row, t] = number
            if draw(st.integers(0, 3)):
                index[row, t], place = begins + place, place + 1
    return Positions(index, document if draw(st.booleans()) else None)


def distinct(positions: Positions) -> bool:
    """Whether no two tokens of a document claim one index, as without documents they may."""
    if positions.document is not None or positions.start is not None:
        return True
    return all(len(set(row)) == len(row) for row in ([i for i in r if i >= 0] for r in positions.index.tolist()))


@settings(max_examples=150, deadline=None)
@given(rows(), st.sampled_from(list(RULES)), st.booleans(), st.integers(1, 3))
def test_below_the_threshold_it_is_one_bucket_in_one_chunk(
    positions: Positions, rules: str, causal: bool, rounds: int
) -> None:
    if not distinct(positions):
        positions = Positions(positions.index, torch.arange(positions.length).expand(2, -1))
    n = positions.length
    short = layer(rules=rules, rounds=rounds, causal=causal, full_below=n + 1)
    one = layer(rules=rules, rounds=rounds, causal=causal, num_buckets=1, chunk=n)
    with nothing_is_drawn():
        found = with_gradients(short, text(n), positions)
    assert gap(found, with_gradients(one, text(n), positions)) <= EQUAL
    assert gap(found, with_gradients(one, text(n), positions, "pattern")) <= EQUAL
    assert gap(found, with_gradients(short, text(n), positions, "pattern")) <= EQUAL


@pytest.mark.parametrize("rules", RULES)
def test_from_the_threshold_on_it_hashes(rules: str) -> None:
    positions, x = Positions.whole(24), text(24)
    hashed = with_gradients(layer(rules=rules), x, positions)
    assert gap(with_gradients(layer(rules=rules, full_below=24), x, positions), hashed) == 0.0
    assert gap(with_gradients(layer(rules=rules, full_below=25), x, positions), hashed) > 1e-3


def test_its_buckets_are_one_and_its_pattern_is_full() -> None:
    made, n = layer(full_below=30), 21
    with nothing_is_drawn(), listen(made, "buckets", "pattern") as seen:
        made(text(n), Positions.whole(n))
    assert seen["buckets"][0].shape == (2, HEADS, 1, n)
    assert not seen["buckets"][0].any()
    visible = torch.ones(n, n).tril(-1).bool()
    visible[0, 0] = True
    assert torch.equal(seen["pattern"][0] > 0, visible.expand(2, HEADS, -1, -1))


@pytest.mark.parametrize("causal", [True, False])
def test_dropout_falls_on_as_many_weights_those_of_lonely_tokens_included(causal: bool) -> None:
    made, x = layer(causal=causal, full_below=2, dropout=0.5).train(), text(1, batch=400)
    torch.manual_seed(0)
    with torch.no_grad(), listen(made, "heads") as seen:
        made(x, Positions.whole(1))
        _, v = made.project(x)
    share = (seen["heads"][0] == 0).all(-1).double().mean()
    assert 0.4 < share < 0.6
    kept = seen["heads"][0].abs().sum(-1) > 0
    assert torch.allclose(seen["heads"][0][kept], 2 * v[kept], rtol=0, atol=EQUAL)


def test_a_row_that_is_all_padding_gives_zeros_and_finite_gradients() -> None:
    index = torch.stack([torch.arange(11), torch.full((11,), -1)])
    found = with_gradients(layer(full_below=12), text(11), Positions(index))
    assert all(t.isfinite().all() for t in found)
    assert not found[0][1].any()
    assert not found[1][1].any()


@torch.no_grad()
def test_below_the_threshold_the_future_shows_nowhere() -> None:
    made, x, other = layer(full_below=25), text(24), text(24, seed=5)
    for t in range(1, 24):
        changed = torch.cat([x[:, :t], other[:, t:]], 1)
        found, wanted = (made(one, Positions.whole(24))[0][:, :t] for one in (changed, x))
        assert torch.equal(found, wanted)


# --- step by step -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("room", [19, 40])
def test_below_the_threshold_steps_are_the_whole(rules: str, room: int) -> None:
    made, x = layer(rules=rules, full_below=20), text(19)
    with torch.no_grad():
        whole, _ = made(x, Positions.whole(19))
    for cuts in ([1] * 19, [5, 1, 7, 6]):
        assert float((stepwise(made, x, cuts, room) - whole).abs().max()) <= EQUAL


@torch.no_grad()
def test_a_state_with_no_room_for_a_text_that_is_hashed_sorts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("tokens were sorted")

    monkeypatch.setattr(HashedAttention, "sorted_so_far", refuse)
    stepwise(layer(full_below=20), text(9), [3, 1, 5], 19)
    with pytest.raises(AssertionError, match="sorted"):
        stepwise(layer(full_below=20), text(9), [3, 1, 5], 20)


@pytest.mark.parametrize("rules", RULES)
def test_a_text_that_grows_past_the_threshold_is_hashed_from_then_on(rules: str) -> None:
    made, x, n = layer(rules=rules, full_below=16), text(27), 27
    stepped = stepwise(made, x, [10, *[1] * (n - 10)], 27)
    with torch.no_grad():
        so_far = torch.cat([made(x[:, :t], Positions.whole(t))[0][:, -1:] for t in range(11, n + 1)], 1)
        whole, _ = made(x, Positions.whole(n))
    assert float((stepped[:, 10:] - so_far).abs().max()) <= EQUAL
    assert float((stepped - whole)[:, :10].abs().max()) > 1e-3


@torch.no_grad()
def test_in_a_step_each_row_goes_by_what_it_has_read_itself() -> None:
    made, x = layer(full_below=10), text(13)
    index = torch.stack([torch.arange(12), (torch.arange(12) - 6).clamp(min=-1)])
    node = made.init_state(2, 20, dtype=x.dtype)
    _, staged = made(x[:, :12], Positions(index), node)
    found, _ = made(x[:, 12:], Positions(torch.tensor([[12], [6]])), staged.commit())
    long, _ = made(x[:1], Positions.whole(13))
    short, _ = made(x[1:, 6:], Positions.whole(7))
    assert float((found[0] - long[0, -1:]).abs().max()) <= EQUAL
    assert float((found[1] - short[0, -1:]).abs().max()) <= EQUAL


# --- local heads --------------------------------------------------------------------------------------------------------


@torch.no_grad()
def banded(made: HashedAttention, x: Tensor, chunk: int) -> Tensor:
    """Heads of causal attention to the own chunk and the one before, by place, of shared queries and keys."""
    q, v = (t.transpose(1, 2) for t in made.project(x))
    scores = (q @ unit(q, 1e-6).transpose(-1, -2)).masked_fill(torch.eye(x.shape[1], dtype=torch.bool), -1e5)
    t = torch.arange(x.shape[1])
    behind = t[:, None] // chunk - t // chunk
    seen = (behind >= 0) & (behind <= 1) & (t <= t[:, None])
    return (scores.masked_fill(~seen, -torch.inf).softmax(-1) @ v).transpose(1, 2)


@torch.no_grad()
def heads_of(made: HashedAttention, x: Tensor) -> Tensor:
    with listen(made, "heads") as seen:
        made(x, Positions.whole(x.shape[1]))
    return seen["heads"][0]


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("n", [3, 16, 23])
def test_local_heads_see_their_chunk_and_the_one_before_and_the_others_hash(rules: str, n: int) -> None:
    x, made = text(n), layer(rules=rules, rounds=3, local_heads=2)
    found = heads_of(made, x)
    assert float((found[:, :, :2] - banded(made, x, 4)[:, :, :2]).abs().max()) <= EQUAL
    assert torch.equal(found[:, :, 2], heads_of(layer(rules=rules, rounds=3), x)[:, :, 2])


@torch.no_grad()
@pytest.mark.parametrize("rules", RULES)
def test_what_local_heads_see_is_no_matter_of_what_comes_later(rules: str) -> None:
    made, x = layer(rules=rules, local_heads=HEADS), text(23)
    whole, _ = made(x, Positions.whole(23))
    for cuts in ([1] * 23, [9, 1, 13]):
        assert float((stepwise(made, x, cuts, 30) - whole).abs().max()) <= EQUAL


@torch.no_grad()
def test_padding_takes_no_place_among_what_local_heads_sort() -> None:
    made, x = layer(local_heads=HEADS), text(20, batch=1)
    alone, _ = made(x[:, 5:], Positions.whole(15))
    padded, _ = made(x, Positions((torch.arange(20) - 5).clamp(min=-1)[None]))
    assert float((padded[:, 5:] - alone).abs().max()) <= EQUAL
