"""Scores by distance, made in blocks and read off diagonals: those that are gathered, forward and backward."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from formers.parts import distance_scores as made
from formers.parts.attend import Afresh, Case, attend, choose, dense
from formers.parts.disentangled import DisentangledScore, Distances, OwnMaps, gathered
from formers.parts.masks import Everything, SameDocument
from formers.parts.positions import Positions

HEADS, D_HEAD = 3, 5
TOLERANCE = 1e-12
"""Two orders of the same few sums in float64, of numbers up to ten."""


def vectors(t: int, s: int, products: str) -> list[Tensor | None]:
    """q, k, keys and queries; a product that is not asked for has no vectors."""
    generator = torch.Generator().manual_seed(100 * t + s)
    shapes = {"q": (2, HEADS, t, D_HEAD), "k": (2, HEADS, s, D_HEAD)}
    shapes |= dict.fromkeys(("keys", "queries"), (HEADS, t + s - 1, D_HEAD))
    return [
        torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
        if name in ("q", "k") or name in products
        else None
        for name, shape in shapes.items()
    ]


def outputs_and_gradients(run: Any, given: list[Tensor | None]) -> list[Tensor]:
    out = run(*given)
    weigh = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view_as(out)
    wanted = [tensor for tensor in given if tensor is not None]
    return [out, *(g for g in torch.autograd.grad((out * weigh).sum(), wanted, allow_unused=True) if g is not None)]


def gathered_by_place(q: Tensor, k: Tensor, keys: Tensor | None, queries: Tensor | None) -> Tensor:
    t, s = q.shape[2], k.shape[2]
    row = torch.arange(t)[:, None] - torch.arange(s) + s - 1
    return gathered(q, k, keys, queries, row[None])


@pytest.mark.parametrize("block", [1, 2, 3, 64])
@pytest.mark.parametrize(("t", "s"), [(9, 9), (4, 9), (9, 4), (1, 6), (6, 1), (1, 1), (2, 5), (7, 7)])
@pytest.mark.parametrize("products", ["keys queries", "keys", "queries"])
def test_blocks_of_any_size_equal_the_slow_twin(
    products: str, t: int, s: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(made, "BLOCK", block)
    given = vectors(t, s, products)
    ours, twin = (outputs_and_gradients(run, given) for run in (made.distance_scores, gathered_by_place))
    assert len(ours) == len(twin) == 1 + sum(name in products for name in ("keys", "queries")) * 2
    for a, b in zip(ours, twin, strict=True):
        assert (a - b).abs().max() <= TOLERANCE
    with torch.no_grad():
        assert torch.equal(made.distance_scores(*given), ours[0])


@pytest.mark.parametrize("products", ["keys queries", "keys", "queries"])
def test_a_compiler_may_rely_on_what_the_operators_say_of_themselves(products: str) -> None:
    given = vectors(4, 9, products)
    checks = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_static")
    assert set(torch.library.opcheck(made._with_gradient, given, test_utils=checks).values()) == {"SUCCESS"}


def term(reach: int) -> DisentangledScore:
    torch.manual_seed(reach)
    maps = OwnMaps(11, HEADS, D_HEAD, terms=["c2p", "p2c"], key_bias=True)
    return DisentangledScore(Distances(11, reach=reach), maps, scale=0.3).double()


RUNS = {
    "padded": Positions(torch.tensor([[0, 1, 2, 3, 4, 5, 6], [-1, 0, 1, 2, 3, -1, -1]])),
    "packed": Positions(torch.tensor([[0, 1, 2, 3, 0, 1, -1]]), torch.tensor([[4, 4, 4, 4, 1, 1, 1]])),
}


@pytest.mark.parametrize("reach", [3, 30])
@pytest.mark.parametrize("places", RUNS)
def test_of_tokens_in_runs_places_tell_distances(places: str, reach: int, monkeypatch: pytest.MonkeyPatch) -> None:
    made_of, positions = term(reach), RUNS[places]
    q, k, v = torch.randn(3, 2, HEADS, 7, D_HEAD, dtype=torch.float64).unbind(0)
    mask = Everything() & SameDocument()
    calls = []
    monkeypatch.setattr("formers.parts.disentangled.gathered", lambda *given: calls.append(1) or gathered(*given))

    def run(at: Positions, seen: Positions) -> Tensor:
        return attend(q, k, v, at, seen, mask=mask, terms=[made_of.prepare(torch.nn.Identity(), at)])

    together = run(positions, positions)
    assert not calls
    apart = run(positions, Positions(positions.index, positions.document))
    assert calls
    assert (together - apart).abs().max() <= TOLERANCE


@pytest.mark.parametrize("places", ["whole", *RUNS])
def test_without_gradients_all_is_made_in_place_of_the_term(places: str) -> None:
    made_of, positions = term(4), RUNS.get(places, Positions.whole(7))
    q, k, v = torch.randn(3, 2, HEADS, 7, D_HEAD, dtype=torch.float64).unbind(0)
    ready = made_of.prepare(torch.nn.Identity(), positions)
    case = Case(q, k, v, positions, positions, Everything() & SameDocument(), [ready])
    with torch.no_grad():
        assert choose(case) == "dense"
        ours = attend(q, k, v, positions, positions, mask=case.mask, terms=[ready])
    twin = dense(Case(*case.__dict__.values()))
    assert ours.requires_grad is False
    assert (ours - twin.detach()).abs().max() <= TOLERANCE


def test_only_a_term_that_says_so_is_written_over() -> None:
    q, k, v = torch.randn(3, 2, HEADS, 7, D_HEAD, dtype=torch.float64).unbind(0)
    positions, kept = Positions.whole(7), torch.randn(2, HEADS, 7, 7, dtype=torch.float64)
    before = kept.clone()
    with torch.no_grad():
        ours = attend(q, k, v, positions, positions, mask=Everything(), terms=[lambda *_: kept])
        assert torch.equal(kept, before)
        over = attend(q, k, v, positions, positions, mask=Everything(), terms=[Afresh(lambda *_: kept)])
    assert not torch.equal(kept, before)
    assert (ours - over).abs().max() <= TOLERANCE


def test_backward_keeps_the_vectors_and_no_pair_of_tokens() -> None:
    q, k, keys, queries = vectors(40, 40, "keys queries")
    held: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: held.append(t.numel()) or t, lambda t: t):
        made.distance_scores(q, k, keys, queries)
    assert q is not None
    assert 0 < max(held) < 2 * HEADS * 40 * 40
