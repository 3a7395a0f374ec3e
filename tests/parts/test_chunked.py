"""A feed-forward in chunks is the feed-forward."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import formers
from formers.errors import ConfigError
from formers.parts.feed_forward import Chunked, FeedForward, GatedFeedForward, in_chunks, name_in_chunks
from formers.parts.positions import Positions

EQUAL = 1e-9
D, D_FF, LENGTH = 13, 37, 19


def whole(kind: type = FeedForward) -> nn.Module:
    torch.manual_seed(0)
    return kind(D, D_FF, activation_name="gelu", bias=True).double()


def gradients(layer: nn.Module) -> list[Tensor]:
    x = torch.randn(3, LENGTH, D, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    y, staged = layer(x, Positions.whole(LENGTH))
    assert staged is None
    return [y.detach(), *torch.autograd.grad(y.square().sum(), [x, *layer.parameters()])]


@pytest.mark.parametrize("kind", [FeedForward, GatedFeedForward])
@pytest.mark.parametrize("chunks", [1, 2, 5, 19, 100])
def test_chunks_change_neither_output_nor_gradient(kind: type, chunks: int) -> None:
    for found, wanted in zip(gradients(Chunked(whole(kind), chunks)), gradients(whole(kind)), strict=True):
        assert (found - wanted).abs().max() <= EQUAL * wanted.abs().max().clamp(min=1.0)


def test_the_activations_are_never_whole() -> None:
    """Forward and backward, no tensor has more than a chunk's neurons; without chunks some have all."""

    def most(layer: nn.Module) -> int:
        sizes = []
        layer.activation = lambda x: (sizes.append(x.numel()), x.relu())[1]  # type: ignore[assignment]
        return sizes, layer

    sizes, layer = most(whole())
    gradients(Chunked(layer, 4))
    assert max(sizes) == 3 * 5 * D_FF
    assert len(sizes) == 8, "each chunk is computed twice"
    sizes, layer = most(whole())
    gradients(layer)
    assert sizes == [3 * LENGTH * D_FF]


def test_what_autograd_saves_is_the_input_alone() -> None:
    def saved(layer: nn.Module) -> int:
        held: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            if not isinstance(tensor, nn.Parameter) and not (tensor._base is not None and tensor._base.is_leaf):
                held[tensor.untyped_storage().data_ptr()] = tensor.numel()
            return tensor

        x = torch.randn(3, LENGTH, D, dtype=torch.float64)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            layer(x, Positions.whole(LENGTH))
        return sum(held.values())

    assert saved(Chunked(whole(), 4)) == 0
    assert saved(whole()) >= 2 * 3 * LENGTH * D_FF


def test_dropout_of_neurons_is_replayed() -> None:
    layer = FeedForward(D, D_FF, activation_name="relu", dropout=0.5).double().train()
    chunked = Chunked(layer, 3)
    x = torch.randn(2, 6, D, dtype=torch.float64, requires_grad=True)

    def run() -> Tensor:
        torch.manual_seed(7)
        return chunked(x, Positions.whole(6))[0].square().sum()

    direction = torch.randn_like(x)
    (gradient,) = torch.autograd.grad(run(), x)
    with torch.no_grad():
        step = 1e-6
        x += step * direction
        above = run()
        x -= 2 * step * direction
        slope = (above - run()) / (2 * step)
    assert abs(slope - (gradient * direction).sum()) <= 1e-5 * slope.abs().clamp(min=1.0)


def test_a_sublayer_that_remembers_is_refused_and_so_is_no_chunk() -> None:
    attention = formers.build("gpt2", "nano").trunk.blocks[0]["attention"]
    with pytest.raises(ConfigError, match="Attention in chunks, which remembers"):
        Chunked(attention, 2)
    with pytest.raises(ConfigError, match="0 chunks"):
        Chunked(whole(), 0)
    with pytest.raises(ConfigError, match="ff_chunks"):
        formers.build("gpt2", "nano", ff_chunks=0)


def test_one_chunk_is_the_feed_forward_itself() -> None:
    layer = whole()
    assert in_chunks(layer, 1) is layer
    assert (name_in_chunks("feed_forward", 1), name_in_chunks("feed_forward", 2)) == (
        "feed_forward",
        "feed_forward.within",
    )


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_model_in_chunks_has_the_weights_and_the_logits_of_one_without(name: str) -> None:
    ids = torch.randint(0, 512, (2, 17))
    plain, chunked = formers.build(name, "nano").eval(), formers.build(name, "nano", ff_chunks=5).eval()
    assert (plain(ids).logits - chunked(ids).logits).abs().max() <= 1e-5
