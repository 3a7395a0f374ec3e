"""The chunked loss equals its slow twin: loss, every gradient, in every precision, through every kind of head."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from formers.training import loss as loss_module
from formers.training.loss import IGNORE, cross_entropy, full_cross_entropy, score

BATCH, SEQ, D_MODEL, VOCAB = 3, 37, 11, 53
FLOAT64_TOLERANCE = 1e-12  # relative norm: sums of a few hundred terms in another order
FLOAT32_TOLERANCE = 2e-6


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """Chunks of 16 tokens and blocks of 3 rows, so that a batch of 111 tokens is cut unevenly."""
    monkeypatch.setattr(loss_module, "_chunk_rows", lambda vocab_size, dtype: 16)
    monkeypatch.setattr(loss_module, "_block_rows", lambda logits: 3)
    monkeypatch.setattr(loss_module, "GENERAL_ROWS", 16)


class Normed(nn.Module):
    """A head that is not one matrix product."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(D_MODEL, D_MODEL), nn.Linear(D_MODEL, VOCAB)

    def forward(self, hidden):
        return 5.0 * torch.tanh(self.second(F.gelu(self.first(hidden))))


class Transformed(Normed):
    """The same transform, and a matrix product at the end that it tells of."""

    def split(self, hidden):
        assert hidden.ndim == 3
        return F.gelu(self.first(hidden)), self.second.weight, self.second.bias

    def forward(self, hidden):
        features, weight, bias = self.split(hidden)
        return F.linear(features, weight, bias)


HEADS = {
    "linear": lambda: nn.Linear(D_MODEL, VOCAB, bias=False),
    "linear with bias": lambda: nn.Linear(D_MODEL, VOCAB),
    "transform, then linear": Transformed,
    "not linear": Normed,
}


def batch(dtype=torch.float64, ignored=True):
    torch.manual_seed(7)
    hidden = torch.randn(BATCH, SEQ, D_MODEL, dtype=dtype, requires_grad=True)
    targets = torch.randint(VOCAB, (BATCH, SEQ))
    if ignored:
        targets[0, 5:20] = IGNORE
        targets[2] = IGNORE
    return hidden, targets


def head_of(name, dtype):
    torch.manual_seed(1)
    return HEADS[name]().to(dtype)


def gradients(function, hidden, head, targets, weight=0.37):
    total, count = function(hidden, head, targets)
    (weight * total).backward()
    found = [hidden.grad, *(p.grad for p in head.parameters())]
    hidden.grad = None
    head.zero_grad()
    return total.detach(), count, found


def apart(a, b):
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, FLOAT64_TOLERANCE), (torch.float32, FLOAT32_TOLERANCE)]
)
@pytest.mark.parametrize("name", HEADS)
def test_loss_and_every_gradient_equal_the_slow_twin(name, dtype, tolerance):
    head = head_of(name, dtype)
    hidden, targets = batch(dtype)
    total, count, found = gradients(cross_entropy, hidden, head, targets)
    expected_total, expected_count, expected = gradients(full_cross_entropy, hidden, head, targets)
    assert total.dtype == dtype
    assert count == expected_count == 2 * SEQ - 15
    assert apart(total, expected_total) < tolerance
    for gradient, wanted in zip(found, expected, strict=True):
        assert apart(gradient, wanted) < tolerance


def test_a_weight_tied_to_the_embedding_gets_the_gradients_of_both_uses():
    embedding = nn.Embedding(VOCAB, D_MODEL, dtype=torch.float64)
    head = nn.Linear(D_MODEL, VOCAB, bias=False)
    head.weight = embedding.weight
    _, targets = batch()
    ids = torch.randint(VOCAB, (BATCH, SEQ))
    found = []
    for function in (cross_entropy, full_cross_entropy):
        function(embedding(ids).tanh(), head, targets)[0].backward()
        found.append(embedding.weight.grad)
        embedding.weight.grad = None
    assert apart(*found) < FLOAT64_TOLERANCE


def test_under_autocast_it_is_as_near_to_float32_as_the_slow_twin_is():
    head = head_of("linear with bias", torch.float32)
    hidden, targets = batch(torch.float32)
    exact = gradients(full_cross_entropy, hidden, head, targets)
    with torch.autocast("cpu", torch.bfloat16):
        ours = gradients(cross_entropy, hidden, head, targets)
        twin = gradients(full_cross_entropy, hidden, head, targets)
    assert ours[0].dtype == torch.float32
    assert apart(ours[0], exact[0]) < 1e-3
    for gradient, theirs, wanted in zip(ours[2], twin[2], exact[2], strict=True):
        assert gradient.dtype == wanted.dtype
        assert apart(gradient, wanted) < max(1.5 * apart(theirs, wanted), 1e-3)


def test_frozen_features_or_a_frozen_head_get_no_gradient_and_the_other_is_unchanged():
    head, (hidden, targets) = head_of("linear", torch.float64), batch()
    _, _, (d_hidden, d_weight) = gradients(cross_entropy, hidden, head, targets)
    cross_entropy(hidden.detach(), head, targets)[0].backward()
    assert torch.equal(head.weight.grad, 0.0 * d_weight + head.weight.grad)
    assert apart(0.37 * head.weight.grad, d_weight) < FLOAT64_TOLERANCE
    head.weight.requires_grad_(False)
    cross_entropy(hidden, head, targets)[0].backward()
    assert apart(0.37 * hidden.grad, d_hidden) < FLOAT64_TOLERANCE


def test_a_batch_without_targets_has_loss_zero_and_zero_gradients():
    head, (hidden, _) = head_of("linear", torch.float32), batch(torch.float32)
    total, count, found = gradients(cross_entropy, hidden, head, torch.full((BATCH, SEQ), IGNORE))
    assert total == 0
    assert count == 0
    assert all(torch.equal(g, torch.zeros_like(g)) for g in found)


@pytest.mark.parametrize("name", HEADS)
def test_where_few_tokens_have_a_target_it_is_still_the_slow_twin(name):
    hidden, targets = batch()
    targets[torch.rand(targets.shape) > 0.15] = IGNORE
    head = HEADS[name]().double()
    wanted = [hidden, *head.parameters()]
    ours, count = cross_entropy(hidden, head, targets)
    theirs, _ = full_cross_entropy(hidden, head, targets)
    assert 0 < count < targets.numel() / 2
    assert ours.item() == pytest.approx(theirs.item(), rel=FLOAT64_TOLERANCE)
    for a, b in zip(torch.autograd.grad(ours, wanted), torch.autograd.grad(theirs, wanted), strict=True):
        assert torch.allclose(a, b, rtol=FLOAT64_TOLERANCE, atol=FLOAT64_TOLERANCE)


def test_tokens_without_a_target_are_not_read_where_they_are_the_most():
    """So the head costs 15% of what it would: what is not a number there spoils nothing."""
    hidden, targets = batch()
    targets[torch.rand(targets.shape) > 0.15] = IGNORE
    spoilt = hidden.detach().masked_fill((targets == IGNORE)[..., None], float("nan")).requires_grad_()
    head = HEADS["linear with bias"]().double()
    loss, _ = cross_entropy(spoilt, head, targets)
    (gradient,) = torch.autograd.grad(loss, spoilt)
    assert loss.item() == pytest.approx(full_cross_entropy(hidden, head, targets)[0].item(), rel=FLOAT64_TOLERANCE)
    assert torch.equal(gradient[targets == IGNORE], torch.zeros_like(gradient[targets == IGNORE]))
    losses, correct = score(spoilt, head, targets)
    assert losses.sum().item() == pytest.approx(loss.item(), rel=FLOAT64_TOLERANCE)
    assert not correct[targets == IGNORE].any()


def test_a_target_of_probability_zero_has_a_finite_loss():
    """exp(-300) is 0 in float32, but the loss is 300."""
    head = nn.Linear(2, 2, bias=False)
    head.weight.data = torch.tensor([[300.0, 0.0], [0.0, 0.0]])
    total, _ = cross_entropy(torch.tensor([[[1.0, 0.0]]], requires_grad=True), head, torch.tensor([[1]]))
    assert total.item() == pytest.approx(300.0, abs=1e-4)


def test_without_gradients_the_loss_is_the_same():
    for name in HEADS:
        head, (hidden, targets) = head_of(name, torch.float64), batch()
        with torch.no_grad():
            total, _ = cross_entropy(hidden, head, targets)
        assert apart(total, cross_entropy(hidden, head, targets)[0].detach()) < FLOAT64_TOLERANCE


@pytest.mark.parametrize("name", HEADS)
def test_score_gives_the_loss_of_each_token_and_whether_it_was_first(name):
    head, (hidden, targets) = head_of(name, torch.float64), batch()
    logits = head(hidden)
    losses, correct = score(hidden, head, targets)
    wanted = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORE, reduction="none")
    assert torch.allclose(losses, wanted.view(BATCH, SEQ), rtol=0, atol=1e-12)
    assert torch.equal(correct, logits.argmax(-1) == targets)
    assert not losses.requires_grad


def test_float32_logits_of_the_whole_batch_are_never_held():
    """Peak of the allocator's live bytes over the pass, against the size of all logits in float32."""
    tokens, vocab = 64 * 16, 4096  # 64 chunks of the fixture's 16 tokens
    hidden = torch.randn(1, tokens, 8, requires_grad=True)
    head, targets = nn.Linear(8, vocab, bias=False), torch.randint(vocab, (1, tokens))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        cross_entropy(hidden, head, targets)[0].backward()
    live, peak = 0, 0
    for event in profile.profiler.kineto_results.events():  # type: ignore[union-attr]
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    assert 0 < peak < 0.25 * tokens * vocab * 4


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # torch warns of itself when it compiles
def test_compiled_in_one_graph_it_gives_the_same():
    head, (hidden, targets) = head_of("linear with bias", torch.float32), batch(torch.float32)
    eager = gradients(cross_entropy, hidden, head, targets)
    compiled = gradients(torch.compile(cross_entropy, dynamic=False, fullgraph=True), hidden, head, targets)
    assert apart(compiled[0], eager[0]) < FLOAT32_TOLERANCE
    for gradient, wanted in zip(compiled[2], eager[2], strict=True):
        assert apart(gradient, wanted) < FLOAT32_TOLERANCE
