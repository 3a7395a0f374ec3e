"""Attention by hashing: equal to loops that tell the rules, in every setting; and what hashing promises."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from formers.errors import ConfigError
from formers.parts import chunk_plan
from formers.parts.attention import Mix
from formers.parts.chunked import Window
from formers.parts.hashing import FRESH, Hashing, bucketed, hashed, ranks, rotations, sort, taken_apart
from formers.parts.lsh import RULES, HashedAttention, SharedProject, by_token, unit
from formers.parts.positions import Positions
from formers.parts.replay import Record
from formers.parts.taps import listen
from tests.parts import lsh_oracle
from tests.parts.lsh_oracle import stepwise

EQUAL = 1e-9
"""Of float64, forward and backward, whatever order sums are taken in."""
HEADS, WIDTH, D_HEAD = 3, 7, 5


def layer(
    *, rules: str = "paper", rounds: int = 2, num_buckets: int | tuple[int, ...] | None = 4, causal: bool = True,
    chunk: int = 4, before: int = 1, after: int = 0, multiple: int | None = None, seed: int | None = 0, dropout: float = 0.0,
) -> HashedAttention:  # fmt: skip
    torch.manual_seed(1)
    made = HashedAttention(
        SharedProject(WIDTH, HEADS, D_HEAD),
        Mix(HEADS, D_HEAD, WIDTH, bias=False),
        window=Window(chunk, before, after, multiple or chunk, causal=causal),
        hashing=Hashing(rounds, num_buckets, seed, chunk, 4096),
        rules=RULES[rules],
        eps=1e-6,
        dropout=dropout,
    )
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, 0, 0.6)
    return made.double()


def text(n: int, *, batch: int = 2, seed: int = 0) -> Tensor:
    return torch.randn(batch, n, WIDTH, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def padded(n: int, lengths: list[int]) -> Positions:
    index = torch.arange(n)[None].expand(len(lengths), -1)
    return Positions(torch.where(index < torch.tensor(lengths)[:, None], index, -1))


def with_gradients(made: HashedAttention, x: Tensor, positions: Positions, *, densely: bool = False) -> list[Tensor]:
    x = x.clone().requires_grad_()
    if densely:
        with listen(made, "pattern"):
            y, _ = made(x, positions)
    else:
        y, _ = made(x, positions)
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(9), dtype=y.dtype)
    return [y.detach(), *torch.autograd.grad((y * weights).sum(), [x, *made.parameters()])]


def gap(found: list[Tensor], wanted: list[Tensor]) -> float:
    return max(float((f - w).detach().abs().max()) for f, w in zip(found, wanted, strict=True))


# --- equal to the loops, and to the dense twin ------------------------------------------------------------------------


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("rounds", [1, 3])
@pytest.mark.parametrize("rules", RULES)
def test_both_rules_are_what_loops_over_tokens_and_keys_tell(rules: str, rounds: int, causal: bool) -> None:
    made, n = layer(rules=rules, rounds=rounds, causal=causal, before=1, after=0 if causal else 1), 16
    positions, x = padded(n, [n, n - 3]), text(n)
    q, v = made.project(x)
    _, order = made.sorted(q, positions, None)
    bucket = by_token(order)
    told = [
        torch.stack(
            [
                lsh_oracle.attend(
                    q[row, :, head], v[row, :, head], bucket[row, head], chunk=4, after=made.window.after,
                    causal=causal, paper=rules == "paper", present=positions.present[row],
                )
                for head in range(HEADS)
            ]
        )
        for row in range(2)
    ]  # fmt: skip
    weights = torch.randn(2, n, WIDTH, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    looped = made.mix(torch.stack(told))
    wanted = [looped, *torch.autograd.grad((looped * weights).sum(), list(made.parameters()))]
    found = with_gradients(made, x, positions)
    assert gap([found[0], *found[2:]], wanted) <= EQUAL


def cases() -> st.SearchStrategy[dict]:
    sides = st.tuples(st.integers(0, 2), st.integers(0, 2))
    return st.fixed_dictionaries(
        {
            "rules": st.sampled_from(list(RULES)),
            "rounds": st.integers(1, 3),
            "num_buckets": st.sampled_from([None, 1, 2, 6, (2, 4)]),
            "causal": st.booleans(),
            "chunk": st.integers(1, 5),
            "sides": sides,
            "whole_chunks": st.integers(1, 2),
            "n": st.integers(1, 23),
            "kind": st.sampled_from(["whole", "padded", "empty row", "documents"]),
            "tile": st.sampled_from([1, 50, 400, 2**19]),
        }
    )


@settings(max_examples=80, deadline=None)
@given(cases())
def test_chunks_equal_the_dense_twin_forward_and_backward_in_any_setting(case: dict) -> None:
    before, after = case["sides"]
    made = layer(
        rules=case["rules"], rounds=case["rounds"], num_buckets=case["num_buckets"], causal=case["causal"],
        chunk=case["chunk"], before=before, after=after, multiple=case["chunk"] * case["whole_chunks"],
    )  # fmt: skip
    n = case["n"]
    index = torch.arange(n)[None]
    positions = {
        "whole": Positions.whole(n),
        "padded": padded(n, [n, n // 2 + 1]),
        "empty row": padded(n, [n, 0]),
        "documents": Positions(torch.where(index < n // 2, index, index - n // 2), (index >= n // 2).long()),
    }[case["kind"]]
    tile, chunk_plan.TILE = chunk_plan.TILE, case["tile"]
    try:
        found, wanted = (with_gradients(made, text(n), positions, densely=d) for d in (False, True))
    finally:
        chunk_plan.TILE = tile
    assert gap(found, wanted) <= EQUAL


def test_the_twins_differ_where_a_token_is_put_into_another_chunk() -> None:
    made, x, positions = layer(rules="transformers"), text(24), Positions.whole(24)
    wanted = with_gradients(made, x, positions, densely=True)
    made.hashing = Hashing(2, 4, 1, 4, 4096)
    assert gap(with_gradients(made, x, positions), wanted) > 1e-3


@pytest.mark.parametrize("rules", RULES)
def test_a_row_that_is_all_padding_gives_zeros_and_finite_gradients(rules: str) -> None:
    made = layer(rules=rules)
    found = with_gradients(made, text(11), padded(11, [11, 0]))
    assert all(t.isfinite().all() for t in found)
    assert not found[0][1].any()
    assert not found[1][1].any()


def test_dropout_is_drawn_anew_each_time_and_the_backward_pass_draws_the_same() -> None:
    made, x = layer(dropout=0.4, seed=0).train(), text(19)[:1, :, :]
    y = [made(x, Positions.whole(19))[0] for _ in range(2)]
    assert not torch.equal(*y)

    def run(x: Tensor) -> Tensor:
        torch.manual_seed(3)
        return made(x, Positions.whole(19))[0]

    assert torch.autograd.gradcheck(run, (x.clone().requires_grad_(),), eps=1e-6, atol=1e-6)


# --- hashing ----------------------------------------------------------------------------------------------------------


def test_opposites_fall_into_opposite_buckets_and_length_does_not_matter() -> None:
    x = text(200)[:, :, None, :5].contiguous()
    rotation = rotations((6,), 3, x, seed=4)
    bucket = hashed(x, rotation, (6,))
    assert torch.equal(hashed(-x, rotation, (6,)), (bucket + 3) % 6)
    assert torch.equal(hashed(17.3 * x, rotation, (6,)), bucket)


def test_vectors_that_point_more_alike_collide_more_often() -> None:
    generator = torch.Generator().manual_seed(0)
    a, noise = (torch.randn(1, 4000, 1, 8, generator=generator) for _ in range(2))
    a, rates = a / a.norm(dim=-1, keepdim=True), []
    noise = noise - (noise * a).sum(-1, keepdim=True) * a
    noise = noise / noise.norm(dim=-1, keepdim=True)
    for cosine in (-0.5, 0.0, 0.5, 0.8, 0.95, 0.99):
        b = cosine * a + (1 - cosine**2) ** 0.5 * noise
        rotation = rotations((8,), 4, a, seed=1)
        rates.append(float((hashed(a, rotation, (8,)) == hashed(b, rotation, (8,))).float().mean()))
    assert rates == sorted(rates)
    assert rates[0] < 0.05 < 0.8 < rates[-1]


def test_buckets_of_noise_are_about_equally_full() -> None:
    x, rounds = torch.randn(1, 2000, 1, 16, generator=torch.Generator().manual_seed(0)), 64
    for factors in ((8,), (2, 4)):
        counts = hashed(x, rotations(factors, rounds, x, seed=0), factors).flatten().bincount(minlength=8)
        share = counts / (2000 * rounds)
        assert 0.11 < share.min() < share.max() < 0.14, factors


def test_factorised_buckets_are_two_hashes_at_once() -> None:
    x = text(50)[:, :, None, :5].contiguous()
    rotation = rotations((4, 6), 2, x, seed=0)
    bucket = hashed(x, rotation, (4, 6))
    first, second = hashed(x, rotation[..., :2], (4,)), hashed(x, rotation[..., 2:], (6,))
    assert torch.equal(bucket, first + 4 * second)


def test_by_itself_a_bucket_is_half_a_chunk_and_many_buckets_are_factorised() -> None:
    hashing = Hashing(1, None, None, 64, 524_288)
    assert [hashing.factors(n) for n in (64, 128, 1024, 4096, 16_384, 524_288)] == [
        (2,), (4,), (32,), (128,), (16, 32), (128, 128),
    ]  # fmt: skip


def test_sorting_is_stable_and_undone_by_its_ranks() -> None:
    x, present = text(40)[:, :, None, :5].contiguous(), torch.ones(1, 40, dtype=torch.bool)
    order = sort(bucketed(x, present, Hashing(3, 4, 0, 4, 40), 40, seed=0))
    bucket, place = taken_apart(order)
    same = bucket[..., 1:] == bucket[..., :-1]
    assert (bucket.diff(dim=-1) >= 0).all()
    assert (place.diff(dim=-1)[same] > 0).all()
    assert torch.equal(place.gather(-1, ranks(order)), torch.arange(40).expand_as(place))


def test_a_seed_gives_the_same_rotations_and_none_gives_others_in_training() -> None:
    x, positions = text(32), Positions.whole(32)
    made = layer(seed=None, num_buckets=8, rounds=1)
    assert torch.equal(made.eval()(x, positions)[0], made(x, positions)[0])
    made.train()
    assert not torch.equal(made(x, positions)[0], made(x, positions)[0])
    assert Hashing(1, 2, None, 4, 4).seed_for(training=True) == FRESH
    seeded = layer(seed=7, num_buckets=8, rounds=1).train()
    assert torch.equal(seeded(x, positions)[0], seeded(x, positions)[0])


def test_a_recomputation_is_given_the_buckets_of_the_forward() -> None:
    made, x, positions = layer(seed=None, num_buckets=8, rounds=1).train(), text(32), Positions.whole(32)
    record = Record(x.device)
    with record.recording():
        first, _ = made(x, positions)
    with record.replaying():
        again, _ = made(x, positions)
    assert torch.equal(first, again)
    assert not torch.equal(first, made(x, positions)[0])


@pytest.mark.parametrize("num_buckets", [3, 0, -2, (2, 3), (1, 2), ()])
def test_numbers_of_buckets_that_have_no_opposites_are_refused(num_buckets: int | tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="even"):
        Hashing(1, num_buckets, None, 4, 64)


# --- what it comes to -------------------------------------------------------------------------------------------------


@torch.no_grad()
def full(made: HashedAttention, x: Tensor, *, causal: bool) -> Tensor:
    """Attention of shared queries and keys without any hashing: a token sees itself only if nothing else is there."""
    q, v = (t.transpose(1, 2) for t in made.project(x))
    scores = q @ unit(q, 1e-6).transpose(-1, -2)
    n = x.shape[1]
    scores = scores.masked_fill(torch.eye(n, dtype=torch.bool), -1e5)
    if causal:
        scores = scores.masked_fill(torch.ones(n, n, dtype=torch.bool).triu(1), -torch.inf)
    return made.mix(scores.softmax(-1) @ v)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("rules", RULES)
def test_one_bucket_in_one_chunk_is_full_attention(rules: str, causal: bool) -> None:
    made, x = layer(rules=rules, num_buckets=1, rounds=3, chunk=29, causal=causal), text(29)
    assert float((made(x, Positions.whole(29))[0].detach() - full(made, x, causal=causal)).abs().max()) <= EQUAL


def test_one_bucket_is_full_attention_over_as_many_chunks_as_are_seen() -> None:
    made, x = layer(num_buckets=1, rounds=2, chunk=5, before=5), text(29)
    assert float((made(x, Positions.whole(29))[0].detach() - full(made, x, causal=True)).abs().max()) <= EQUAL


def test_the_first_token_sees_itself_alone() -> None:
    made, x = layer(), text(9)
    _, v = made.project(x)
    assert torch.allclose(made(x, Positions.whole(9))[0][:, 0], made.mix(v.transpose(1, 2))[:, 0], rtol=0, atol=EQUAL)


def test_more_rounds_find_more_of_the_keys_that_matter_most() -> None:
    n, found = 256, []
    x = text(n, batch=1, seed=3)
    for rounds in (1, 2, 4, 8):
        made = layer(rounds=rounds, num_buckets=16, chunk=32, causal=False)
        q, _ = made.project(x)
        q = q.transpose(1, 2)
        best = (q @ unit(q, 1e-6).transpose(-1, -2)).masked_fill(torch.eye(n, dtype=torch.bool), -9e9).topk(8).indices
        with listen(made, "pattern") as seen:
            made(x, Positions.whole(n))
        found.append(float((seen["pattern"][0] > 0).gather(-1, best).double().mean()))
    assert found == sorted(found)
    assert found[0] < 0.6 < 0.9 < found[-1], found


def test_with_many_rounds_the_output_nears_full_attention() -> None:
    x, errors = text(64, seed=3), []
    for rounds in (1, 4, 16, 64):
        made = layer(rounds=rounds, num_buckets=4, chunk=16)
        errors.append(float((made(x, Positions.whole(64))[0].detach() - full(made, x, causal=True)).abs().mean()))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < errors[0] / 5


@pytest.mark.parametrize("rules", RULES)
def test_no_weight_and_no_gradient_goes_to_the_future_or_to_padding(rules: str) -> None:
    made, n = layer(rules=rules, rounds=3), 21
    positions, x = padded(n, [n, n - 4]), text(n).requires_grad_()
    with listen(made, "pattern") as seen:
        made(x, positions)
    pattern = seen["pattern"][0]
    assert not pattern.triu(1).any()
    assert not pattern[1, :, :, n - 4 :].any()
    y, _ = made(x, positions)
    for t in range(n - 1):
        (gradient,) = torch.autograd.grad(y[:, t].sum(), x, retain_graph=True)
        assert not gradient[:, t + 1 :].any()


@torch.no_grad()
@pytest.mark.parametrize("rules", RULES)
def test_where_one_chunk_holds_everything_the_future_shows_nowhere(rules: str) -> None:
    made, x = layer(rules=rules, chunk=24, rounds=3), text(24)
    other = text(24, seed=5)
    for t in range(1, 24):
        changed = torch.cat([x[:, :t], other[:, t:]], 1)
        found, wanted = (made(one, Positions.whole(24))[0][:, :t] for one in (changed, x))
        assert torch.equal(found, wanted)


def test_the_tap_of_buckets_shows_where_tokens_fell() -> None:
    made = layer(num_buckets=6, rounds=3)
    with listen(made, "buckets") as seen:
        made(text(30), Positions.whole(30))
    (bucket,) = seen["buckets"]
    assert bucket.shape == (2, HEADS, 3, 30)
    assert set(bucket.unique().tolist()) <= set(range(6))
    assert bucket.unique().numel() > 3


# --- step by step -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize("rounds", [1, 3])
def test_a_step_is_what_a_forward_over_the_text_so_far_gives_its_last_token(rules: str, rounds: int) -> None:
    made, x, n = layer(rules=rules, rounds=rounds, multiple=8), text(27), 27
    stepped = stepwise(made, x, [10, *[1] * (n - 10)])
    with torch.no_grad():
        whole = torch.cat([made(x[:, :t], Positions.whole(t))[0][:, -1:] for t in range(11, n + 1)], 1)
    assert float((stepped[:, 10:] - whole).abs().max()) <= EQUAL


@pytest.mark.parametrize("rules", RULES)
def test_within_one_chunk_steps_are_the_whole(rules: str) -> None:
    made, x = layer(rules=rules, chunk=16), text(16)
    with torch.no_grad():
        whole, _ = made(x, Positions.whole(16))
    for cuts in ([1] * 16, [5, 1, 7, 3]):
        assert float((stepwise(made, x, cuts) - whole).abs().max()) <= EQUAL


@torch.no_grad()
def test_what_is_remembered_is_stored_selected_and_reset() -> None:
    made, x = layer(), text(13, batch=3)
    node = made.init_state(3, 20, dtype=x.dtype)
    _, staged = made(x[:, :12], Positions.whole(12), node)
    node = staged.commit()
    wanted, _ = made(x[:, 12:], Positions.offset(12, 1), node)
    again = made.init_state(3, 20, dtype=x.dtype).with_tensors(node.tensors())
    assert torch.allclose(made(x[:, 12:], Positions.offset(12, 1), again)[0], wanted, rtol=0, atol=EQUAL)
    rows = torch.tensor([2, 0])
    chosen = node.map_rows(lambda t: t.index_select(0, rows))
    assert torch.allclose(made(x[rows, 12:], Positions.offset(12, 1), chosen)[0], wanted[rows], rtol=0, atol=EQUAL)
    anew = node.reset(torch.tensor([False, True, False]))
    index = torch.tensor([[12], [0], [12]])
    found, _ = made(x[:, 12:], Positions(index), anew)
    alone, _ = made(x[1:2, 12:], Positions.whole(1))
    assert torch.allclose(found[1:2], alone, rtol=0, atol=EQUAL)
    assert torch.allclose(found[[0, 2]], wanted[[0, 2]], rtol=0, atol=EQUAL)
