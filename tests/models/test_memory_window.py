"""A segment of many windows: what is seen, how far gradients go, and that a window costs what it shows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from formers.errors import ConfigError
from formers.laws import certify
from formers.models.memorizing import MemorizingConfig
from formers.parts import attend as attending
from formers.parts.attend import Case
from formers.parts.positions import Positions
from tests.laws.test_memory_defects import model as small
from tests.models.test_memorizing import EXACT, SIZES, TEXT, model, read, text

WINDOWS: dict[str, dict[str, Any]] = {
    "meliad": {"segment_length": 12, "window": 3, "cache_length": 3, "own_token": False},
    "slides": {"segment_length": 12, "window": 3, "cache_length": 2},
    "no cache": {"segment_length": 12, "window": 4, "cache_length": 0},
    "a cache shorter than the window": {"window": 7, "cache_length": 3, "memory_size": 8},
    "wider than all there is": {"window": 99, "cache_length": 3, "seen_twice": False},
    "itself alone": {"window": 1, "cache_length": 0, "merge": "joint"},
}


@pytest.mark.parametrize("variant", WINDOWS)
def test_what_is_seen_does_not_depend_on_how_a_text_was_cut(variant: str) -> None:
    made, ids = model(**WINDOWS[variant]), text()
    with torch.no_grad():
        whole = made(ids).logits
    assert (read(made, ids, [7, 1, 1, 1, 17, 10])[0] - whole).abs().max() < EXACT


@pytest.mark.parametrize("variant", WINDOWS)
def test_a_token_sees_its_window_and_of_what_is_before_its_segment_the_cache(variant: str) -> None:
    config = MemorizingConfig(**SIZES | WINDOWS[variant])
    places = Positions.whole(TEXT)
    seen = config.near.allows(places.as_queries(), places.as_keys())[0, 0]
    for query, row in enumerate(seen.tolist()):
        first = max(0, query // config.segment_length * config.segment_length - config.cache_length)
        keys = [key for key in range(first, query + 1) if config.own_token or key < query]
        assert [key for key, sees in enumerate(row) if sees] == keys[-int(config.window or 0) :]


def test_without_a_window_or_with_one_that_hides_nothing_it_is_the_same_model() -> None:
    ids = text()
    assert torch.equal(model(window=99)(ids).logits, model()(ids).logits)
    assert not torch.equal(model(window=4)(ids).logits, model()(ids).logits)


def apart(length: int, **changes: Any) -> tuple[Any, Tensor]:
    """A model and a text of two segments of that length, no token twice: gradients of embeddings are of places."""
    made = model(vocab_size=2 * length, segment_length=length, tie=False, neighbours=30, **changes)
    return made, torch.randperm(2 * length, generator=torch.Generator().manual_seed(1))[None]


def reached(made: Any, ids: Tensor, length: int) -> list[int]:
    """Places that the gradient of the last token's loss reaches, where a call is a segment."""
    state = made(ids[:, :length], state=made.init_state(1, 2 * length)).state.commit()
    last = made(ids[:, length:], state=state).logits[0, -1].log_softmax(-1)[0]
    (gradient,) = torch.autograd.grad(last, made.tokens.weight)
    return [place for place, token in enumerate(ids[0].tolist()) if gradient[token].any()]


def test_gradients_go_from_window_to_window_inside_the_segment_and_none_beyond() -> None:
    """Three layers that see 4 tokens back reach 12: of a segment of 20 that much, of one of 8 all, though the tokens before it
    are seen, through the cache and in the memory."""
    window = {"window": 5, "cache_length": 4}
    made, ids = apart(20, **window)
    assert reached(made, ids, 20) == list(range(40 - 13, 40))
    made, ids = apart(8, **window)
    assert reached(made, ids, 8) == list(range(8, 16))
    with torch.no_grad():
        other = torch.cat([ids[:, :8].flip(1), ids[:, 8:]], 1)
        assert (made(ids).logits[0, -1] - made(other).logits[0, -1]).abs().max() > 1e-3


@pytest.mark.parametrize("change", [{}, {"own_token": False, "num_kv_heads": 1}, {"bias_in_memory_layers": False}])
def test_in_blocks_a_carried_segment_is_its_dense_twin_forward_and_backward(change: dict[str, Any]) -> None:
    """Rows that go on, begin anew in the second segment, end in it, and take no part in it."""
    length = 140
    made = model(segment_length=length, window=7, cache_length=7, num_layers=2, **change)
    ids, index = text(4, 2 * length), torch.arange(length).expand(4, -1)

    def second(runner: str) -> list[Tensor]:
        for block in made.trunk.blocks:
            block["attention"].runner = runner
        state, there, out = made.init_state(4, 10**4).dynamic(), index, None
        for part in ids.split(length, 1):
            out = made(part, positions=Positions(there, torch.zeros_like(there), aligned=length), state=state)
            state = out.state.commit().reset(torch.tensor([False, True, False, False]))
            there = index + torch.tensor([length, 0, length, length])[:, None]
            there[2, 100:], there[3] = -1, -1
        assert out is not None
        logits = out.logits * (there >= 0)[..., None]
        return [logits.detach(), *torch.autograd.grad(logits.square().mean(), list(made.parameters()))]

    carried = second("blocks")
    with torch.no_grad():
        assert (carried[0][0] - made(ids[:1]).logits[0, length:]).abs().max() < EXACT
    for found, wanted in zip(carried, second("dense"), strict=True):
        assert (found - wanted).abs().max() < EXACT * max(1.0, float(wanted.abs().max()))


@pytest.mark.parametrize("carried", [False, True])
def test_a_window_is_run_in_blocks_and_a_whole_segment_is_not(carried: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[str] = []
    choose = attending.choose

    def heard(case: Case) -> str:
        chosen.append(choose(case))
        return chosen[-1]

    monkeypatch.setattr(attending, "choose", heard)
    ids, index = text(1, 512), torch.arange(512, 1024)[None]
    for window in (16, None):
        made = model(segment_length=512, window=window, cache_length=16, num_layers=2)
        positions, state = None, None
        if carried:
            positions, state = Positions(index, index * 0, aligned=512), made.init_state(1, 10**4).dynamic()
        made(ids, positions=positions, state=state)
    assert chosen == ["blocks", "blocks", "biased", "biased"]


def test_a_window_is_all_that_a_layer_keeps_of_what_is_near() -> None:
    state = model(segment_length=50, window=7, cache_length=7).init_state(1, 10**4)
    assert state.nodes[0][0].capacity == state.nodes[1][0].local.capacity == 7
    state = model(segment_length=50, window=7, cache_length=7, own_token=False).init_state(1, 10**4)
    assert state.nodes[0][0].capacity == 8
    assert model(window=7).init_state(1, 10**4).nodes[0][0].capacity == 3 + 5  # where segments begin shows


LAWS = ["causal by perturbation", "padding changes nothing", "documents stay apart", "a row that is reset begins anew"]
"""Those that a window could break and that the tests above do not try."""


def test_the_laws_hold() -> None:
    report = certify(small(window=2, segment_length=5), laws=LAWS, length=11)
    assert report.ok, report.failed


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"window": 0}, "window is 0, wanted none or at least 1"),
        ({"window": 2}, "cache_length is 3, wanted no more than window, 2"),
    ],
)
def test_a_window_that_cannot_be_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        MemorizingConfig(**SIZES | change)
