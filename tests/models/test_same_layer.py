"""Recurrence in the same layer: what a segment sees of earlier ones is what its own layers gave, however it is read."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

import formers
from formers.laws import certify
from formers.parts.positions import Positions
from formers.parts.recurrence import by_segment
from formers.parts.trunk import PostNorm, set_recompute
from tests.models.test_transformer_xl import EXACT, SIZES, in_calls, model, text

SEGMENT = SIZES["segment_length"]


def same_layer(**changes: Any) -> Any:
    settings: dict[str, Any] = {"recurrence": "same_layer"}
    return model(**settings | changes)


@torch.no_grad()
def slowly(made: Any, ids: Tensor) -> Tensor:
    """The slow twin: a segment after another, a layer after another, every result kept in a list."""
    memory, trunk, found = made.config.memory_length, made.trunk, []
    gave = [torch.zeros(len(ids), 0, made.config.d_model, dtype=torch.float64) for _ in trunk.blocks]
    for start in range(0, ids.shape[1], SEGMENT):
        x = made.tokens(ids[:, start : start + SEGMENT]) * made.config.d_model**0.5
        here = Positions.offset(start, x.shape[1])
        for n, (block, norms) in enumerate(zip(trunk.blocks, trunk.norms, strict=True)):
            before = gave[n][:, max(0, start - memory) : start]
            there = Positions.offset(start - before.shape[1], before.shape[1] + x.shape[1])
            attention = block["attention"]
            q, k, v = attention.project.apart(x, torch.cat([before, x], 1))
            x = norms["attention"](x + attention.mix(attention.weigh(q * attention.score.scale, k, v, here, there)))
            x = norms["feed_forward"](x + block["feed_forward"](x, here)[0])
            gave[n] = torch.cat([gave[n], x], 1)
        found.append(made.head(x))
    return torch.cat(found, 1)


@pytest.mark.parametrize("changes", [{}, {"memory_length": 3}, {"memory_length": 30}, {"untie": True}])
def test_it_is_its_slow_twin_in_any_cut_into_calls(changes: dict[str, Any]) -> None:
    made, ids = same_layer(**changes), text(2, 29)
    wanted = slowly(made, ids)
    with torch.no_grad():
        assert (made(ids).logits - wanted).abs().max() <= EXACT
        for lengths in ((1,), (5,), (8,), (7, 3, 11)):
            assert (in_calls(made, ids, *lengths) - wanted).abs().max() <= EXACT, lengths
    assert (in_calls(made, ids, 7, 3, 11) - wanted).abs().max() <= EXACT  # with gradients the ring goes other ways
    assert (wanted - model(**changes)(ids).logits).abs().max() > 1e-3


def test_streams_that_promise_where_they_stand_are_read_alike() -> None:
    made, ids = same_layer(), text(2, 30)
    wanted, state = slowly(made, ids), made.init_state(2, 30).dynamic()
    for start, stop in ((0, 10), (10, 15), (15, 30)):
        index = torch.arange(start, stop).expand(2, -1)
        out = made(ids[:, start:stop], positions=Positions(index, torch.zeros_like(index), aligned=5), state=state)
        assert (out.logits - wanted[:, start:stop]).abs().max() <= EXACT
        state = out.state.commit()


def furthest(made: Any, length: int) -> int:
    """The last token that the first one reaches, a segment a call."""
    ids = text(1, length)
    other = ids.clone()
    other[0, 0] = (other[0, 0] + 1) % 31
    moved = (in_calls(made, ids, SEGMENT) - in_calls(made, other, SEGMENT))[0].abs().amax(-1) > EXACT
    return int(moved.nonzero().max())


@pytest.mark.parametrize("layers", [1, 2])
def test_what_reaches_a_token_no_longer_ends_layers_times_the_memory_back(layers: int) -> None:
    """Five tokens a segment, seven remembered: the layer below hands a token on ten further at most, the same layer to all."""
    assert furthest(model(num_layers=layers), 40) == 10 * layers - 1
    assert furthest(same_layer(num_layers=layers), 40) == 39


def test_with_no_memory_it_is_the_layer_below() -> None:
    ids = text(2, 29)
    assert (same_layer(memory_length=0)(ids).logits - model(memory_length=0)(ids).logits).abs().max() <= EXACT


def test_in_one_call_too_no_gradient_crosses_segments_but_maps_learn_from_what_is_remembered() -> None:
    made, ids = same_layer(num_layers=1), text(2, 10)
    embedded: list[Tensor] = []
    hook = made.tokens.register_forward_hook(lambda m, args, out: embedded.append(out.requires_grad_()))
    logits = made(ids).logits[:, 5:]
    hook.remove()
    (gradient,) = torch.autograd.grad(logits.square().sum(), embedded, retain_graph=True)
    assert not gradient[:, :5].any()
    assert gradient[:, 5:].any()
    weight = made.trunk.blocks[0]["attention"].project.linear.weight
    (remembered,) = torch.autograd.grad(logits.square().sum(), [weight])
    (alone,) = torch.autograd.grad(made(ids[:, 5:]).logits.square().sum(), [weight])
    assert (remembered - alone).abs().max() > 1e-3


def test_a_forward_of_many_segments_leaves_its_state_as_it_was() -> None:
    made, ids, more = same_layer(), text(2, 13), text(2, 24, seed=1)
    for gradients in (False, True):
        with torch.set_grad_enabled(gradients):
            state = made(ids, state=made.init_state(2, 60)).state.commit()
            first = made(more, state=state)
            made((more + 1) % 31, state=state)
            assert torch.equal(made(more, state=state).logits, first.logits)
            follow = made(ids, state=first.state.commit()).logits
            wanted = slowly(made, torch.cat([ids, more, ids], 1))
            assert (follow - wanted[:, 37:]).abs().max() <= EXACT


def test_recomputation_reads_the_memory_that_the_forward_read() -> None:
    """Segments that are read one after another in a call must not write where an earlier one will look again."""
    made, ids, found = same_layer(dropout=0.0).train(), text(2, 29), []
    for on in (False, True):
        set_recompute(made, on)
        loss = made(ids).logits.square().sum()
        found.append(torch.autograd.grad(loss, list(made.parameters())))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_all_laws_hold_but_the_one_it_excepts_itself_from() -> None:
    made = formers.build("transformer_xl", **SIZES | {"dropout": 0.0, "recurrence": "same_layer"})
    report = certify(made, fresh=True, length=19)
    assert report.ok, report.failed
    assert report.laws["segments equal whole"].status == "not applicable"
    assert "see what they gave themselves" in report.laws["segments equal whole"].detail
    assert report.laws["step by step equals whole"].status == "pass"


def test_what_a_layer_was_given_in_place_of_what_it_gave_is_caught_by_the_twin() -> None:
    made, ids = same_layer(), text(2, 15)

    wanted = slowly(made, ids)
    made.trunk.apply_block = partial(PostNorm.apply_block, made.trunk)
    assert (made(ids).logits - wanted).abs().max() > 1e-3
    assert (made(ids).logits - model()(ids).logits).abs().max() <= EXACT  # that is the layer below


def test_the_same_weights_serve_both_recurrences() -> None:
    made, ids = model(), text(2, 15)
    shifted = type(made)(replace(made.config, recurrence="same_layer")).double().eval()
    shifted.load_state_dict(made.state_dict())
    assert (shifted(ids).logits - made(ids).logits)[:, :5].abs().max() <= EXACT
    assert (shifted(ids).logits - made(ids).logits)[:, 5:].abs().max() > 1e-3


def test_each_row_is_read_segment_by_segment_wherever_it_stands() -> None:
    def slots(positions: Positions, size: int) -> list[list[list[int]]]:
        return [piece.tolist() for piece, _ in by_segment(positions, size)]

    assert slots(Positions.offset(3, 9), 5) == [[[0, 1]], [[2, 3, 4, 5, 6]], [[7, 8]]]
    assert slots(Positions.offset(5, 5), 5) == [[[0, 1, 2, 3, 4]]]
    index = torch.tensor([[-1, -1, 0, 1, 2, 3], [4, 5, 6, -1, 7, -1], [-1] * 6])
    assert slots(Positions(index), 5) == [[[2, 3, 4, 5], [0, -1, -1, -1], [-1] * 4], [[-1] * 3, [1, 2, 4], [-1] * 3]]
    document = torch.tensor([[0, 0, 0, 0, 1, 1], [0, 0, 0, 0, 0, 0]])
    assert slots(Positions(torch.arange(6).expand(2, -1), document), 10) == [
        [[0, 1, 2, 3, -1, -1], [0, 1, 2, 3, 4, 5]],
        [[4, 5], [-1, -1]],
    ]
    aligned = Positions(torch.tensor([[4, 5, 6, 7], [12, 13, -1, -1]]), aligned=4)
    assert slots(aligned, 8) == [[[0, 1, 2, 3]]]
    assert slots(aligned, 2) == [[[0, 1]], [[2, 3]]]
