"""Disentangled attention (DeBERTa) against a double loop over its equation, and the buckets of its distances."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.models.deberta_v2.modeling_deberta_v2 import make_log_bucket_position

from formers.parts.attend import RUNNERS, Case, attend, run_blocks
from formers.parts.attention import Project
from formers.parts.disentangled import ContentMaps, DisentangledScore, Distances, OwnMaps, UnbiasedKeys, log_bucket
from formers.parts.disentangled_encoder import Convolution
from formers.parts.masks import Everything, SameDocument
from formers.parts.norms import LayerNorm
from formers.parts.positions import Positions

HEADS, D_HEAD, D_MODEL = 3, 5, 14
SCALE = (3 * D_HEAD) ** -0.5
TOLERANCE = 1e-12
"""Two orders of the same few sums in float64, of numbers up to ten."""

# --- buckets ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("distance", "bucket"),
    [(0, 0), (127, 127), (128, 128), (129, 129), (130, 130), (135, 133), (140, 137), (200, 169), (300, 207), (400, 233),
     (500, 254), (510, 255), (511, 255), (512, 256)],
)  # fmt: skip
def test_published_buckets(distance: int, bucket: int) -> None:
    """256 buckets to 512, as every published checkpoint has them."""
    both = torch.tensor([distance, -distance])
    assert log_bucket(both, num_buckets=256, max_distance=512).tolist() == [bucket, -bucket]


@pytest.mark.parametrize(("buckets", "farthest"), [(256, 512), (32, 128), (8, 17), (64, 256), (10, 100), (7, 41)])
def test_buckets_are_those_of_transformers_and_clamped_where_theirs_go_on(buckets: int, farthest: int) -> None:
    distance = torch.arange(-2 * farthest, 2 * farthest + 1)
    theirs = make_log_bucket_position(distance, buckets, farthest).long()
    ours = log_bucket(distance, num_buckets=buckets, max_distance=farthest)
    assert torch.equal(ours, theirs.clamp(-buckets, buckets))


# --- the score --------------------------------------------------------------------------------------------------------


def randomised(module: Any, seed: int = 0) -> Any:
    generator = torch.Generator().manual_seed(seed)
    module = module.double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return module


def score(kind: str, reach: int, *, buckets: bool = False) -> tuple[DisentangledScore, Any]:
    """A term and the projection that it is given. kind: own maps, those of contents, or only one product."""
    terms = {"c2p": ["c2p"], "p2c": ["p2c"]}.get(kind, ["c2p", "p2c"])
    norm = LayerNorm(D_MODEL, 1e-7) if kind == "shared" else None
    distances = Distances(D_MODEL, reach=reach, max_distance=13 if buckets else None, norm=norm)
    own = OwnMaps(D_MODEL, HEADS, D_HEAD, terms=terms, key_bias=True)
    maps = ContentMaps(terms) if kind == "shared" else own
    project = randomised(Project(D_MODEL, HEADS, D_HEAD, bias=True), 1)
    return randomised(DisentangledScore(distances, maps, scale=SCALE), 2), project


def by_hand(made: DisentangledScore, project: Any, q: Tensor, k: Tensor, v: Tensor, at: Tensor, sees: Tensor) -> Tensor:
    """Attention of unscaled q [b, h, t, d], positions [b, t], sees [b, t, t]: the equation, pair by pair."""
    reach, table, out = made.distances.reach, made.distances.table.weight, torch.zeros_like(q)
    if made.distances.norm is not None:
        table = made.distances.norm(table)
    keys, queries = made.maps(project, table)
    for b, h, i in torch.cartesian_prod(*map(torch.arange, q.shape[:3])).tolist():
        visible = sees[b, i].nonzero().flatten().tolist()
        if not visible:
            continue
        scores = []
        for j in visible:
            distance = at[b, i] - at[b, j]
            if made.distances.max_distance is not None:
                distance = log_bucket(distance, num_buckets=reach, max_distance=made.distances.max_distance)
            row = int(distance.clamp(-reach, reach - 1)) + reach
            total = q[b, h, i] @ k[b, h, j]
            total = total if keys is None else total + q[b, h, i] @ keys[h, row]
            total = total if queries is None else total + k[b, h, j] @ queries[h, row]
            scores.append(total * SCALE)
        out[b, h, i] = torch.stack(scores).softmax(0) @ v[b, h, visible]
    return out


def inputs(batch: int, t: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(t)
    shape = (3, batch, HEADS, t, D_HEAD)
    q, k, v = torch.randn(shape, generator=generator, dtype=torch.float64).unbind(0)
    return q.requires_grad_(), k.requires_grad_(), v.requires_grad_()


def apart(wanted: list[Tensor], left: Tensor, right: Tensor) -> float:
    """The largest difference of two attention outputs, and of the gradients of everything wanted."""
    weigh = torch.randn(left.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    gradients = [
        torch.autograd.grad((out * weigh).sum(), wanted, retain_graph=True, allow_unused=True) for out in (left, right)
    ]
    pairs = [(left, right), *((a, b) for a, b in zip(*gradients, strict=True) if a is not None or b is not None)]
    return max(float((a - b).detach().abs().max()) for a, b in pairs)


PLACES = {
    "whole": Positions.whole(9),
    "further on": Positions.offset(5, 9),
    "padded": Positions(torch.tensor([[0, 1, 2, 3, 4, 5, 6, 7, 8], [-1, -1, 0, 1, 2, 3, -1, -1, -1]])),
    "packed": Positions(torch.tensor([[0, 1, 2, 3, 4, 0, 1, 2, -1]]), torch.tensor([[0, 0, 0, 0, 0, 1, 1, 1, 1]])),
    "gaps": Positions(torch.tensor([[0, 1, 5, 6, 40, 41, 42, 90, 91]])),
}


@pytest.mark.parametrize("places", PLACES)
@pytest.mark.parametrize(
    ("kind", "reach", "buckets"),
    [("own", 4, False), ("own", 30, False), ("shared", 6, True), ("c2p", 4, False), ("p2c", 6, True)],
)
def test_it_is_the_equation(kind: str, reach: int, buckets: bool, places: str) -> None:
    made, project = score(kind, reach, buckets=buckets)
    positions, mask = PLACES[places].rows(2), Everything() & SameDocument()
    q, k, v = inputs(2, 9)
    sees = mask.allows(positions.as_queries(), positions.as_keys()).expand(2, 1, 9, 9)[:, 0]
    sees = sees & positions.present[:, None, :] & positions.present[:, :, None]
    out = attend(q * SCALE, k, v, positions, positions, mask=mask, terms=[made.prepare(project, positions)])
    wanted = [q, k, v, *made.parameters(), *(project.parameters() if kind == "shared" else ())]
    assert apart(wanted, out, by_hand(made, project, q, k, v, positions.index, sees)) <= TOLERANCE


@pytest.mark.parametrize(("t", "s", "start"), [(9, 9, 0), (4, 9, 5), (1, 6, 5), (6, 1, 0), (1, 1, 3), (2, 5, 0)])
@pytest.mark.parametrize(("kind", "reach", "buckets"), [("own", 5, False), ("own", 30, False), ("shared", 8, True)])
def test_scores_off_diagonals_are_those_that_are_gathered(
    kind: str, reach: int, buckets: bool, t: int, s: int, start: int
) -> None:
    made, project = score(kind, reach, buckets=buckets)
    q, k, _ = inputs(2, max(t, s))
    q, k = q[:, :, :t], k[:, :, :s]
    known = (Positions.offset(start, t), Positions.whole(s))
    unknown = (Positions(known[0].index), Positions(known[1].index))
    left, right = (made.prepare(project, at[0])(q, k, *at) for at in (known, unknown))
    assert apart([q, k, *made.parameters()], left, right) <= TOLERANCE


@pytest.mark.parametrize("places", ["whole", "padded"])
def test_every_runner_gives_the_same(places: str) -> None:
    made, project = score("own", 4)
    positions, mask = PLACES[places], Everything() & SameDocument()
    q, k, v = (t.detach() for t in inputs(2, 9))
    term = made.prepare(project, positions)
    case = Case(q, k, v, positions, positions, mask, [term])
    dense = RUNNERS["dense"](case)
    assert (RUNNERS["sdpa"](case) - dense).abs().max() <= TOLERANCE
    if places == "whole":
        assert (run_blocks(case, 4) - dense).abs().max() <= TOLERANCE


def test_the_second_product_is_taken_where_the_authors_take_it() -> None:
    """Not at delta(j,i), where equation 4 has it."""
    made, project = score("p2c", 30)
    positions = Positions.whole(9)
    q, k, _ = inputs(1, 9)
    added = made.prepare(project, positions)(q, k, positions, positions)
    _, queries = made.maps(project, made.distances.table.weight)
    assert queries is not None
    i, j, h = 7, 2, 1
    assert (added[0, h, i, j] - SCALE * k[0, h, j] @ queries[h, 30 + (i - j)]).abs() <= TOLERANCE
    assert (added[0, h, i, j] - SCALE * k[0, h, j] @ queries[h, 30 - (i - j)]).abs() > 1e-3


class Largest(TorchDispatchMode):
    """The most numbers in a tensor that any operation gave."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            held = tensor.untyped_storage().nbytes() // tensor.element_size() if isinstance(tensor, Tensor) else 0
            self.numbers = max(self.numbers, held)
        return out


def test_no_tensor_holds_a_vector_for_each_pair_of_tokens() -> None:
    made, project = score("own", 11)
    positions, t = Positions.whole(64), 64
    q, k, v = inputs(1, t)
    with Largest() as seen:
        out = attend(q * SCALE, k, v, positions, positions, mask=Everything(), terms=[made.prepare(project, positions)])
        out.sum().backward()
    assert seen.numbers <= HEADS * t * t, "d_head times as much would be a vector for each pair"


# --- projections ------------------------------------------------------------------------------------------------------


def test_keys_without_bias_are_a_projection_whose_biases_of_keys_are_zero() -> None:
    made = randomised(UnbiasedKeys(D_MODEL, HEADS, D_HEAD))
    plain = Project(D_MODEL, HEADS, D_HEAD, bias=True).double()
    with torch.no_grad():
        plain.linear.weight.copy_(made.linear.weight)
        plain.linear.bias.copy_(torch.cat([made.query_bias, torch.zeros(HEADS * D_HEAD), made.value_bias]))
    x, seen = torch.randn(2, 2, 7, D_MODEL, dtype=torch.float64).unbind(0)
    for ours, theirs in zip([*made(x), *made.apart(x, seen)], [*plain(x), *plain.apart(x, seen)], strict=True):
        assert (ours - theirs).abs().max() <= TOLERANCE


# --- convolution ------------------------------------------------------------------------------------------------------


def convolution(width: int) -> Convolution:
    return randomised(Convolution(D_MODEL, width, activation=torch.tanh, dropout=0.0))


@pytest.mark.parametrize("width", [1, 3, 5])
def test_a_convolution_reads_no_padding_and_no_other_document(width: int) -> None:
    made = convolution(width)
    texts = [torch.randn(1, n, D_MODEL, dtype=torch.float64) for n in (4, 3, 1)]
    alone = [made(text, Positions.whole(text.shape[1])) for text in texts]
    packed = Positions(torch.tensor([[0, 1, 2, 3, 0, 1, 2, 0, -1]]), torch.tensor([[5, 5, 5, 5, 0, 0, 0, 7, 7]]))
    noise = torch.randn(1, 1, D_MODEL, dtype=torch.float64)
    together = made(torch.cat([*texts, noise], 1), packed)
    assert (together[:, :8] - torch.cat(alone, 1)).abs().max() <= TOLERANCE
    padded = made(torch.cat([noise, texts[0], noise], 1), Positions(torch.tensor([[-1, 0, 1, 2, 3, -1]])))
    assert (padded[:, 1:5] - alone[0]).abs().max() <= TOLERANCE


def test_a_convolution_is_that_of_torch() -> None:
    made, x = convolution(3), torch.randn(2, 7, D_MODEL, dtype=torch.float64)
    assert (made(x, Positions.whole(7)) - made.conv(x.mT).mT.tanh()).abs().max() <= TOLERANCE
