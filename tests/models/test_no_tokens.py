"""A call without a token gives none and changes nothing, in models that go through a text window by window."""

from __future__ import annotations

import pytest
import torch

import formers

SIZES = {"vocab_size": 31, "d_model": 22, "num_layers": 2, "num_heads": 2, "d_ff": 37}
WINDOWED = {
    "block_recurrent": {"block_length": 5, "num_states": 3, "recurrent_layers": (1,)},
    "melodi": {"segment_length": 5, "summary_length": 3, "memory_layers": (1,), "memory_increment": 2},
    "memorizing": {"segment_length": 5, "cache_length": 5, "memory_layers": (1,), "memory_query_stride": 3},
    "transformer_xl": {"segment_length": 5, "memory_length": 7},
}


@pytest.mark.parametrize("name", WINDOWED)
@torch.no_grad()
def test_a_call_without_a_token_gives_none_and_changes_nothing(name: str) -> None:
    model = formers.build(name, **SIZES, **WINDOWED[name]).double().eval()
    ids = torch.randint(0, 31, (3, 17), generator=torch.Generator().manual_seed(0))
    assert model(ids[:, :0]).logits.shape == (3, 0, 31)
    state, read = model.init_state(3, 17, dtype=torch.float64), []
    for a, b in ((0, 0), (0, 13), (13, 13), (13, 17)):
        out = model(ids[:, a:b], state=state)
        state = out.state.commit()
        read.append(out.logits)
    torch.testing.assert_close(torch.cat(read, 1), model(ids).logits, rtol=0, atol=1e-9)
