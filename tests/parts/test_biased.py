"""Attention with terms of distances as one operator: equal to the dense runner, forward and backward, and never T x T of all
heads."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from formers.errors import ConfigError
from formers.parts import biased
from formers.parts.attend import Case, attend, choose
from formers.parts.biased import biased_attention, spread
from formers.parts.masks import Causal, Everything
from formers.parts.positions import Positions, in_step
from formers.parts.rings import KeyValueRing
from formers.parts.terms import ALiBi, T5Bias


def spread_plainly(line: Tensor, queries: int) -> Tensor:
    """The slow twin: an index for each pair."""
    i, j = torch.arange(queries), torch.arange(line.shape[1] - queries + 1)
    return line[:, (queries - 1 - i)[:, None] + j]


def drawn(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype).requires_grad_()


@given(st.integers(1, 4), st.integers(1, 9), st.integers(1, 9))
def test_a_line_spread_is_indexed_by_distance(heads: int, queries: int, keys: int) -> None:
    line = drawn(heads, queries + keys - 1, seed=0)
    assert torch.equal(spread(line, queries), spread_plainly(line, queries))


def plainly(q: Tensor, k: Tensor, v: Tensor, line: Tensor, visible: Tensor) -> Tensor:
    scores = q @ k.transpose(-1, -2) + spread_plainly(line, q.shape[2])
    pattern = scores.masked_fill(~visible, -torch.inf).softmax(-1).nan_to_num(0.0)
    return pattern @ v


@pytest.mark.parametrize("pairs", [1, 100, 1 << 20])
@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("heads", [1, 3])
def test_it_equals_the_formula_and_its_gradients(monkeypatch, pairs: int, rows: int, heads: int) -> None:
    """Heads one at a time or all at once; what is seen alike in all rows and heads or not; a query that sees nothing."""
    monkeypatch.setattr(biased, "PAIRS_AT_A_TIME", pairs)
    q, k, v = drawn(2, 3, 7, 5, seed=0), drawn(2, 3, 11, 5, seed=1), drawn(2, 3, 11, 4, seed=2)
    line, upstream = drawn(3, 17, seed=3), drawn(2, 3, 7, 4, seed=4).detach()
    visible = torch.rand(rows, heads, 7, 11, generator=torch.Generator().manual_seed(5)) < 0.6
    visible[0, :, 2] = False
    out = biased_attention(q, k, v, line, visible)
    wanted = plainly(q, k, v, line, visible)
    assert (out - wanted).abs().max() < 1e-12
    assert not out[0, :, 2].any()
    sees = visible.any(-1, keepdim=True)
    safe = torch.where(sees, upstream, 0.0)  # the formula's own gradient is NaN where nothing is seen
    mine = torch.autograd.grad(out, (q, k, v, line), upstream)
    theirs = torch.autograd.grad(plainly(q, k, v, line, visible | ~sees), (q, k, v, line), safe)
    for name, a, b in zip("qkvl", mine, theirs, strict=True):
        assert a.abs().max() > 0.1, name
        assert (a - b).abs().max() < 1e-12, name


def test_the_operator_is_what_its_schema_and_its_fake_say() -> None:
    arguments = (
        drawn(2, 3, 7, 5, seed=0),
        drawn(2, 3, 11, 5, seed=1),
        drawn(2, 3, 11, 4, seed=2),
        drawn(3, 17, seed=3),
    )
    torch.library.opcheck(biased_attention, (*arguments, torch.ones(1, 1, 7, 11, dtype=torch.bool)))


def case_of(positions: Positions, length: int, term: object, **changes: object) -> Case:
    q, k, v = (drawn(2, 3, length, 5, seed=n) for n in range(3))
    return Case(q, k, v, positions, positions, changes.pop("mask", Causal()), (term,), **changes)  # type: ignore[arg-type]


def ran(case: Case, runner: str) -> tuple[Tensor, ...]:
    out = attend(
        case.q, case.k, case.v, case.q_positions, case.k_positions, mask=case.mask, terms=case.terms, runner=runner
    )
    return out, *torch.autograd.grad(out.sin().sum(), (case.q, case.k, case.v))


@pytest.mark.parametrize("bidirectional", [False, True])
def test_it_is_chosen_where_distances_follow_from_places_and_equals_dense(bidirectional: bool) -> None:
    bias = T5Bias(3, num_buckets=8, max_distance=9, bidirectional=bidirectional).double()
    padded = Positions(torch.tensor([[*range(13)], [*range(9), -1, -1, -1, -1]]), aligned=13)
    for positions in (Positions.whole(13), Positions.offset(4, 13), padded):
        mask = Everything() if bidirectional else Causal()
        case = case_of(positions, 13, bias.prepare(torch.nn.Identity(), positions), mask=mask)
        assert choose(case) == "biased"
        found = []
        for runner in ("biased", "dense"):
            bias.zero_grad()
            out = attend(
                case.q, case.k, case.v, positions, positions, mask=mask, terms=(bias.prepare(torch.nn.Identity(), positions),),
                runner=runner,
            )  # fmt: skip
            grads = torch.autograd.grad(out.sin().sum(), (case.q, case.k, case.v, bias.table.weight))
            found.append((out, *grads))
        for a, b in zip(*found, strict=True):
            assert (a - b).abs().max() < 1e-9


def test_alibi_too() -> None:
    positions = Positions.whole(13)
    case = case_of(positions, 13, ALiBi(3).prepare(torch.nn.Identity(), positions))
    assert choose(case) == "biased"
    for a, b in zip(ran(case, "biased"), ran(case, "dense"), strict=True):
        assert (a - b).abs().max() < 1e-9


def test_where_distances_do_not_follow_from_places_it_is_refused_and_dense_is_chosen() -> None:
    packed = Positions(torch.tensor([[0, 1, 2, 0, 1, 2, 3]]), torch.tensor([[0, 0, 0, 1, 1, 1, 1]]))
    case = case_of(packed, 7, T5Bias(3, bidirectional=False).double().prepare(torch.nn.Identity(), packed))
    assert choose(case) == "dense"
    with pytest.raises(ConfigError, match="follow from the places"):
        ran(case, "biased")


def test_keys_that_a_ring_hands_out_in_step_are_as_far_as_it_says() -> None:
    """Calls that begin at multiples of a segment: the promise `behind` holds of all that is there."""
    ring = KeyValueRing.empty(2, 1, 8, 2, 2, segment=4)
    for call in range(4):
        index = torch.stack([torch.arange(4 * call, 4 * call + 4), torch.arange(4 * call, 4 * call + 4)])
        positions = Positions(index, torch.zeros_like(index), aligned=4)
        _, _, seen, staged = ring.extend(torch.zeros(2, 1, 4, 2), torch.zeros(2, 1, 4, 2), positions)
        behind = in_step(positions, seen)
        assert behind == 4
        places = index[:, :1] - behind + torch.arange(seen.length)
        assert torch.equal(seen.index[seen.present], places[seen.present])
        assert int(seen.present.sum()) == 2 * (4 + min(4, 4 * call))
        ring = staged.commit()
