"""WaveNet: the formulas written out, how far a logit hears, states of a few inputs a layer (1609.03499)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import formers
from formers.errors import ConfigError
from formers.hub.differences import randomise
from formers.models.wavenet import WaveNet, WaveNetConfig
from formers.parts import dilated
from formers.parts.positions import Positions
from formers.parts.trunk import set_recompute

SIZES: dict[str, Any] = {"vocab_size": 31, "d_model": 7, "d_skip": 11, "num_layers": 5, "cycle": 3}
EXACT = 1e-9
"""The same sums in another order, float64."""


def model(seed: int = 1, **changes: Any) -> Any:
    made = formers.build("wavenet", **SIZES | changes).double().eval()
    randomise(made, seed)
    return made


def text(batch: int, length: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 31, (batch, length), generator=torch.Generator().manual_seed(seed))


def papers_logits(made: WaveNet, ids: Tensor) -> Tensor:
    """Logits [seq, vocab] of one row by section 2.3 and figure 4, token by token."""
    config, w = made.config, dict(made.named_parameters())
    x, skip = w["tokens.weight"][ids], torch.zeros(len(ids), config.d_skip, dtype=torch.float64)
    for layer in range(config.num_layers):
        name, apart = f"trunk.blocks.{layer}.convolution.", 2 ** (layer % config.cycle)
        rows = []
        for i in range(len(ids)):
            before = range(i - (config.taps - 1) * apart, i + 1, apart)
            heard = torch.cat([x[j] if j >= 0 else torch.zeros_like(x[0]) for j in before])
            both = w[name + "expand.weight"] @ heard + w[name + "expand.bias"]
            z = both[: config.d_model].tanh() * torch.sigmoid(both[config.d_model :])
            rows.append(w[name + "contract.weight"] @ z + w[name + "contract.bias"])
        added = torch.stack(rows)
        x, skip = x + added[:, : config.d_model], skip + added[:, config.d_model :]
    hidden = (skip.relu() @ w["post.weight"].T + w["post.bias"]).relu()
    return hidden @ w["head.linear.weight"].T + w["head.linear.bias"]


def gap_to_the_paper(made: Any, length: int = 23) -> float:
    ids = text(1, length)
    weigh = torch.linspace(-1, 1, length * 31, dtype=torch.float64).view(length, 31)
    found, wanted = made(ids).logits[0], papers_logits(made, ids[0])
    gradients = (torch.autograd.grad((out * weigh).sum(), list(made.parameters())) for out in (found, wanted))
    pairs = [(found, wanted), *zip(*gradients, strict=True)]
    return max(float((ours - theirs).detach().abs().max()) for ours, theirs in pairs)


@pytest.mark.parametrize("changes", [{}, {"taps": 3}, {"taps": 1}])
def test_it_is_the_papers_model_forward_and_backward(changes: dict[str, Any]) -> None:
    assert gap_to_the_paper(model(**changes)) <= EXACT


def test_what_is_broken_is_not_the_papers_model(monkeypatch: pytest.MonkeyPatch) -> None:
    made = model()
    made.trunk.blocks[2]["convolution"].distances = (3,)
    assert gap_to_the_paper(made) > 1e-4
    before = dilated.earlier
    monkeypatch.setattr(dilated, "earlier", lambda x, *rest: before(x.detach(), *rest))
    assert gap_to_the_paper(model()) > 1e-4


@pytest.mark.parametrize("taps", [2, 3])
def test_a_logit_hears_of_the_receptive_field_and_no_more(taps: int) -> None:
    made = model(taps=taps)
    field = made.config.receptive_field
    assert made.config.dilations == (1, 2, 4, 1, 2)
    assert field == 1 + (taps - 1) * 10
    ids = text(1, 40)
    other = ids.clone()
    other[0, 3] = (other[0, 3] + 1) % 31
    moved = (made(ids).logits - made(other).logits)[0].detach().abs().amax(-1) > 0
    assert moved.nonzero().flatten().tolist() == list(range(3, 3 + field))


# --- states ---------------------------------------------------------------------------------------------------------


def in_calls(
    made: Any, ids: Tensor, *lengths: int, positions: Positions | None = None, dynamic: bool = False
) -> Tensor:
    """Logits of `ids` read in calls of these lengths, the last of them repeated to the end."""
    state, found, start = made.init_state(len(ids), 8), [], 0
    state = state.dynamic() if dynamic else state
    while start < ids.shape[1]:
        stop = min(ids.shape[1], start + lengths[min(len(found), len(lengths) - 1)])
        out = made(ids[:, start:stop], positions=positions and positions.slice(start, stop), state=state)
        found.append(out.logits)
        state, start = out.state.commit(), stop
    return torch.cat(found, 1)


@pytest.mark.parametrize("dynamic", [False, True])
def test_any_cut_into_calls_gives_the_same_logits(dynamic: bool) -> None:
    made, ids = model(taps=3), text(2, 29)
    whole = made(ids).logits
    for lengths in ((1,), (6,), (7, 3, 11), (1, 9, 1), (29,)):
        assert (in_calls(made, ids, *lengths, dynamic=dynamic) - whole).abs().max() <= EXACT, lengths


def test_ragged_rows_and_a_second_document_in_any_cut() -> None:
    made, ids = model(), text(2, 23)
    index = torch.tensor([[-1] * 4 + [0, 1, 2, -1, -1, *range(3, 17)], [*range(9), *range(11), -1, -1, -1]])
    document = torch.tensor([[4] * 23, [1] * 9 + [2] * 14])
    positions = Positions(index, document)
    row = torch.cat([ids[:1, 4:7], ids[:1, 9:]], 1)  # padding in the middle changes nothing
    wanted = [
        (0, [*range(4, 7), *range(9, 23)], made(row).logits[0]),
        (1, [*range(9)], made(ids[1:, :9]).logits[0]),
        (1, [*range(9, 20)], made(ids[1:, 9:20]).logits[0]),
    ]
    for logits in (
        made(ids, positions=positions).logits,
        *(in_calls(made, ids, *lengths, positions=positions) for lengths in ((23,), (1,), (6, 2, 9))),
    ):
        for which, places, alone in wanted:
            assert (logits[which, places] - alone).abs().max() <= EXACT


def test_a_state_holds_the_last_inputs_of_each_layer_and_grows_no_further() -> None:
    made = model()
    state = made.init_state(2, 1000)
    assert [ring.capacity for (ring,) in state.nodes] == [1, 2, 4, 1, 2]
    entry = 7 * 8 + 2 * 8  # float64, and its index and document
    wanted = 2 * (10 * entry + 5 * 8) + 2 * 8
    assert state.nbytes == wanted
    state = made(text(2, 50), state=state).state.commit()
    assert state.nbytes == wanted
    assert all(ring.start == 50 for (ring,) in state.nodes)  # so that a step goes on without looking at tensors


def test_the_laws_hold() -> None:
    for changes in ({}, {"taps": 3, "dropout": 0.2}):
        report = formers.certify(formers.build("wavenet", **SIZES | changes))
        assert report.ok, report.failed
        silent = {v.name for v in report.laws.values() if v.status != "pass"}
        assert silent == {"the tokenizer fits", "segments equal whole", "no weight on the future"}


def test_recomputation_gives_the_same_gradients_bit_for_bit() -> None:
    made, ids, found = model(dropout=0.3).train(), text(2, 20), []
    for on in (False, True):
        set_recompute(made, on)
        torch.manual_seed(5)
        found.append(torch.autograd.grad(made(ids).logits.square().mean(), list(made.parameters())))
    assert all(torch.equal(kept, again) for kept, again in zip(*found, strict=True))


# --- settings ---------------------------------------------------------------------------------------------------------


def test_saved_and_loaded_it_is_the_same_model(tmp_path: Path) -> None:
    made = model(taps=3)
    again = formers.load(formers.save(made, tmp_path / "wavenet"))
    assert again.config == made.config
    assert torch.equal(again(text(1, 20)).logits, made(text(1, 20)).logits)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"cycle is 0.*taps is 0"):
        WaveNetConfig(cycle=0, taps=0)
