"""A call with no tokens gives nothing and changes nothing, in every model that keeps a state."""

from __future__ import annotations

import pytest
import torch

import formers
from formers.models import registry
from formers.parts.positions import Positions

NAMES = [name for name in registry.specs() if name != "grafted" and "state" in registry.spec(name).load().MODEL.inputs]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("before", [[], [3]], ids=["at_the_start", "later"])
@pytest.mark.parametrize("ragged", [False, True], ids=["in_step", "ragged"])
def test_a_call_with_no_tokens_leaves_the_state_as_it_was(name: str, before: list[int], ragged: bool) -> None:
    made = formers.build(name, preset="nano", seed=2).eval()
    given = {"source": torch.ones(2, 4, dtype=torch.long)} if "source" in made.inputs else {}
    ids = torch.randint(2, made.config.vocab_size, (2, sum(before) + 2))
    last = []
    for lengths in ([*before, 2], [*before, 0, 2]):
        state = made.init_state(2, 16, **given)
        if ragged:
            index = torch.tensor([[-1, 0], [0, 1]])
            state = made(ids[:, :2], positions=Positions(index), state=state).state.commit()
        for piece in ids.split(lengths, 1):
            with torch.no_grad():
                out = made(piece, state=state)
            state = out.state.commit()
            assert out.logits.shape[1] == piece.shape[1]
        last.append(out.logits)
    assert torch.equal(*last)
