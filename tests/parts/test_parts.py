"""Norms, positions, score terms, feed-forward, taps and the trunk, each against its formula or its published numbers."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from formers.errors import ConfigError, TargetError
from formers.models.gpt2 import GPT2, GPT2Config
from formers.parts.embeddings import LearnedPositions, SinusoidalPositions, sinusoid
from formers.parts.feed_forward import ACTIVATIONS, FeedForward, GatedFeedForward
from formers.parts.norms import CosineNorm, LayerNorm, RMSNorm
from formers.parts.positions import Layout, Positions, concatenate
from formers.parts.taps import attach, listen, taps
from formers.parts.terms import ALiBi, T5Bias, alibi_slopes, t5_bucket
from formers.parts.trunk import PostNorm, PreNorm, shared
from formers.parts.turns import LinearScaling, Llama3Scaling, Rotary

# --- norms ------------------------------------------------------------------------------------------------------------


def test_layer_norm_is_its_formula() -> None:
    x = torch.randn(3, 7, dtype=torch.float64)
    norm = LayerNorm(7, eps=1e-2).double()
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    centred = x - x.mean(-1, keepdim=True)
    expected = centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-2).sqrt() * norm.weight + norm.bias
    assert torch.allclose(norm(x), expected, atol=1e-12)


def test_rms_norm_is_its_formula_and_cosine_norm_has_one_length() -> None:
    x = torch.randn(3, 7, dtype=torch.float64)
    norm = RMSNorm(7, eps=1e-2).double()
    nn.init.normal_(norm.weight)
    assert torch.allclose(norm(x), x / (x.pow(2).mean(-1, keepdim=True) + 1e-2).sqrt() * norm.weight, atol=1e-12)
    assert torch.allclose(CosineNorm(7, eps=1e-6)(x).norm(dim=-1), torch.full((3,), 7**0.5, dtype=torch.float64))


@pytest.mark.parametrize("make", [LayerNorm, RMSNorm, CosineNorm])
def test_norms_compute_in_float32_and_return_what_they_were_given(make) -> None:
    x = torch.randn(5, 64, dtype=torch.bfloat16)
    exact = make(64, eps=1e-5).double()(x.double())
    for weights in (torch.bfloat16, torch.float32):
        out = make(64, eps=1e-5).to(weights)(x)
        assert out.dtype == torch.bfloat16
        assert (out.double() - exact).abs().max() <= 2**-8 * exact.abs().max()  # one rounding to bfloat16


# --- positions --------------------------------------------------------------------------------------------------------


def test_layouts_promise_only_what_holds() -> None:
    assert Positions.whole(3).layout is Layout.WHOLE
    assert Positions.offset(2, 3).layout is Layout.OFFSET
    assert Positions.whole(5).slice(2, 4).start == 2
    assert Positions.going_on(torch.tensor([0, 4]), 3).index.tolist() == [[0, 1, 2], [4, 5, 6]]
    joined = concatenate(Positions.whole(3), Positions.offset(3, 2))
    assert (joined.start, joined.index.tolist()) == (0, [[0, 1, 2, 3, 4]])
    assert concatenate(Positions.whole(3), Positions.offset(4, 2)).layout is Layout.RAGGED


def test_an_attention_mask_gives_positions_for_padding_on_either_side() -> None:
    keep = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 0]])
    assert Positions.from_attention_mask(keep).index.tolist() == [[-1, -1, 0, 1], [0, 1, 2, -1]]


def test_sinusoid_has_the_papers_numbers_and_padding_a_row_of_zeros() -> None:
    golden = torch.tensor([0.841471, 0.540302, 0.046399, 0.998923, 0.002154, 0.999998])
    assert torch.allclose(sinusoid(torch.tensor(1), 6), golden, atol=1e-6)
    assert sinusoid(torch.arange(3), 5).shape == (3, 5)
    positions = Positions(torch.tensor([[-1, 0, 1]]))
    assert SinusoidalPositions(6)(positions)[0, 0].abs().max() == 0
    assert LearnedPositions(4, 6)(positions)[0, 0].abs().max() == 0


def test_a_shift_is_one_linear_map_of_sines_and_cosines() -> None:
    table = sinusoid(torch.arange(40), 8, torch.float64)
    shift = torch.linalg.lstsq(table[:20], table[5:25]).solution
    assert (table[:35] @ shift - table[5:]).abs().max() < 1e-9


def test_place_is_what_tables_read() -> None:
    table = LearnedPositions(4, 6)
    far = Positions(torch.tensor([[100, 101]]), place=torch.tensor([[0, 1]]))
    assert table(far).equal(table(Positions.whole(2)))
    with pytest.raises(ConfigError, match="5 tokens, but the model has positions for 4"):
        table(Positions.whole(5))


# --- rotary -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("d_rotary", [8, 4])
@given(st.integers(0, 50), st.integers(0, 50), st.integers(0, 50))
def test_rotary_scores_depend_on_distance_alone_and_keep_lengths(d_rotary: int, m: int, n: int, shift: int) -> None:
    rotary = Rotary(8, d_rotary=d_rotary)
    q, k = (torch.randn(1, 1, 1, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(s)) for s in (1, 2))

    def score(i: int, j: int) -> Tensor:
        return (rotary(q, k, Positions.offset(i, 1))[0] * rotary(q, k, Positions.offset(j, 1))[1]).sum()

    assert torch.isclose(score(m, n), score(m + shift, n + shift), atol=1e-9)
    assert torch.isclose(rotary(q, k, Positions.offset(m, 1))[0].norm(), q.norm())


def test_rotary_turns_pairs_half_a_head_apart() -> None:
    q = torch.zeros(1, 1, 1, 4, dtype=torch.float64)
    q[..., 0] = 1
    turned, _ = Rotary(4, base=100.0)(q, q, Positions.offset(3, 1))
    assert torch.allclose(turned[0, 0, 0], torch.tensor([math.cos(3), 0, math.sin(3), 0], dtype=torch.float64))


def test_scalings_slow_the_angles_as_their_papers_say() -> None:
    plain = Rotary(64, base=500_000.0).frequencies(torch.device("cpu"), torch.float64)
    linear = Rotary(64, base=500_000.0, scaling=LinearScaling(4.0)).frequencies(torch.device("cpu"), torch.float64)
    assert torch.allclose(linear, plain / 4)
    llama3 = Llama3Scaling(8.0, 1.0, 4.0, 8192)(plain)
    turns = 8192 * plain / (2 * math.pi)
    assert torch.allclose(llama3[turns > 4], plain[turns > 4])
    assert torch.allclose(llama3[turns < 1], plain[turns < 1] / 8)
    between = (turns > 1) & (turns < 4)
    assert (llama3[between] < plain[between]).all()
    assert (llama3[between] > plain[between] / 8).all()


def test_rotary_of_an_odd_width_is_refused() -> None:
    with pytest.raises(ConfigError, match="even"):
        Rotary(7)


# --- score terms ------------------------------------------------------------------------------------------------------

CAUSAL_EDGES = [*range(16), 16, 19, 21, 24, 27, 31, 35, 40, 46, 52, 59, 67, 77, 87, 99, 113]
BOTH_EDGES = [*range(8), 8, 12, 16, 23, 32, 46, 64, 91]


def test_t5_buckets_have_the_published_edges() -> None:
    distance = torch.arange(0, 301)
    causal = t5_bucket(-distance, num_buckets=32, max_distance=128, bidirectional=False)
    assert causal.tolist() == [sum(d >= e for e in CAUSAL_EDGES) - 1 for d in distance.tolist()]
    assert t5_bucket(distance, num_buckets=32, max_distance=128, bidirectional=False).abs().max() == 0
    past = t5_bucket(-distance, num_buckets=32, max_distance=128, bidirectional=True)
    assert past.tolist() == [sum(d >= e for e in BOTH_EDGES) - 1 for d in distance.tolist()]
    future = t5_bucket(distance[1:], num_buckets=32, max_distance=128, bidirectional=True)
    assert future.tolist() == [b + 16 for b in past.tolist()[1:]]


@pytest.mark.parametrize("bidirectional", [True, False])
def test_t5_buckets_equal_transformers(bidirectional: bool) -> None:
    from transformers.models.t5.modeling_t5 import T5Attention

    relative = torch.arange(-300, 301)
    for buckets, furthest in ((32, 128), (8, 20), (6, 9)):
        theirs = T5Attention._relative_position_bucket(relative, bidirectional, buckets, furthest)
        ours = t5_bucket(relative, num_buckets=buckets, max_distance=furthest, bidirectional=bidirectional)
        assert ours.equal(theirs), (buckets, furthest)


@pytest.mark.parametrize(("bidirectional", "buckets", "furthest"), [(False, 6, 9), (True, 8, 20), (False, 32, 128)])
def test_t5_bias_is_the_number_of_the_bucket_at_every_distance(
    bidirectional: bool, buckets: int, furthest: int
) -> None:
    term = T5Bias(2, num_buckets=buckets, max_distance=furthest, bidirectional=bidirectional, scale=8.0)
    q_positions, k_positions = Positions.offset(200, 3), Positions.whole(403)
    q, k = torch.zeros(1, 2, 3, 1), torch.zeros(1, 2, 403, 1)
    relative = k_positions.index[:, None, :] - q_positions.index[:, :, None]
    bucket = t5_bucket(relative, num_buckets=buckets, max_distance=furthest, bidirectional=bidirectional)
    found = term.prepare(nn.Identity(), q_positions)(q, k, q_positions, k_positions)
    assert found.equal(8.0 * term.table.weight[bucket].permute(0, 3, 1, 2))


def test_t5_bias_aligns_a_cached_query_with_its_own_place() -> None:
    term = T5Bias(2, bidirectional=False)
    whole = Positions.whole(9)
    bias = term.prepare(nn.Identity(), whole)
    q = k = torch.zeros(1, 2, 9, 1)
    step = bias(q[:, :, :1], k, Positions.offset(8, 1), whole)
    assert step.equal(bias(q, k, whole, whole)[:, :, 8:])


@pytest.mark.parametrize(
    ("n", "slopes"),
    [
        (8, [2.0**-h for h in range(1, 9)]),
        (6, [0.25, 0.0625, 0.015625, 0.00390625, 0.5, 0.125]),
        (12, [*(2.0**-h for h in range(1, 9)), 0.70710678, 0.35355339, 0.17677670, 0.08838835]),
    ],
)
def test_alibi_slopes_are_the_papers(n: int, slopes: list[float]) -> None:
    assert alibi_slopes(n) == pytest.approx(slopes)


def test_alibi_is_minus_slope_times_distance() -> None:
    whole = Positions.whole(5)
    q = k = torch.zeros(1, 3, 5, 1, dtype=torch.float64)
    bias = ALiBi(3).prepare(nn.Identity(), whole)(q, k, whole, whole)
    for h, slope in enumerate(alibi_slopes(3)):
        assert all(bias[0, h, i, j] == -slope * abs(i - j) for i in range(5) for j in range(5))


# --- feed-forward -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("gelu", [-0.00404969, -0.15865525, -0.15426877, 0.34573123, 0.84134475, 2.99595031]),
        ("gelu_tanh", [-0.00363739, -0.15880801, -0.15428599, 0.34571400, 0.84119199, 2.99636261]),
        ("quick_gelu", [-0.01807131, -0.15420423, -0.14961156, 0.35038844, 0.84579577, 2.98192869]),
    ],
)
def test_the_three_forms_of_gelu(name: str, values: list[float]) -> None:
    x = torch.tensor([-3, -1, -0.5, 0.5, 1, 3], dtype=torch.float64)
    assert torch.allclose(ACTIVATIONS[name](x), torch.tensor(values, dtype=torch.float64), atol=1e-8)


def test_feed_forward_plain_and_gated_are_their_formulas() -> None:
    x, positions = torch.randn(2, 3, 5), Positions.whole(3)
    plain = FeedForward(5, 7, activation_name="relu")
    assert plain(x, positions)[0].equal(plain.contract(plain.expand(x).relu()))
    gated = GatedFeedForward(5, 7, activation_name="silu")
    y, staged = gated(x, positions)
    assert y.equal(gated.contract(nn.functional.silu(gated.gate(x)) * gated.expand(x)))
    assert staged is None


def test_an_unknown_activation_is_refused_with_a_suggestion() -> None:
    with pytest.raises(ConfigError, match="did you mean 'gelu'"):
        FeedForward(5, 7, activation_name="gleu")


# --- taps -------------------------------------------------------------------------------------------------------------


def nano(**changes) -> GPT2:
    sizes = {"vocab_size": 31, "d_model": 24, "num_layers": 2, "num_heads": 4, "max_length": 64, "dropout": 0.0}
    return GPT2(GPT2Config(**sizes | {"attention_dropout": 0.0, "embedding_dropout": 0.0} | changes))


def test_taps_show_every_pattern_and_change_nothing() -> None:
    model, text = nano(), torch.arange(10)[None]
    silent = model(text).logits
    with listen(model, "*.pattern") as seen:
        heard = model(text).logits
    assert sorted(seen) == ["trunk.blocks.0.attention.pattern", "trunk.blocks.1.attention.pattern"]
    assert seen["trunk.blocks.0.attention.pattern"][0].shape == (1, 4, 10, 10)
    assert torch.allclose(silent, heard, atol=1e-6)
    assert not any(tap.heard for tap in taps(model).values())


def test_a_listener_that_returns_a_tensor_replaces_what_flows() -> None:
    model, text = nano(), torch.arange(10)[None]
    with attach(model, {"trunk.blocks.1.feed_forward.neurons": torch.zeros_like}):
        silenced = model(text).logits
    assert (silenced - model(text).logits).abs().max() > 1e-4


def test_a_tap_that_is_not_there_is_an_error_with_a_suggestion() -> None:
    with pytest.raises(TargetError, match="did you mean"), attach(nano(), {"trunk.blocks.1.attention.patern": print}):
        pass
    with pytest.raises(TargetError, match="no tap matches"), listen(nano(), "nothing*"):
        pass


# --- trunk ------------------------------------------------------------------------------------------------------------


class Double(nn.Module):
    def forward(self, x: Tensor, positions: Positions, state: None = None, source: None = None) -> tuple[Tensor, None]:
        return 2 * x, None


def test_pre_norm_and_post_norm_are_their_formulas() -> None:
    x, positions = torch.randn(1, 3, 4), Positions.whole(3)

    def norm() -> LayerNorm:
        return LayerNorm(4, eps=1e-5)

    def f(t: Tensor) -> Tensor:
        return nn.functional.layer_norm(t, (4,))

    pre = PreNorm([{"twice": Double()}], norm)
    post = PostNorm([{"twice": Double()}], norm)
    assert torch.allclose(pre(x, positions)[0], f(x + 2 * f(x)), atol=1e-6)
    assert torch.allclose(post(x, positions)[0], f(3 * x), atol=1e-6)


def test_sharing_is_an_order_of_applications() -> None:
    assert shared(6) == (0,) * 6
    assert shared(6, 3) == (0, 0, 1, 1, 2, 2)
    blocks = [{"feed_forward": FeedForward(4, 8, activation_name="relu")}]

    def norm() -> LayerNorm:
        return LayerNorm(4, eps=1e-5)

    once, thrice = PostNorm(blocks, norm), PostNorm(blocks, norm, order=shared(3))
    thrice.load_state_dict(once.state_dict())
    x, positions = torch.randn(1, 3, 4), Positions.whole(3)
    expected = x
    for _ in range(3):
        expected = once(expected, positions)[0]
    assert torch.allclose(thrice(x, positions)[0], expected)
    assert sum(p.numel() for p in once.parameters()) == sum(p.numel() for p in thrice.parameters())
    assert len(thrice.init_state(1, 5)) == 3  # a state for each application, not for each block


def test_an_order_that_leaves_a_block_out_is_refused() -> None:
    with pytest.raises(ConfigError, match="each block used"):
        PreNorm([{"twice": Double()}, {"twice": Double()}], lambda: CosineNorm(4, eps=1e-6), order=(0, 0))
