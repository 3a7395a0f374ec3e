"""Schemes of positions of the memorizing transformer: one flag each, what a shift changes, and what they look like."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import formers
from formers.cli import show
from formers.errors import ConfigError, TargetError
from formers.inspection.distance import scores_by_distance
from formers.laws import certify
from formers.models.memorizing import POSITIONS
from formers.parts.positions import Positions
from formers.parts.terms import alibi_slopes
from tests.laws.test_memory_defects import model as small
from tests.models.test_memorizing import EXACT, TEXT, model, read, text

EVEN = {"d_model": 28, "window": 4}
"""Heads of an even width, for rotary positions; distances of 0 to 3."""


def made_with(scheme: str, **changes: Any) -> Any:
    return model(positions=scheme, **EVEN | changes)


@pytest.mark.parametrize("scheme", POSITIONS)
def test_a_shift_changes_nothing_but_with_absolute_positions_and_how_the_text_was_cut_does_not_show(
    scheme: str,
) -> None:
    """A shift of whole segments, so that a memory shows what it showed; without memory layers, any."""
    with torch.no_grad():
        for made, shift in ((made_with(scheme), 70), (made_with(scheme, memory_layers=()), 3)):
            logits = made(text()).logits
            gap = (made(text(), positions=Positions.offset(shift, TEXT)).logits - logits).abs().max()
            assert (gap > 1e-3) if scheme == "sinusoidal" else (gap < EXACT)
            if len(made.config.memory_layers):
                assert (read(made, text(), [7, 1, 19, 10])[0] - logits).abs().max() < EXACT


def test_each_scheme_is_another_and_the_default_is_what_it_was() -> None:
    logits = {scheme: made_with(scheme)(text()).logits.detach() for scheme in POSITIONS}
    assert min(float((logits[a] - logits[b]).abs().max()) for a in POSITIONS for b in POSITIONS if a < b) > 1e-3
    assert torch.equal(logits["t5"], model(**EVEN)(text()).logits)
    assert "trunk.blocks.1.attention.score.terms.0.table.weight" in model().state_dict()


@pytest.mark.parametrize("scheme", POSITIONS)
def test_a_few_steps_fit(scheme: str) -> None:
    made = formers.build("memorizing", **small().config.__dict__ | {"positions": scheme, "d_model": 28}, seed=1)
    ids = torch.randint(0, 97, (2, 15), generator=torch.Generator().manual_seed(0))
    optimizer, losses = torch.optim.Adam(made.parameters(), 1e-2), []
    for _ in range(6):
        logits = made(ids).logits[:, :-1].flatten(0, 1)
        losses.append(torch.nn.functional.cross_entropy(logits, ids[:, 1:].flatten()))
        optimizer.zero_grad()
        losses[-1].backward()
        assert all(p.grad is not None and p.grad.any() for p in made.parameters())
        optimizer.step()
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("scheme", ["rotary", "sinusoidal"])
def test_the_laws_hold_that_the_tests_above_do_not_try(scheme: str) -> None:
    laws = ["documents stay apart", "causal by gradient"]
    report = certify(small(positions=scheme, d_model=28), laws=laws, length=11)
    assert report.ok, report.failed


@pytest.mark.parametrize("scheme", ["t5", "rotary", "fourier"])
def test_a_memory_holds_keys_without_their_places(scheme: str) -> None:
    """One token again and again: every key that the first layer stores is the same."""
    made = made_with(scheme, memory_layers=(0,))
    _, state = read(made, torch.full((1, TEXT), 5), [TEXT])
    keys = state.nodes[0][0].memory.keys.tensors("keys")["keys"][:, :, :TEXT]
    assert (keys - keys[:, :, :1]).abs().max() < EXACT


@pytest.mark.parametrize("scheme", ["alibi", "rotary"])
def test_memory_layers_may_go_without(scheme: str) -> None:
    for held in (True, False):
        layers = [b["attention"] for b in made_with(scheme, bias_in_memory_layers=held).trunk.blocks]
        assert [len(layer.score.terms) > 0 or layer.turn is not None for layer in layers] == [True, held, True]


def test_what_is_drawn_is_what_positions_add() -> None:
    sizes = {"window": 9, "cache_length": 0, "segment_length": 99}
    found = {scheme: scores_by_distance(made_with(scheme, **sizes), length=12) for scheme in POSITIONS}
    first = "trunk.blocks.0.attention"
    slopes = torch.tensor(alibi_slopes(2), dtype=torch.float64)
    back = torch.arange(9)
    assert (found["alibi"][first][:, :9] + slopes[:, None] * back).abs().max() < EXACT
    assert found["none"][first][:, :9].abs().max() < EXACT
    term = made_with("t5").trunk.blocks[0]["attention"].score.terms[0]
    line = term.prepare(torch.nn.Identity(), Positions.whole(1)).line(-back)
    assert (found["t5"][first][:, :9] - (line - line[:, :1])).abs().max() < EXACT
    for scheme in POSITIONS:
        assert found[scheme].keys() == {f"trunk.blocks.{i}.attention" for i in range(3)}
        assert found[scheme][first][:, 9:].isnan().all()
        assert (found[scheme][first][:, 1:9].abs().max() > 1e-3) == (scheme != "none")


def test_a_command_draws_it(tmp_path: Path) -> None:
    show.main(["memorizing.nano", "--set", "positions=alibi", "--distances", str(tmp_path / "alibi.svg")])
    assert "trunk.blocks.1.attention" in (tmp_path / "alibi.svg").read_text()
    with pytest.raises(TargetError, match="no tap of an attention pattern"):
        scores_by_distance(torch.nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"positions": "rotory"}, "positions is 'rotory', wanted one of t5, alibi, fourier"),
        ({"positions": "rotary"}, "heads of 13 numbers, of which positions='rotary' turns pairs"),
    ],
)
def test_positions_that_cannot_be_are_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        model(**change)


def test_distances_of_a_model_that_reads_a_source_or_sees_nothing_are_refused(tmp_path: Path) -> None:
    out = str(tmp_path / "none.svg")
    with pytest.raises(TargetError, match="T5 reads a source"):
        show.main(["t5.nano", "--distances", out])
    with pytest.raises(TargetError, match="no token sees any other"):
        show.main(
            ["memorizing.nano", "--set", "segment_length=1", "cache_length=0", "own_token=false", "--distances", out]
        )
