"""Every runner equals the dense twin, forward and backward, for whatever masks and positions."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from formers.errors import ConfigError
from formers.parts import blocks as runners
from formers.parts.attend import Case, attend, choose, dense, run_blocks, sdpa
from formers.parts.masks import Causal, Everything, Mask, SameDocument, StrictlyPast, Window
from formers.parts.positions import Positions
from formers.parts.terms import ALiBi, T5Bias
from tests.parts.test_masks import masks

ACROSS_SHAPES = 1e-9
"""Sums in another order differ in the last bits of float64."""


def tensors(t: int, s: int, heads: int = 4, groups: int = 2, d: int = 5, seed: int = 0, batch: int = 3) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(batch, heads, t, d), (batch, groups, s, d), (batch, groups, s, d + 2)]
    return [torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True) for shape in shapes]


def outputs_and_gradients(run, case: Case) -> list[Tensor]:
    out = run(case)
    weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).reshape(out.shape)
    return [out.detach(), *torch.autograd.grad((out * weights).sum(), [case.q, case.k, case.v])]


def assert_equal_runs(run, case: Case) -> None:
    for ours, twin in zip(outputs_and_gradients(run, case), outputs_and_gradients(dense, case), strict=True):
        assert (ours - twin).abs().max() <= ACROSS_SHAPES


@given(masks, st.integers(1, 30), st.integers(1, 30), st.integers(0, 30), st.integers(1, 7))
def test_blocks_equal_dense(mask: Mask, t: int, s: int, start: int, size: int) -> None:
    case = Case(*tensors(t, s), Positions.offset(start, t), Positions.whole(s), mask)
    assert_equal_runs(lambda c: run_blocks(c, size), case)


@given(masks, st.integers(1, 20), st.integers(1, 20), st.integers(0, 9999))
def test_sdpa_equals_dense_with_padding_and_documents(mask: Mask, t: int, s: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    q_positions, k_positions = (ragged(n, generator) for n in (t, s))
    case = Case(*tensors(t, s, seed=seed), q_positions, k_positions, mask)
    assert_equal_runs(sdpa, case)


def ragged(length: int, generator: torch.Generator) -> Positions:
    index = torch.randint(-1, 12, (3, length), generator=generator)
    return Positions(index, torch.randint(0, 2, (3, length), generator=generator))


@pytest.mark.parametrize("run", [dense, sdpa, lambda case: run_blocks(case, 3)])
def test_a_query_that_sees_nothing_yields_0_and_passes_no_gradient(run) -> None:
    case = Case(*tensors(7, 7), Positions.whole(7), Positions.whole(7), StrictlyPast())
    out, grad_q, *others = outputs_and_gradients(run, case)
    assert out[:, :, 0].abs().max() == 0
    assert grad_q[:, :, 0].abs().max() == 0
    assert all(torch.isfinite(g).all() for g in others)


def test_a_row_of_padding_alone_yields_0_and_finite_gradients() -> None:
    index = torch.tensor([[-1] * 5, [0, 1, 2, 3, 4], [-1, -1, 0, 1, 2]])
    case = Case(*tensors(5, 5), Positions(index), Positions(index), Causal())
    for run in (dense, sdpa):
        out, *gradients = outputs_and_gradients(run, case)
        assert out[0].abs().max() == 0
        assert all(torch.isfinite(g).all() for g in gradients)


@pytest.mark.parametrize("term", [ALiBi(4), T5Bias(4, bidirectional=False, num_buckets=6, max_distance=9).double()])
@pytest.mark.parametrize("size", [3, 8])
def test_score_terms_are_the_same_in_blocks_and_in_the_kernel(term, size: int) -> None:
    for p in term.parameters():
        torch.nn.init.normal_(p, generator=torch.Generator().manual_seed(1))
    whole = Positions.whole(17)
    bound = (term.prepare(torch.nn.Identity(), whole),)
    case = Case(*tensors(17, 17), whole, whole, Causal() & Window(6), bound)
    assert_equal_runs(lambda c: run_blocks(c, size), case)
    with torch.no_grad():
        assert (sdpa(case) - dense(case)).abs().max() <= ACROSS_SHAPES
        assert (run_blocks(case, size) - dense(case)).abs().max() <= ACROSS_SHAPES


def test_blocks_hold_no_pair_that_the_mask_hides_by_the_block() -> None:
    whole = Positions.whole(64)
    case = Case(*tensors(64, 64), whole, whole, Causal() & Window(8))
    plan = runners.plan_blocks(case, 8)
    assert sum(len(queries) * len(keys[0]) for queries, keys in plan) == 8 + 7  # the diagonal and the one beside it


FLEX = """
import torch, warnings
from formers.parts.attend import Case, dense, flex
from formers.parts.masks import Causal, SameDocument, Window
from formers.parts.positions import Positions
warnings.simplefilter("ignore")
torch.manual_seed(0)
q, k, v = torch.randn(2, 4, 40, 16), torch.randn(2, 2, 40, 16), torch.randn(2, 2, 40, 16)
positions = Positions(torch.tensor([list(range(40)), [-1] * 9 + list(range(31))]))
case = Case(q, k, v, positions, positions, Causal() & Window(6) & SameDocument())
with torch.no_grad():
    print((flex(case) - dense(case)).abs().max().item())
"""


def test_flex_equals_dense_forward() -> None:
    # in a process of its own: the shape checks of the tests cannot run inside FlexAttention's tracing
    run = subprocess.run([sys.executable, "-c", FLEX], capture_output=True, text=True, check=True)
    assert float(run.stdout) <= 1e-5  # float32


def test_whole_and_causal_takes_the_triangle_of_the_kernel() -> None:
    case = Case(*tensors(9, 9), Positions.whole(9), Positions.whole(9), Causal() & SameDocument())
    assert choose(case) == "sdpa"
    assert case.is_causal_triangle
    assert_equal_runs(sdpa, case)


def test_long_windows_go_to_blocks_and_full_attention_does_not() -> None:
    whole = Positions.whole(2048)
    q, k, v = (torch.zeros(1, 1, 2048, 2) for _ in range(3))
    assert choose(Case(q, k, v, whole, whole, Causal() & Window(128))) == "blocks"
    assert choose(Case(q, k, v, whole, whole, Everything())) == "sdpa"


def test_a_tap_on_the_pattern_gets_rows_that_sum_to_1() -> None:
    q, k, v = tensors(6, 6)
    seen: list[Tensor] = []

    def show(pattern: Tensor) -> Tensor:
        seen.append(pattern)
        return pattern

    whole = Positions.whole(6)
    attend(q, k, v, whole, whole, mask=Causal(), show=show)
    assert torch.allclose(seen[0].sum(-1), torch.ones(3, 4, 6, dtype=torch.float64))
    assert seen[0].triu(1).abs().max() == 0


def test_softmax_is_at_least_float32() -> None:
    q, k, v = (t.detach().bfloat16() for t in tensors(6, 6))
    whole = Positions.whole(6)
    exact = dense(Case(q.double(), k.double(), v.double(), whole, whole, Causal()))
    assert (dense(Case(q, k, v, whole, whole, Causal())).double() - exact).abs().max() < 0.03


@pytest.mark.parametrize(
    ("runner", "positions", "says"),
    [("blocks", Positions(2 * torch.arange(4)[None]), "ragged"), ("blok", Positions.whole(4), "did you mean 'blocks'")],
)
def test_a_runner_that_cannot_do_the_job_raises(runner: str, positions: Positions, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        attend(*tensors(4, 4), positions, positions, mask=Causal(), runner=runner)


def test_a_brute_force_loop_agrees_with_the_dense_twin() -> None:
    q, k, v = (t.detach() for t in tensors(5, 5, heads=2, groups=1))
    whole = Positions.whole(5)
    out = dense(Case(q, k, v, whole, whole, Causal()))
    for b in range(3):
        for h in range(2):
            for i in range(5):
                weights = [math.exp(float(q[b, h, i] @ k[b, 0, j])) for j in range(i + 1)]
                expected = sum(w / sum(weights) * v[b, 0, j] for j, w in enumerate(weights))
                assert torch.allclose(out[b, h, i], expected, atol=1e-12)


def test_attention_dropout_drops_weights_and_keeps_their_mean() -> None:
    q, k, v = (torch.zeros(1, 1, 4000, 1), torch.zeros(1, 1, 3, 1), torch.ones(1, 1, 3, 1))
    torch.manual_seed(0)
    case = Case(q, k, v, Positions.whole(4000), Positions.whole(3), Everything(), dropout=0.5)
    for run in (dense, sdpa):
        out = run(case)
        assert set((out * 3 / 2).round().unique().tolist()) == {0.0, 1.0, 2.0, 3.0}
        assert abs(out.mean() - 1) < 0.05
