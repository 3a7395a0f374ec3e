"""The objective is the model's own loss, whatever the model."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import formers
from formers.parts.positions import Positions
from formers.parts.rings import KeyValueRing
from formers.training.batches import to_tensors
from formers.training.objective import Objective, accepts, is_float64, parameter_count
from tests.training import small


class Foreign(nn.Module):
    """A user's module: ids to logits, and nothing of this library."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.out = nn.Embedding(257, 12), nn.Linear(12, 257)

    def forward(self, input_ids):
        return SimpleNamespace(logits=self.out(self.embedding(input_ids)))


def micro(**how):
    return to_tensors(small.windows().batch(0), "cpu", **{"apart": True, "carried": False, **how})


def plain_loss(logits, targets):
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")


@pytest.mark.parametrize("apart", [True, False])
def test_it_is_the_loss_of_the_models_logits(apart):
    model, rows = small.gpt2(dtype=torch.float64), micro(apart=apart)
    positions = Positions(rows.index, rows.document) if apart else None
    total, count, state = Objective(model)(*rows.arguments())
    expected = plain_loss(model(rows.input_ids, positions=positions).logits, rows.targets)
    assert total.item() == pytest.approx(expected.item(), rel=1e-12)
    assert count == (rows.targets >= 0).sum()
    assert state is None


def test_documents_apart_and_together_differ():
    model = small.gpt2()
    assert Objective(model)(*micro().arguments())[0] != Objective(model)(*micro(apart=False).arguments())[0]


def test_a_foreign_module_is_trained_on_its_logits():
    model, rows = Foreign().double(), micro(apart=False)
    total, _, _ = Objective(model)(*rows.arguments())
    expected = plain_loss(model(rows.input_ids).logits, rows.targets)
    assert total.item() == pytest.approx(expected.item(), rel=1e-12)
    ours = torch.autograd.grad(total, list(model.parameters()))
    theirs = torch.autograd.grad(expected, list(model.parameters()))
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-12)


def test_scores_sum_to_the_loss():
    model, rows = small.gpt2(dtype=torch.float64), micro()
    losses, correct, _ = Objective(model)(*rows.arguments(), scores=True)
    assert losses.shape == correct.shape == rows.targets.shape
    assert losses.sum().item() == pytest.approx(Objective(model)(*rows.arguments())[0].item(), rel=1e-12)


def test_bf16_is_near_float32_and_not_the_same():
    model, rows = small.gpt2(), micro()
    exact = Objective(model)(*rows.arguments())[0].item()
    fast = Objective(model, precision="bf16")(*rows.arguments())[0]
    assert fast.dtype == torch.float32
    assert fast.item() != exact
    assert fast.item() == pytest.approx(exact, rel=1e-3)


def test_tied_weights_are_counted_once_and_frozen_ones_not():
    model = small.gpt2()
    assert parameter_count(model) == sum(p.numel() for p in model.parameters())
    model.tokens.weight.requires_grad_(False)
    assert parameter_count(model) == sum(p.numel() for p in model.parameters()) - 257 * 24


def test_what_a_module_accepts_and_its_type_are_asked_of_it():
    assert accepts(small.gpt2(), "state")
    assert not accepts(Foreign(), "positions")
    assert is_float64(Foreign().double())
    assert not is_float64(Foreign())


# --- calls that begin where segments begin -------------------------------------------------------------------------------

SEGMENTED = {
    "inputs": ("transformer_xl", {"memory_length": 24, "remember": "inputs", "dropout": 0.0}),
    "keys": ("transformer_xl", {"memory_length": 24, "remember": "keys", "dropout": 0.0}),
    "memory": ("memorizing", {"cache_length": 24, "memory_size": 40}),
}


@pytest.mark.parametrize("name", SEGMENTED)
@pytest.mark.parametrize("length", [16, 32])
def test_calls_in_step_with_segments_hand_out_fewer_keys_and_change_nothing(
    name: str, length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A document ends in padding in the middle of a call, another begins with the next; float64."""
    architecture, changes = SEGMENTED[name]
    model = formers.build(architecture, "nano", vocab_size=29, segment_length=16, **changes).double().train()
    objective, seen = Objective(model), []
    extend = KeyValueRing.extend

    def watched(ring: KeyValueRing, k: torch.Tensor, v: torch.Tensor, positions: Positions) -> tuple:
        found = extend(ring, k, v, positions)
        seen.append(found[0].shape[2])
        return found

    monkeypatch.setattr(KeyValueRing, "extend", watched)
    ids = torch.randint(0, 29, (2, 6 * length), generator=torch.Generator().manual_seed(1))
    lengths = (3 * length, 2 * length + 5)  # of each row's first document; its second begins with a call
    results = []
    for aligned in (None, length):
        model.zero_grad(set_to_none=True)
        state, losses = model.init_state(2, 1000).dynamic(), []
        for start in range(0, 6 * length, length):
            index = torch.arange(start, start + length).repeat(2, 1)
            first = start < 3 * length
            index = torch.where(index < torch.tensor(lengths)[:, None], index, -1) if first else index - 3 * length
            state = state.reset(torch.full((2,), start == 3 * length))
            part = ids[:, start : start + length]
            documents = torch.full_like(index, int(not first))
            given = {} if aligned is None else {"aligned": aligned}
            total, _, staged = objective(part, part.where(index >= 0, -100), index, documents, state, **given)
            total.backward()
            losses.append(total.detach())
            state = staged.commit().dynamic()
        results.append((torch.stack(losses), [p.grad for p in model.parameters()]))
    (plain, plain_gradients), (aligned_losses, gradients) = results
    assert (plain - aligned_losses).abs().max() <= 1e-9
    assert all((a - b).abs().max() <= 1e-9 for a, b in zip(plain_gradients, gradients, strict=True) if a is not None)
    half = len(seen) // 2
    assert set(seen[:half]) == {40 + length}
    assert set(seen[half:]) == {24 + length}
