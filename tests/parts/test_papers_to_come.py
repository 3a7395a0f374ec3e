"""Throw-away twins of papers to come, each forty lines: do the contracts carry them?

A cache of remembered inputs (Transformer-XL), a memory looked up before it is written (Memorizing Transformers), a
half-made pair (Memory Mosaics), a reversible trunk (Reformer). They are tests of the contracts, not of the papers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from formers.parts.attend import attend
from formers.parts.attention import Mix, Project
from formers.parts.feed_forward import FeedForward
from formers.parts.masks import Causal, EarlierSegment, SameDocument, Segments, StrictlyPast
from formers.parts.model import Model
from formers.parts.norms import CosineNorm
from formers.parts.positions import Positions
from formers.parts.states import KeyValueRing, Tree
from formers.parts.trunk import PreNorm

SEGMENT, REMEMBERED, D, H = 4, 8, 12, 2


class RememberedInputs(nn.Module):
    """Attention over remembered inputs: the ring holds x, and keys are projected afresh, with gradient into the maps."""

    def __init__(self) -> None:
        super().__init__()
        self.project, self.mix = Project(D, H, D // H, bias=False), Mix(H, D // H, D, bias=False)

    def init_state(self, batch_size: int, max_length: int, **kind: Any) -> KeyValueRing:
        return KeyValueRing.empty(batch_size, 1, REMEMBERED + SEGMENT, D, 0, **kind)

    def forward(self, x: Tensor, positions: Positions, state: Any = None, source: None = None) -> tuple[Tensor, Any]:
        all_x, all_positions, staged = x, positions, None
        if state is not None:
            inputs, _, all_positions, staged = state.extend(x[:, None], x[:, None, :, :0], positions)
            all_x = inputs[:, 0]
        q = self.project(x)[0]
        _, k, v = self.project(all_x)
        mask = Causal() & Segments(SEGMENT, REMEMBERED) & SameDocument()
        return self.mix(attend(q, k, v, positions, all_positions, mask=mask)), staged


class Remembering(nn.Module):
    """Local attention in segments plus a memory of all earlier segments, visible by position, mixed half and half."""

    def __init__(self) -> None:
        super().__init__()
        self.project, self.mix = Project(D, H, D // H, bias=False), Mix(H, D // H, D, bias=False)

    def init_state(self, batch_size: int, max_length: int, **kind: Any) -> KeyValueRing:
        return KeyValueRing.empty(batch_size, H, max_length, D // H, D // H, **kind)

    def forward(self, x: Tensor, positions: Positions, state: Any = None, source: None = None) -> tuple[Tensor, Any]:
        q, k, v = self.project(x)
        k_positions, staged = positions, None
        if state is not None:
            k, v, k_positions, staged = state.extend(k, v, positions)
        same = SameDocument()
        local = attend(q, k, v, positions, k_positions, mask=Causal() & Segments(SEGMENT, 0) & same)
        memory = attend(q, k, v, positions, k_positions, mask=EarlierSegment(SEGMENT) & same)
        return self.mix((local + memory) / 2), staged


@dataclass
class HalfMade:
    """The ring of finished pairs, and the key whose value still waits for the next token."""

    ring: KeyValueRing
    key: Tensor  # [batch, heads, 1, d]
    index: Tensor  # [batch, 1]

    def map_rows(self, function: Callable[[Tensor], Tensor]) -> HalfMade:
        return HalfMade(self.ring.map_rows(function), function(self.key), function(self.index))

    def reset(self, rows: Tensor) -> HalfMade:
        return HalfMade(self.ring.reset(rows), self.key, self.index.masked_fill(rows[:, None], -1))

    def dynamic(self) -> HalfMade:
        return HalfMade(self.ring.dynamic(), self.key, self.index)

    def tensors(self) -> dict[str, Tensor]:
        return {**self.ring.tensors(), "key": self.key, "waiting": self.index}

    def with_tensors(self, t: dict[str, Tensor]) -> HalfMade:
        ring = {n: v for n, v in t.items() if n not in ("key", "waiting")}
        return HalfMade(self.ring.with_tensors(ring), t["key"], t["waiting"])


@dataclass
class StagedHalf:
    pairs: Any
    key: Tensor
    index: Tensor

    def commit(self) -> HalfMade:
        return HalfMade(self.pairs.commit(), self.key.detach(), self.index)


class Mosaic(nn.Module):
    """Keys on both sides, values that peek one step ahead, strictly past: pair j is complete once x_{j+1} is read."""

    def __init__(self) -> None:
        super().__init__()
        self.key, self.value = nn.Linear(D, D, bias=False), nn.Linear(D, D, bias=False)

    def init_state(self, batch_size: int, max_length: int, **kind: Any) -> HalfMade:
        ring = KeyValueRing.empty(batch_size, H, max_length, D // H, D // H, **kind)
        key = torch.zeros(batch_size, H, 1, D // H, **kind)
        return HalfMade(ring, key, torch.full((batch_size, 1), -1))

    def forward(self, x: Tensor, positions: Positions, state: Any = None, source: None = None) -> tuple[Tensor, Any]:
        key, value = (f(x).unflatten(-1, (H, -1)).transpose(1, 2) for f in (self.key, self.value))
        rows = positions.rows(x.shape[0])
        if state is None:
            pair_keys, pair_values, pair_index = key[:, :, :-1], value[:, :, 1:], rows.index[:, :-1]
            out = attend(key, pair_keys, pair_values, positions, Positions(pair_index), mask=StrictlyPast())
            return out.transpose(1, 2).flatten(2), None
        pair_keys = torch.cat([state.key, key[:, :, :-1]], 2)
        pair_index = torch.cat([state.index, rows.index[:, :-1]], 1)
        k, v, k_positions, pairs = state.ring.extend(pair_keys, value, Positions(pair_index))
        out = attend(key, k, v, positions, k_positions, mask=StrictlyPast())
        return out.transpose(1, 2).flatten(2), StagedHalf(pairs, key[:, :, -1:], rows.index[:, -1:])


class Twin(Model):
    def __init__(self, make: Callable[[], nn.Module], trunk: type[PreNorm] = PreNorm) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.config, self.tokens, self.head = None, nn.Embedding(19, D), nn.Linear(D, 19)
        blocks = [{"mixer": make(), "feed_forward": FeedForward(D, 17, activation_name="gelu")} for _ in range(2)]
        self.trunk = trunk(blocks, lambda: CosineNorm(D, eps=1e-6))
        self.double()

    def run(self, input_ids: Tensor, positions: Positions, state: Tree | None) -> tuple[Tensor, Tree | None]:
        return self.trunk(self.tokens(input_ids), positions, state)


def text(batch: int, length: int) -> Tensor:
    return torch.randint(0, 19, (batch, length), generator=torch.Generator().manual_seed(3))


def in_cuts(model: Twin, ids: Tensor, cuts: tuple[int, ...]) -> Tensor:
    state, pieces = model.init_state(ids.shape[0], 64), []
    for piece in ids.split(cuts, 1):
        out = model(piece, state=state)
        assert model(piece, state=state).logits.equal(out.logits)  # read-only
        state = out.state.commit()
        pieces.append(out.logits)
    return torch.cat(pieces, 1)


@pytest.mark.parametrize("make", [RememberedInputs, Remembering, Mosaic])
@pytest.mark.parametrize("cuts", [(4, 4, 4, 4), (1,) * 16, (8, 8), (5, 11), (16,)])
def test_what_is_seen_does_not_depend_on_how_the_text_was_cut(make, cuts: tuple[int, ...]) -> None:
    model, ids = Twin(make), text(2, 16)
    whole = model(ids).logits
    assert (in_cuts(model, ids, cuts) - whole).abs().max() <= 1e-9


@pytest.mark.parametrize("make", [RememberedInputs, Remembering, Mosaic])
def test_nothing_looks_ahead(make) -> None:
    model, ids = Twin(make), text(1, 16)
    other = ids.clone()
    other[0, 9] = (other[0, 9] + 1) % 19
    assert model(ids).logits[0, :9].equal(model(other).logits[0, :9])


@pytest.mark.parametrize("make", [RememberedInputs, Remembering, Mosaic])
def test_a_row_that_starts_a_new_document_forgets(make) -> None:
    model, ids = Twin(make), text(2, 8)
    state = model(ids, state=model.init_state(2, 64)).state.commit()
    state = state.reset(torch.tensor([True, False]))
    fresh = model(ids[:, :4], state=state).logits[0]
    assert (fresh - model(ids[:1, :4]).logits[0]).abs().max() <= 1e-9
    saved = {n: t.clone() for n, t in state.tensors().items()}
    again = model(ids[:, :4], state=model.init_state(2, 64).from_tensors(saved)).logits
    assert (again - model(ids[:, :4], state=state).logits).abs().max() <= 1e-9


def test_gradients_reach_the_key_map_through_remembered_inputs() -> None:
    model, ids = Twin(RememberedInputs), text(1, 8)
    state = model(ids[:, :4], state=model.init_state(1, 64)).state.commit()
    out = model(ids[:, 4:5], state=state)  # one query, one fresh key: all other keys are remembered
    weight = model.trunk.blocks[1]["mixer"].project.linear.weight  # type: ignore[index, union-attr]
    (gradient,) = torch.autograd.grad(out.logits.sum(), [weight])
    with torch.no_grad():
        silent = model.init_state(1, 64)
        alone = model(ids[:, 4:5], state=silent)
    assert gradient[D : 2 * D].abs().max() > 0
    assert not alone.logits.equal(out.logits)


class ReversiblePair(torch.autograd.Function):
    """y1 = x1 + f(x2), y2 = x2 + g(y1); the backward pass rebuilds x1 and x2 from y1 and y2."""

    @staticmethod
    def forward(
        ctx: Any, x1: Tensor, x2: Tensor, f: Callable, g: Callable, *parameters: Tensor
    ) -> tuple[Tensor, Tensor]:
        ctx.f, ctx.g, ctx.parameters = f, g, parameters
        with torch.no_grad():
            y1 = x1 + f(x2)
            y2 = x2 + g(y1)
        ctx.save_for_backward(y1, y2)
        return y1, y2

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        d1, d2 = grads
        y1, y2 = (t.detach().requires_grad_() for t in ctx.saved_tensors)
        with torch.enable_grad():
            g = ctx.g(y1)
            x2 = (y2 - g).detach().requires_grad_()
            f = ctx.f(x2)
        through_g = torch.autograd.grad(g, [y1, *ctx.parameters], d2, allow_unused=True)
        d1 = d1 + through_g[0]
        through_f = torch.autograd.grad(f, [x2, *ctx.parameters], d1, allow_unused=True)
        both = [
            None if a is None and b is None else (0 if a is None else a) + (0 if b is None else b)
            for a, b in zip(through_g[1:], through_f[1:], strict=True)
        ]
        return d1, d2 + through_f[0], None, None, *both


class ReversibleTrunk(PreNorm):
    """Two streams; each block is one reversible pair. States and the order of blocks come from the base."""

    reversible = True

    def forward(self, x: Tensor, positions: Positions, state: Any = None, source: Any = None) -> tuple[Tensor, Any]:
        x1 = x2 = x
        for i in self.order:
            (a, mixer), (b, feed_forward) = self.blocks[i].items()  # type: ignore[union-attr]
            norms = self.norms[i]

            def f(t: Tensor, m: Any = mixer, n: Any = norms[a]) -> Tensor:  # type: ignore[index]
                return m(n(t), positions)[0]

            def g(t: Tensor, m: Any = feed_forward, n: Any = norms[b]) -> Tensor:  # type: ignore[index]
                return m(n(t), positions)[0]

            if self.reversible:
                x1, x2 = ReversiblePair.apply(x1, x2, f, g, *self.blocks[i].parameters())
            else:
                x1 = x1 + f(x2)
                x2 = x2 + g(x1)
        return self.final_norm((x1 + x2) / 2), None


def test_a_reversible_trunk_of_the_same_sublayers_has_the_ordinary_gradients() -> None:
    model, ids = Twin(Remembering, ReversibleTrunk), text(2, 8)
    gradients = []
    for reversible in (True, False):
        model.trunk.reversible = reversible  # type: ignore[assignment]
        gradients.append(torch.autograd.grad(model(ids).logits.square().sum(), list(model.parameters())))
    assert all((a - b).abs().max() <= 1e-9 for a, b in zip(*gradients, strict=True))
