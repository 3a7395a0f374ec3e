"""The runner in blocks equals the dense twin, forward and backward, whatever the mask, the padding and the global tokens."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from formers.errors import ConfigError
from formers.parts.attend import ByDistance, Case, attend, choose, dense, run_blocks
from formers.parts.blocks import refusal
from formers.parts.extent import goes_by_distance, keeps_documents_apart, reach, step
from formers.parts.masks import (
    And,
    ByHead,
    Causal,
    Dilated,
    Everything,
    Fixed,
    GlobalTokens,
    Mask,
    SameDocument,
    Segments,
    Strided,
    Window,
)
from formers.parts.positions import Positions
from formers.parts.terms import ALiBi
from tests.parts.test_attend import assert_equal_runs, outputs_and_gradients, tensors
from tests.parts.test_masks import masks, pairs

size = st.integers(1, 9)
plain = st.one_of(
    size.map(Window),
    st.tuples(size, st.integers(2, 4)).map(lambda t: Window((t[0] - 1) * t[1] + 1) & Dilated(t[1])),
    size.map(Dilated),
    size.map(Strided),
    st.tuples(size, st.integers(1, 2)).map(lambda t: Fixed(max(t), t[1])),
    st.just(Everything()),
)


LAYOUTS = ("whole", "offset", "right", "left", "apart", "packed")


@dataclass(frozen=True)
class Setting:
    """What a case is made of. Tensors are made within the test: shape checks must not run while hypothesis draws."""

    mask: Mask
    causal: bool
    by_head: bool
    heads: tuple[int, int]
    batch: int
    length: int
    layout: str
    share_global: float | None
    queries_too: bool
    seed: int

    def case(self) -> Case:
        heads, groups = self.heads
        mask = self.mask & Causal() if self.causal else self.mask
        if self.by_head:
            mask = ByHead(tuple(Window(5) & Dilated(2) if (self.seed >> h) % 2 else mask for h in range(heads)))
        generator = torch.Generator().manual_seed(self.seed)
        positions = laid_out(self.layout, self.batch, self.length, generator)
        q_positions = positions
        if self.share_global is not None:
            mask = mask | GlobalTokens()
            chosen = torch.rand(self.batch, self.length, generator=generator) < self.share_global
            positions = replace(positions, is_global=chosen)
            q_positions = positions if self.queries_too else q_positions
        q, k, v = tensors(self.length, self.length, heads, groups, seed=self.seed, batch=self.batch)
        return Case(q, k, v, q_positions, positions, mask & SameDocument())


def laid_out(layout: str, batch: int, length: int, generator: torch.Generator) -> Positions:
    """Rows that are whole, go on, are padded on a side (some wholly), or hold several documents with gaps."""
    if layout in ("whole", "offset"):
        return Positions.offset(0 if layout == "whole" else 5, length)
    lengths = torch.randint(0, length + 1, (batch, 1), generator=generator)
    place = torch.arange(length)[None]
    if layout == "right":
        return Positions(torch.where(place < lengths, place, -1))
    if layout == "left":
        return Positions((place - (length - lengths)).clamp(min=-1))
    return Positions(place + lengths) if layout == "apart" else packed(batch, length, generator)


def packed(batch: int, length: int, generator: torch.Generator) -> Positions:
    starts = torch.rand(batch, length, generator=generator) < 0.2
    document = starts.long().cumsum(-1)
    place = torch.arange(length).expand(batch, -1)
    first = torch.where(starts, place, 0).cummax(-1).values
    absent = (torch.rand(batch, length + 1, generator=generator) < 0.2).gather(1, document)  # documents that are gaps
    return Positions(torch.where(absent, -1, place - first), document)


every_setting = st.builds(
    Setting,
    mask=plain,
    causal=st.booleans(),
    by_head=st.sampled_from([False, False, False, True]),
    heads=st.sampled_from([(1, 1), (2, 2), (4, 2), (4, 1)]),
    batch=st.integers(1, 3),
    length=st.integers(1, 34),
    layout=st.sampled_from(LAYOUTS),
    share_global=st.sampled_from([None, None, 0.0, 0.1, 0.4, 1.0]),
    queries_too=st.booleans(),
    seed=st.integers(0, 9999),
)


@settings(max_examples=400)
@given(every_setting, st.sampled_from([None, 1, 2, 3, 5, 8]))
def test_every_mask_in_blocks_equals_its_dense_twin_forward_and_backward(setting: Setting, size: int | None) -> None:
    case = setting.case()
    if refusal(case) is None:
        assert_equal_runs(lambda c: run_blocks(c, size), case)
    else:
        assert not goes_by_distance(case.mask)
        assert not case.k_positions.anchored


@given(masks, st.integers(1, 24), st.integers(1, 24), st.integers(0, 24), st.integers(0, 24))
def test_no_mask_reaches_further_or_in_other_steps_than_it_says(mask: Mask, t: int, s: int, q0: int, k0: int) -> None:
    q, k = Positions.offset(q0, t), Positions.offset(k0, s)
    distance = (q.index[0][:, None] - k.index)[pairs(mask, q, k)]
    past, future = reach(mask)
    assert past is None or not (distance > past).any()
    assert future is None or not (-distance > future).any()
    every = step(mask)
    assert not (distance % every if every else distance).any()


@given(masks, st.integers(1, 24), st.integers(0, 24))
def test_a_mask_that_goes_by_distance_is_the_same_anywhere(mask: Mask, t: int, start: int) -> None:
    here, there = Positions.whole(t), Positions.offset(start, t)
    if goes_by_distance(mask):
        assert pairs(mask, here, here).equal(pairs(mask, there, there))


@given(masks, st.integers(0, 9999))
def test_documents_are_apart_where_the_mask_is_said_to_keep_them_apart(mask: Mask, seed: int) -> None:
    positions = packed(1, 20, torch.Generator().manual_seed(seed))
    assert positions.document is not None
    if keeps_documents_apart(mask):
        assert not (pairs(mask, positions, positions) & (positions.document[0][:, None] != positions.document)).any()


# --- bad input, handled -----------------------------------------------------------------------------------------------


def test_a_row_of_padding_alone_yields_0_and_finite_gradients() -> None:
    positions = Positions(torch.tensor([[-1] * 7, [0, 1, 2, 3, 4, 5, 6], [-1, -1, -1, 0, 1, 2, 3]]))
    case = Case(*tensors(7, 7), positions, positions, Window(3))
    out, *gradients = outputs_and_gradients(lambda c: run_blocks(c, 2), case)
    assert out[0].abs().max() == 0
    assert all(torch.isfinite(g).all() and g[0].abs().max() == 0 for g in gradients)


def test_steps_that_leave_nothing_visible_yield_0() -> None:
    whole = Positions.whole(11)
    mask = Causal() & Window(4) & Dilated(5) & ~Window(1)  # distances 1 .. 3, none of them a multiple of 5
    out, *gradients = outputs_and_gradients(lambda c: run_blocks(c, 4), Case(*tensors(11, 11), whole, whole, mask))
    assert out.abs().max() == 0
    assert all(torch.isfinite(g).all() for g in gradients)


@pytest.mark.parametrize("window", [7, 12, 400])
def test_a_window_wider_than_the_text_is_full_attention(window: int) -> None:
    whole = Positions.whole(7)
    case = Case(*tensors(7, 7), whole, whole, Window(window))
    assert_equal_runs(lambda c: run_blocks(replace(c, mask=Window(window)), 3), replace(case, mask=Everything()))


def test_every_token_may_be_global() -> None:
    positions = replace(Positions.whole(9), is_global=torch.ones(3, 9, dtype=torch.bool))
    case = Case(*tensors(9, 9), positions, positions, Window(2) | GlobalTokens())
    assert_equal_runs(lambda c: run_blocks(c, 3), case)


def test_every_query_weighs_exactly_its_window_and_the_global_keys_each_once() -> None:
    n, chosen = 23, [1, 10, 11]
    is_global = torch.zeros(1, n, dtype=torch.bool)
    is_global[0, chosen] = True
    keys = replace(Positions.whole(n), is_global=is_global)
    q, k, v = torch.zeros(1, 1, n, 2), torch.zeros(1, 1, n, 2), torch.eye(n)[None, None]
    weights = run_blocks(Case(q, k, v, Positions.whole(n), keys, Window(4) | GlobalTokens()), 4)[0, 0]
    for i in range(n):
        seen = set(range(max(0, i - 3), min(n, i + 4))) | set(chosen)
        assert set(weights[i].nonzero().flatten().tolist()) == seen
        assert torch.allclose(weights[i, list(seen)], torch.tensor(1 / len(seen)))


# --- when, and at what cost -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", [Window(128), Window(128) | GlobalTokens(), Window(505) & Dilated(4)])
def test_long_ragged_rows_with_global_tokens_go_to_blocks(mask: Mask) -> None:
    n = 2048
    index = torch.where(torch.arange(n)[None] < torch.tensor([[n], [1500]]), torch.arange(n)[None], -1)
    is_global = torch.zeros(2, n, dtype=torch.bool)
    is_global[:, 0] = True
    positions = Positions(index, is_global=is_global)
    q, k, v = (torch.zeros(2, 1, n, 2) for _ in range(3))
    assert choose(Case(q, k, v, positions, positions, mask & SameDocument())) == "blocks"


@pytest.mark.parametrize("mask", [Window(9), Window(17) & Dilated(2), Window(9) | GlobalTokens()])
def test_no_tensor_grows_faster_than_the_text(mask: Mask) -> None:
    largest = []
    for n in (256, 512):
        positions = replace(Positions.whole(n), is_global=torch.arange(n)[None] == 3)
        case = Case(*tensors(n, n, batch=1), positions, positions, mask)
        with Largest() as seen:
            outputs_and_gradients(lambda c: run_blocks(c, 16), case)
        largest.append(seen.numbers)
    assert largest[1] <= 2.2 * largest[0]


class Largest(torch.utils._python_dispatch.TorchDispatchMode):
    """The most numbers in a tensor that any operation gave."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, torch.Tensor):
                self.numbers = max(self.numbers, tensor.untyped_storage().nbytes() // tensor.element_size())
        return out


def test_score_terms_meet_padding_and_global_keys_in_blocks() -> None:
    positions = replace(
        Positions(torch.tensor([list(range(13)), [-1] * 4 + list(range(9)), list(range(7)) + [-1] * 6]))
    )
    positions = replace(positions, is_global=torch.arange(13)[None].expand(3, -1) % 5 == 2)
    term = ALiBi(4).prepare(torch.nn.Identity(), positions)
    case = Case(*tensors(13, 13), positions, positions, Window(3) | GlobalTokens(), (term,))
    assert_equal_runs(lambda c: run_blocks(c, 4), case)
    apart = replace(case, mask=ByHead((Window(3), Window(5) & Dilated(2), Window(3), Window(2))))
    assert_equal_runs(lambda c: run_blocks(c, 4), apart)
    with torch.no_grad():
        assert (run_blocks(case, 4) - dense(case)).abs().max() <= 1e-9


@pytest.mark.parametrize("by_distance", [True, False])
def test_a_term_of_distances_is_asked_of_one_block_and_one_of_places_of_all(by_distance: bool) -> None:
    positions = packed(3, 23, torch.Generator().manual_seed(1))
    asked = []

    def add(q: torch.Tensor, k: torch.Tensor, at: Positions, seen: Positions) -> torch.Tensor:
        asked.append(len(seen.index))
        apart = seen.index[:, None] - (at.index[:, :, None] if by_distance else 0)
        return (0.3 * apart.to(q.dtype).sin())[:, None]

    term = ByDistance(add) if by_distance else add
    case = Case(*tensors(23, 23), positions, positions, Window(3) & SameDocument(), (term,))
    assert_equal_runs(lambda c: run_blocks(c, 4), case)
    asked.clear()
    run_blocks(case, 4)
    assert sum(asked) == (len(asked) if by_distance else 3 * 6)


@pytest.mark.parametrize(
    ("mask", "positions", "says"),
    [
        (Window(3), Positions(torch.tensor([[0, 1, 3, 4]])), "side by side"),
        (Window(3), Positions(torch.tensor([[0, 1, 0, 1]]), torch.tensor([[0, 0, 1, 1]])), "see each other"),
        (Segments(2, 0), Positions(torch.tensor([[-1, 0, 1, 2]])), "where indices lie"),
    ],
)
def test_what_blocks_cannot_do_is_said(mask: Mask, positions: Positions, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        attend(*tensors(4, 4), positions, positions, mask=mask, runner="blocks")


def test_two_masks_that_differ_in_one_pair_are_told_apart() -> None:
    """The comparison that all of the above rests on can fail."""
    whole = Positions.whole(9)
    case = Case(*tensors(9, 9), whole, whole, Window(3))
    with pytest.raises(AssertionError):
        assert_equal_runs(lambda c: run_blocks(replace(c, mask=And(c.mask, ~Window(1))), 4), case)
