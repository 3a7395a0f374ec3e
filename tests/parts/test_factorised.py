"""Factorised attention: the fast way equals the masks run dense, and the masks are the paper's sets (1904.10509)."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from formers.errors import ConfigError
from formers.parts import factorised as fast
from formers.parts.attend import Case, attend, dense
from formers.parts.factorised import factorised, refusal, worth
from formers.parts.factorised_attention import NarrowCache
from formers.parts.masks import (
    Block,
    Causal,
    Dilated,
    Everything,
    Fixed,
    Mask,
    SameDocument,
    SameSegment,
    Span,
    Strided,
    Summary,
    Window,
)
from formers.parts.patterns import Columns, recognise
from formers.parts.positions import Positions
from formers.parts.terms import ALiBi

ACROSS_SHAPES = 1e-9
"""Sums in another order differ in the last bits of float64."""

strides = st.integers(1, 9)


def within(stride: int) -> st.SearchStrategy[Mask]:
    """A set of the fixed pattern that summarises some cells of every block, alone or beside the block."""
    columns = st.integers(0, stride - 1).flatmap(
        lambda first: st.integers(1, stride - first).map(lambda count: Columns(stride, first, count))
    )
    far = st.one_of(columns, st.integers(1, stride).map(lambda count: Summary(stride, count)))
    return st.one_of(far, far.map(lambda mask: SameSegment(stride) | mask))


sets = st.one_of(
    strides.map(Strided),
    strides.map(lambda stride: Window(stride + 1)),
    strides.map(Dilated),
    strides.map(SameSegment),
    strides.flatmap(within),
)


@st.composite
def places(draw: st.DrawFn) -> Positions:
    """Whole texts, texts that begin elsewhere, and two rows of padding and documents; the first may begin in its middle."""
    kind = draw(st.sampled_from(["whole", "offset", "ragged", "documents"]))
    length = draw(st.integers(1, 45))
    if kind in ("whole", "offset"):
        return Positions.offset(0 if kind == "whole" else draw(st.integers(1, 30)), length)
    rows = [draw(a_row(length, documents=kind == "documents")) for _ in range(2)]
    index, document = (torch.tensor(part) for part in zip(*rows, strict=True))
    return Positions(index, document if kind == "documents" else None)


@st.composite
def a_row(draw: st.DrawFn, length: int, documents: bool) -> tuple[list[int], list[int]]:
    index, document = [-1] * draw(st.integers(0, length)), []
    index, number, start = index[: length - 1], 0, draw(st.integers(0, 25))
    document = [7] * len(index)
    while len(index) < length and (number == 0 or documents):
        count, number = draw(st.integers(1, length)), number + 1
        index += range(start, start + count)
        document += [number] * count
        start = 0
    index, document = (part + [-1] * (length - len(part)) for part in (index, document))
    return index[:length], document[:length]


def case_of(mask: Mask, positions: Positions, *, seed: int = 0, heads: int = 2, groups: int = 1) -> Case:
    generator, t = torch.Generator().manual_seed(seed), positions.length
    shapes = [(2, heads, t, 3), (2, groups, t, 3), (2, groups, t, 5)]
    q, k, v = (torch.randn(s, generator=generator, dtype=torch.float64, requires_grad=True) for s in shapes)
    return Case(q, k, v, positions, positions, mask)


def outputs_and_gradients(run, case: Case) -> list[Tensor]:
    out = run(case)
    weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).reshape(out.shape)
    return [out.detach(), *torch.autograd.grad((out * weights).sum(), [case.q, case.k, case.v])]


def assert_equals_twin(case: Case) -> None:
    for ours, twin in zip(outputs_and_gradients(factorised, case), outputs_and_gradients(dense, case), strict=True):
        assert (ours - twin).abs().max() <= ACROSS_SHAPES


@given(sets, places(), st.sampled_from([1, 500, 2000, 1 << 25]), st.booleans())
def test_factorised_equals_the_mask_run_dense(mask: Mask, positions: Positions, scores: int, by_document: bool) -> None:
    mask = Causal() & mask & SameDocument() if by_document or positions.document is not None else Causal() & mask
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fast, "SCORES_AT_A_TIME", scores)  # one chunk to a group, some, and many
        assert_equals_twin(case_of(mask, positions))


@pytest.mark.parametrize("mask", [Strided(4), Fixed(4, 2), Dilated(4), Summary(4, 1), Window(5), SameSegment(4)])
def test_chunks_whose_scores_are_too_many_are_run_one_by_one(mask: Mask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast, "SCORES_AT_A_TIME", 1)
    assert_equals_twin(case_of(Causal() & mask, Positions.whole(43)))


# --- the paper's sets -----------------------------------------------------------------------------------------------------


def keys_of(mask: Mask, n: int) -> list[set[int]]:
    places = Positions.whole(n)
    visible = (Causal() & mask).allows(places.as_queries(), places.as_keys()).expand(1, 1, n, n)[0, 0]
    return [set(row.nonzero().flatten().tolist()) for row in visible]


def test_strided_sets_are_the_papers() -> None:
    n, stride = 16, 4
    first, second = keys_of(Window(stride + 1), n), keys_of(Dilated(stride), n)
    assert first == [set(range(max(0, i - stride), i + 1)) for i in range(n)]
    assert second == [{j for j in range(i + 1) if (i - j) % stride == 0} for i in range(n)]
    assert keys_of(Strided(stride), n) == [a | b for a, b in zip(first, second, strict=True)]
    assert first[9] == {5, 6, 7, 8, 9}
    assert second[9] == {1, 5, 9}
    assert all(len(a | b) <= 2 * stride for a, b in zip(first, second, strict=True))


def test_fixed_sets_are_the_papers() -> None:
    n, stride, count = 16, 4, 1
    first, second = keys_of(SameSegment(stride), n), keys_of(Summary(stride, count), n)
    assert first == [{j for j in range(i + 1) if j // stride == i // stride} for i in range(n)]
    assert second == [{j for j in range(i + 1) if j % stride in range(stride - count, stride)} for i in range(n)]
    assert first[9] == {8, 9}
    assert second[9] == {3, 7}
    assert second[:3] == [set(), set(), set()]
    assert second[3] == {3}
    assert all(len(a | b) <= 2 * stride for a, b in zip(first, second, strict=True))
    assert keys_of(Columns(4, 3, 1), n) == second
    assert keys_of(Columns(4, 1, 2), n)[9] == {1, 2, 5, 6, 9}


def reach(*masks: Mask, n: int) -> Tensor:
    """Which positions a text's last layer hears of, Bool [queries, keys]: boolean products."""
    places, found = Positions.whole(n), torch.eye(n)
    for mask in masks:
        step = (Causal() & mask).allows(places.as_queries(), places.as_keys()).expand(1, 1, n, n)[0, 0]
        found = step.float() @ found
    return found > 0


@pytest.mark.parametrize(("n", "stride"), [(16, 4), (23, 5), (30, 7), (11, 3)])
def test_every_earlier_position_is_two_hops_away(n: int, stride: int) -> None:
    full = torch.ones(n, n).tril().bool()
    row, column = Window(stride + 1), Dilated(stride)
    assert torch.equal(reach(row, column, n=n), full)
    assert torch.equal(reach(column, row, n=n), full)
    block, summary = SameSegment(stride), Summary(stride, 1)
    assert torch.equal(reach(block, summary, n=n) | reach(block, n=n), full)
    other_way = reach(summary, block, n=n)
    assert not torch.equal(other_way | reach(block, n=n), full)  # only summary cells are heard of


# --- what sees nothing ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", [Summary(5, 2), Columns(5, 2, 1)])
def test_a_query_of_the_fixed_pattern_that_sees_nothing_yields_0_and_passes_no_gradient(mask: Mask) -> None:
    case = case_of(Causal() & mask, Positions.whole(13))
    out, grad_q, *others = outputs_and_gradients(factorised, case)
    blind = 3 if isinstance(mask, Summary) else 2
    assert out[:, :, :blind].abs().max() == 0
    assert grad_q[:, :, :blind].abs().max() == 0
    assert out[:, :, blind].abs().max() > 0
    assert all(torch.isfinite(g).all() for g in others)


@pytest.mark.parametrize("mask", [Strided(3), Fixed(3, 1), Dilated(3), Summary(3, 1), Window(4), SameSegment(3)])
def test_a_row_of_padding_alone_yields_0_and_finite_gradients(mask: Mask) -> None:
    positions = Positions(torch.tensor([[-1] * 11, [-1, -1, *range(9)]]))
    out, *gradients = outputs_and_gradients(factorised, case_of(Causal() & mask, positions))
    assert out[0].abs().max() == 0
    assert all(torch.isfinite(g).all() for g in gradients)
    assert gradients[1][0].abs().max() == 0


# --- what it costs ----------------------------------------------------------------------------------------------------------


def largest_tensor(case: Case) -> int:
    """Numbers in the largest tensor that any operation gives, forward and backward."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Watch(TorchDispatchMode):
        most = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            tensors = [t for t in (out if isinstance(out, tuple | list) else [out]) if isinstance(t, Tensor)]
            self.most = max([self.most, *(t.untyped_storage().nbytes() // t.element_size() for t in tensors)])
            return out

    with Watch() as watch:
        outputs_and_gradients(factorised, case)
    return watch.most


@pytest.mark.parametrize("mask", [Strided, lambda n: Fixed(n, 1), Dilated, lambda n: Summary(n, 1), SameSegment])
@pytest.mark.parametrize("ragged", [False, True])
def test_no_tensor_grows_faster_than_n_sqrt_n(mask, ragged: bool) -> None:
    def most(stride: int) -> float:
        n = stride * stride
        positions = Positions(torch.arange(n)[None].repeat(2, 1)) if ragged else Positions.whole(n)
        return largest_tensor(case_of(Causal() & mask(stride), positions)) / n**1.5

    assert most(32) <= 1.1 * most(16)  # n from 256 to 1,024: a square would grow 2 times


# --- what is recognised, and what refused -----------------------------------------------------------------------------------


def test_masks_of_other_shapes_are_not_recognised() -> None:
    for mask in (Strided(4), Causal() & Everything(), Causal() & Window(9) & Dilated(2), Causal() & ~Fixed(4, 1)):
        assert recognise(mask) is None
    assert recognise(Causal() & (Window(9) | Dilated(4))) is None  # the window reaches behind the chunk before
    assert recognise(SameDocument() & (Causal() & Strided(4))) is not None


def test_what_it_cannot_do_is_refused_with_the_reason() -> None:
    strided, whole = Causal() & Strided(4), Positions.whole(9)
    gap = Positions(torch.tensor([[0, 1, -1, 2, 3, 4, 5, 6, 7]] * 2))
    two = Positions(torch.arange(9)[None].repeat(2, 1), torch.tensor([[1] * 4 + [2] * 5] * 2))
    with_term = case_of(strided, whole)
    term = ALiBi(2).prepare(torch.nn.Identity(), whole)
    said = {
        "none of the strided and fixed": case_of(Causal(), whole),
        "score terms": Case(with_term.q, with_term.k, with_term.v, whole, whole, strided, (term,)),
        "not the same tokens": Case(with_term.q, with_term.k, with_term.v, Positions.offset(1, 9), whole, strided),
        "side by side": case_of(strided, gap),
        "documents see each other": case_of(strided, two),
    }
    for words, case in said.items():
        assert words in (refusal(case) or "")
        assert not worth(case)
        with pytest.raises(ConfigError, match=words):
            attend(
                case.q,
                case.k,
                case.v,
                case.q_positions,
                case.k_positions,
                mask=case.mask,
                terms=case.terms,
                runner="factorised",
            )


def test_it_is_worth_it_where_most_of_the_triangle_is_hidden() -> None:
    assert worth(case_of(Causal() & Strided(16), Positions.whole(256)))
    assert not worth(case_of(Causal() & Strided(16), Positions.whole(32)))
    assert not worth(case_of(Causal() & Fixed(16, 16), Positions.whole(256)))


@given(strides.flatmap(within), st.integers(0, 40), st.integers(1, 9), st.integers(0, 40), st.integers(1, 9))
def test_what_columns_promise_of_a_block_holds(mask: Mask, q0: int, qn: int, k0: int, kn: int) -> None:
    says = mask.block(Span(q0, q0 + qn - 1), Span(k0, k0 + kn - 1))
    q, k = Positions.offset(q0, qn), Positions.offset(k0, kn)
    visible = mask.allows(q.as_queries(), k.as_keys()).expand(1, 1, qn, kn)
    if says is not Block.SOME:
        assert bool(visible.all() if says is Block.ALL else not visible.any())


@pytest.mark.parametrize(("first", "count"), [(-1, 1), (3, 2), (0, 0)])
def test_columns_outside_of_the_block_are_refused(first: int, count: int) -> None:
    with pytest.raises(ConfigError, match="within a block"):
        Columns(4, first, count)


@pytest.mark.parametrize(
    ("size", "room", "kept"),
    [(None, 5, (5, "refuse")), (8, 5, (5, "refuse")), (8, 8, (8, "wrap")), (8, 20, (8, "wrap"))],
)
def test_a_window_with_less_room_than_it_sees_refuses_longer_texts(
    size: int | None, room: int, kept: tuple[int, str]
) -> None:
    ring = NarrowCache(2, 3, 4, size).init_state(1, room)
    assert (ring.capacity, ring.overflow) == kept
