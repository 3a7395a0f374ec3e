"""The mechanisms that `formers crossover` compares: ways for a token to hear of earlier ones, each as one sublayer.

To add one, write a function of `Sizes` that returns a sublayer ``(x, positions) -> (y, _)``, and a line in `MECHANISMS`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from formers.models import memorizing, memory_mosaics, reformer, sparse_transformer
from formers.parts.attention import Attention, Mix, Project, Score, scale_of
from formers.parts.dilated import GatedConvolution
from formers.parts.masks import Causal, Dilated, Mask, Window
from formers.parts.positions import Positions


@dataclass(frozen=True)
class Sizes:
    """Of a layer, and the length of the text that it is to read."""

    d_model: int = 256
    num_heads: int = 4
    length: int = 1024

    @property
    def d_head(self) -> int:
        return self.d_model // self.num_heads

    @property
    def stride(self) -> int:
        """The power of two next to the square root of the length, as the Sparse Transformer's should be."""
        return max(2, 1 << round((self.length.bit_length() - 1) / 2))


@dataclass(frozen=True)
class Mechanism:
    """`about` says what it sees; `make` gives a sublayer, causal and without dropout."""

    about: str
    make: Callable[[Sizes], nn.Module]


WINDOW, DILATION, SUMMARY, ROUNDS, SEGMENT, NEIGHBOURS, LAYERS = 256, 4, 8, 2, 256, 32, 10


def masked(mask: Mask) -> Callable[[Sizes], nn.Module]:
    """Ordinary attention with a mask, by the runner that `attend` chooses."""

    def make(sizes: Sizes) -> nn.Module:
        heads, d_head, d_model = sizes.num_heads, sizes.d_head, sizes.d_model
        return Attention(
            Project(d_model, heads, d_head, bias=False),
            Score(mask, scale_of(d_head)),
            Mix(heads, d_head, d_model, bias=False),
        )

    return make


def factorised(pattern: str) -> Callable[[Sizes], nn.Module]:
    """The Sparse Transformer's, both sets in every head, with a stride of about the square root of the length."""

    def make(sizes: Sizes) -> nn.Module:
        config = sparse_transformer.SparseTransformerConfig(
            d_model=sizes.d_model, num_heads=sizes.num_heads, pattern=pattern,  # type: ignore[arg-type]
            stride=sizes.stride, summary=min(SUMMARY, sizes.stride), max_length=sizes.length,
        )  # fmt: skip
        return sparse_transformer.attention(config, 0)

    return make


def lsh(sizes: Sizes) -> nn.Module:
    """The Reformer's, of chunks of 64 and so many buckets as the text asks for."""
    config = reformer.ReformerConfig(
        d_model=sizes.d_model, num_heads=sizes.num_heads, d_head=sizes.d_head, num_layers=1, layers=("lsh",),
        max_length=sizes.length, axial_shape=None, rounds=ROUNDS, hash_seed=0,
    )  # fmt: skip
    return reformer.lsh(config)


def memory(sizes: Sizes) -> nn.Module:
    """A memorizing layer: segments, and the best of all earlier keys by exact search."""
    config = memorizing.MemorizingConfig(
        d_model=sizes.d_model, num_heads=sizes.num_heads, num_layers=1, memory_layers=(0,), segment_length=SEGMENT,
        cache_length=SEGMENT, memory_size=sizes.length, neighbours=NEIGHBOURS,
    )  # fmt: skip
    return memorizing.attention(config, 0)


def mosaic(sizes: Sizes) -> nn.Module:
    """A context memory of Memory Mosaics: every earlier key, by a kernel."""
    return memory_mosaics.context_memory(
        memory_mosaics.MemoryMosaicsConfig(d_model=sizes.d_model, num_heads=sizes.num_heads)
    )


class Stack(nn.Module):
    """Convolutions one after another, each adding to the stream."""

    def __init__(self, layers: list[GatedConvolution]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor, positions: Positions) -> tuple[Tensor, Any]:
        for layer in self.layers:
            x = x + layer(x, positions)[0]
        return x, None


def convolution(sizes: Sizes) -> nn.Module:
    return Stack([GatedConvolution(sizes.d_model, 0, taps=2, dilation=2**n) for n in range(LAYERS)])


FULL = "full"

MECHANISMS: dict[str, Mechanism] = {
    FULL: Mechanism("every earlier token, by torch's own causal kernel", masked(Causal())),
    "window": Mechanism(f"the last {WINDOW} tokens", masked(Causal() & Window(WINDOW))),
    "dilated": Mechanism(
        f"every {DILATION}th of the last {WINDOW * DILATION} tokens",
        masked(Causal() & Window(WINDOW * DILATION) & Dilated(DILATION)),
    ),
    "strided": Mechanism("the last l tokens and every l-th before, l near sqrt(n)", factorised("strided")),
    "fixed": Mechanism(f"the own block of l and {SUMMARY} cells of every block before", factorised("fixed")),
    "lsh": Mechanism(f"what {ROUNDS} rounds of hashing bring together, in chunks of 64", lsh),
    "memory": Mechanism(f"two segments of {SEGMENT}, and the best {NEIGHBOURS} of all keys before", memory),
    "mosaic": Mechanism("every earlier token, by a smoothed kernel", mosaic),
    "convolution": Mechanism(f"{LAYERS} dilated convolutions: {2**LAYERS} tokens", convolution),
}
"""By name, the one that the others are measured against first."""
