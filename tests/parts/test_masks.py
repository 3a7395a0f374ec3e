"""Masks as an algebra: what `block` promises holds for every pair, and the patterns are the papers' sets."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from formers.errors import ConfigError
from formers.parts.masks import (
    Block,
    Causal,
    Dilated,
    EarlierSegment,
    Everything,
    Fixed,
    GlobalTokens,
    Mask,
    SameDocument,
    SameSegment,
    Segments,
    Span,
    StrictlyPast,
    Strided,
    Summary,
    Window,
)
from formers.parts.positions import Positions

size = st.integers(1, 13)
leaves = st.one_of(
    st.sampled_from([Causal(), StrictlyPast(), Everything(), SameDocument()]),
    size.map(Window),
    size.map(Dilated),
    size.map(SameSegment),
    size.map(EarlierSegment),
    st.tuples(size, st.integers(0, 9), st.one_of(st.none(), st.integers(0, 9))).map(lambda t: EarlierSegment(*t)),
    size.map(Strided),
    st.tuples(size, st.integers(0, 20)).map(lambda t: Segments(*t)),
    st.tuples(size, size).map(lambda t: Summary(max(t), min(t))),
)
masks = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.tuples(inner, inner).map(lambda t: t[0] & t[1]),
        st.tuples(inner, inner).map(lambda t: t[0] | t[1]),
        inner.map(lambda m: ~m),
    ),
    max_leaves=4,
)


def pairs(mask: Mask, q: Positions, k: Positions) -> torch.Tensor:
    """Bool [queries, keys] for one row."""
    return mask.allows(q.as_queries(), k.as_keys()).expand(1, 1, q.length, k.length)[0, 0]


@given(masks, st.integers(0, 40), st.integers(1, 9), st.integers(0, 40), st.integers(1, 9))
def test_what_a_block_promises_holds_for_every_pair(mask: Mask, q0: int, qn: int, k0: int, kn: int) -> None:
    allowed = pairs(mask, Positions.offset(q0, qn), Positions.offset(k0, kn))
    promise = mask.block(Span(q0, q0 + qn - 1), Span(k0, k0 + kn - 1))
    if promise is Block.ALL:
        assert allowed.all()
    if promise is Block.NONE:
        assert not allowed.any()


@given(leaves, st.integers(0, 30), st.integers(0, 30))
def test_of_one_pair_a_leaf_is_certain(mask: Mask, q: int, k: int) -> None:
    allowed = bool(pairs(mask, Positions.offset(q, 1), Positions.offset(k, 1)))
    assert mask.block(Span(q, q), Span(k, k)) is (Block.ALL if allowed else Block.NONE)


@pytest.mark.parametrize("w", [1, 2, 7])
def test_a_causal_window_of_w_sees_the_query_and_the_w_minus_1_before_it(w: int) -> None:
    whole = Positions.whole(23)
    allowed = pairs(Causal() & Window(w), whole, whole)
    assert [row.nonzero().flatten().tolist() for row in allowed] == [
        list(range(max(0, i - w + 1), i + 1)) for i in range(23)
    ]


@pytest.mark.parametrize("stride", [1, 3, 5])
def test_strided_is_the_papers_two_sets(stride: int) -> None:
    n = 29
    allowed = pairs(Causal() & Strided(stride), Positions.whole(n), Positions.whole(n))
    for i in range(n):
        local = set(range(max(0, i - stride), i + 1))
        column = {j for j in range(i + 1) if (i - j) % stride == 0}
        assert set(allowed[i].nonzero().flatten().tolist()) == local | column


@pytest.mark.parametrize(("stride", "count"), [(4, 1), (5, 2), (3, 3)])
def test_fixed_is_the_papers_two_sets(stride: int, count: int) -> None:
    n = 29
    allowed = pairs(Causal() & Fixed(stride, count), Positions.whole(n), Positions.whole(n))
    for i in range(n):
        block = {j for j in range(i + 1) if j // stride == i // stride}
        summary = {j for j in range(i + 1) if j % stride >= stride - count}
        assert set(allowed[i].nonzero().flatten().tolist()) == block | summary


@pytest.mark.parametrize("mask", [Strided(5), Fixed(5, 1)])
def test_every_earlier_position_is_reached_in_two_hops(mask: Mask) -> None:
    n = 31
    hop = pairs(Causal() & mask, Positions.whole(n), Positions.whole(n)).double()
    assert ((hop @ hop).bool() | hop.bool()).tril().equal(torch.ones(n, n, dtype=torch.bool).tril())


def test_segments_see_their_own_and_the_remembered_tokens_before() -> None:
    allowed = pairs(Causal() & Segments(4, 3), Positions.whole(11), Positions.whole(11))
    assert allowed[9].nonzero().flatten().tolist() == [5, 6, 7, 8, 9]  # segment 8..11, and 5, 6, 7 before it


def test_a_global_token_sees_all_and_is_seen_by_all() -> None:
    is_global = torch.tensor([[False, True, False, False, False]])
    positions = Positions(torch.arange(5)[None], is_global=is_global)
    allowed = pairs(GlobalTokens() | Window(1), positions, positions)
    assert allowed[1].all()
    assert allowed[:, 1].all()
    assert allowed.sum() == 5 + 5 - 1 + 4  # the row, the column, and the rest of the diagonal


def test_documents_do_not_see_each_other_and_negation_turns_it_round() -> None:
    positions = Positions(torch.tensor([[0, 1, 0, 1, 2]]), torch.tensor([[7, 7, 8, 8, 8]]))
    same = pairs(SameDocument(), positions, positions)
    assert same.tolist() == [
        [i // 2 == j // 2 if max(i, j) < 4 else min(i, j) >= 2 for j in range(5)] for i in range(5)
    ]
    assert (~same).equal(pairs(~SameDocument(), positions, positions))
    assert SameDocument().block(Span(0, 1, document=7), Span(0, 2, document=8)) is Block.NONE


@pytest.mark.parametrize(
    "make", [lambda: Window(0), lambda: Dilated(0), lambda: Summary(3, 4), lambda: Segments(2, -1)]
)
def test_a_mask_with_an_impossible_size_says_so(make) -> None:
    with pytest.raises(ConfigError, match="wanted"):
        make()
