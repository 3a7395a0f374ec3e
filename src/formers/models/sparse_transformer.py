"""Sparse Transformer: Child, Gray, Radford and Sutskever, "Generating Long Sequences with Sparse Transformers" (1904.10509).

Causal attention is factorised in two sets of about sqrt(n) keys, near and far, of which every position is two hops away:

    strided   near: i - l .. i               far: every l-th before i            images, audio: a period of l
    fixed     near: i's own block of l       far: c summary cells of every block  text

    x = tokens + sum of a table for each coordinate of the position; for every block
    a = dropout(attention(norm(x))), b = dropout(feed_forward(norm(x + a))), x += a + b; logits = norm(x) W    (5.2 to 5.4)

which is the pre-norm trunk: x += a, then x += b. The two sets are combined in one of three ways (4.3): `combine="alternate"`,
a set a layer in turn; ``merged``, each head sees the union; ``heads``, half of the heads see each.

Departures
- Where heads see summary cells, each has a sub-block of c cells of its own, as the paper found best; sub-blocks are dealt out
  from the block's end, and where there are more heads than sub-blocks, neighbours share one.
- The strided window holds i - l .. i, l + 1 keys, as printed. The fixed far set is printed off by one; here it is the last c
  cells, l - c .. l - 1. A query that sees no summary cell yet gets 0 from it.
- Documents packed into a row do not see each other, and coordinates begin anew with each. The first token of a text is not
  predicted; the authors put a start token before it.
- The backward pass recomputes whole blocks (`train.recompute`) rather than attention and feed-forward one by one. As in the
  paper there is no dropout inside attention.
- Keys by columns and blocks go through torch's kernels, not through block-sparse ones; what is computed is the same.
- Weights of half precision with scaled losses are a matter of the training's `precision`, which here is bfloat16 unscaled.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import nn

from formers.axes import Hidden, Ids
from formers.config import below_one, out_of_range, require, uneven_heads
from formers.parts.attention import Mix, initialise_normal, scale_of
from formers.parts.embeddings import GridPositions
from formers.parts.factorised_attention import FactorisedAttention, NarrowCache, NarrowProject
from formers.parts.feed_forward import FeedForward
from formers.parts.heads import LanguageHead
from formers.parts.masks import Causal, Dilated, Mask, SameDocument, SameSegment, Window
from formers.parts.model import Model
from formers.parts.norms import LayerNorm
from formers.parts.patterns import Columns
from formers.parts.positions import Positions
from formers.parts.states import Tree
from formers.parts.trunk import PreNorm

PATTERNS, COMBINATIONS = ("fixed", "strided"), ("merged", "alternate", "heads")


@dataclass(frozen=True)
class SparseTransformerConfig:
    """Sizes of the enwik8 model by default (section 7.2, 95M parameters)."""

    architecture: ClassVar[str] = "sparse_transformer"

    vocab_size: int = 256
    d_model: int = 512
    num_layers: int = 30
    num_heads: int = 8
    d_key: int | None = None
    """Of queries and keys, a head. None: d_model / num_heads. The paper's half-size is half of that."""
    d_ff: int | None = None
    """Width of the feed-forward. None: 4 x d_model. The paper's half-size is 2 x d_model."""
    pattern: Literal["fixed", "strided"] = "fixed"
    combine: Literal["merged", "alternate", "heads"] = "merged"
    stride: int = 128
    """l: the block, or the period. Near the square root of a text's length; of images a whole number of lines."""
    summary: int = 32
    """c: summary cells of a block that a head sees (fixed). The paper's 8 to 32 for strides of 128 and 256."""
    max_length: int = 12288
    axes: tuple[int, ...] = ()
    """How many values each coordinate of a position has, the slowest first. None given: lines and columns of `stride`. Images:
    (lines, columns, channels)."""
    eps: float = 1e-5
    dropout: float = 0.4
    init_scale: float = 0.125
    """Standard deviations of the initial weights are this over the square root of a width (5.4)."""

    def __post_init__(self) -> None:
        sizes = ("vocab_size", "d_model", "num_layers", "num_heads", "stride", "summary", "max_length")
        problems = out_of_range(self) + below_one(self, sizes) + uneven_heads(self)
        for name, known in (("pattern", PATTERNS), ("combine", COMBINATIONS)):
            if getattr(self, name) not in known:
                problems.append(f"{name} is {getattr(self, name)!r}, wanted one of {', '.join(known)}")
        problems += [
            f"{n} is {v}, wanted at least 1" for n, v in (("d_key", self.d_key), ("d_ff", self.d_ff)) if v == 0
        ]
        if self.pattern == "fixed" and self.summary > self.stride:
            problems.append(f"summary {self.summary} is more than the {self.stride} cells of a block")
        if self.combine == "heads" and self.num_heads < 2:
            problems.append("combine 'heads' wants at least 2 heads, one for each set")
        if self.axes and (min(self.axes) < 1 or math.prod(self.axes) < self.max_length):
            problems.append(f"axes {self.axes} have {math.prod(self.axes)} places for max_length {self.max_length}")
        require("SparseTransformerConfig", problems)

    @property
    def d_head(self) -> int:
        return self.d_model // self.num_heads

    @property
    def width_of_key(self) -> int:
        return self.d_head if self.d_key is None else self.d_key

    @property
    def d_hidden(self) -> int:
        """Width of the feed-forward."""
        return 4 * self.d_model if self.d_ff is None else self.d_ff

    @property
    def grid(self) -> tuple[int, ...]:
        """`axes`, written out."""
        return self.axes or (-(-self.max_length // self.stride), self.stride)


PRESETS: dict[str, dict] = {
    "nano": {
        "d_model": 64, "num_layers": 2, "num_heads": 2, "vocab_size": 512, "stride": 16, "summary": 4, "max_length": 256,
    },
    "tiny": {
        "d_model": 192, "num_layers": 4, "num_heads": 6, "vocab_size": 4096, "stride": 32, "summary": 8, "max_length": 1024,
    },
    "images": {  # 16 x 16 pixels of 3 bytes: strides of one line
        "d_model": 96, "num_layers": 4, "num_heads": 2, "d_key": 24, "d_ff": 192, "vocab_size": 257, "pattern": "strided",
        "combine": "alternate", "stride": 48, "max_length": 768, "axes": (16, 16, 3),
    },
    "enwik8": {},  # 95M
    "cifar10": {  # 59M: 32 x 32 pixels of 3 bytes, half-size queries, keys and feed-forward. The stride is one line
        "d_model": 256, "num_layers": 128, "num_heads": 2, "d_key": 64, "d_ff": 512, "pattern": "strided",
        "combine": "alternate", "stride": 96, "max_length": 3072, "axes": (32, 32, 3), "dropout": 0.25,
    },
    "imagenet64": {  # 152M: 64 x 64 pixels of 3 bytes
        "d_model": 512, "num_layers": 48, "num_heads": 16, "pattern": "strided", "combine": "alternate", "stride": 128,
        "max_length": 12288, "axes": (64, 64, 3), "dropout": 0.01,
    },
}  # fmt: skip


class SparseTransformer(Model):
    """Sparse Transformer. `seed` draws the initial weights."""

    def __init__(self, config: SparseTransformerConfig, *, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.tokens = nn.Embedding(config.vocab_size, config.d_model)
        self.places = GridPositions(config.grid, config.d_model, max_length=config.max_length)
        blocks = [
            {"attention": attention(config, layer), "feed_forward": feed_forward(config)}
            for layer in range(config.num_layers)
        ]
        self.trunk = PreNorm(blocks, lambda: LayerNorm(config.d_model, config.eps), dropout=config.dropout)
        self.head = LanguageHead(config.d_model, config.vocab_size)
        self.initialise(torch.Generator().manual_seed(seed))

    def run(self, input_ids: Ids, positions: Positions, state: Tree | None) -> tuple[Hidden, Tree | None]:
        return self.trunk(self.tokens(input_ids) + self.places(positions), positions, state)

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Section 5.4: deviations of init_scale / sqrt(width), of what writes to the stream over sqrt(2 N); logits of 0."""
        if self.tokens.weight.is_meta:
            return
        config = self.config
        nn.init.normal_(self.tokens.weight, 0.0, config.init_scale * config.d_model**-0.5, generator=generator)
        initialise_normal(self.places, config.init_scale * (config.d_model * len(config.grid)) ** -0.5, generator)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                initialise_normal(module, config.init_scale * module.in_features**-0.5, generator)
        for module in self.modules():
            if isinstance(module, Mix | FeedForward):
                writer = module.linear if isinstance(module, Mix) else module.contract
                writer.weight.mul_((2 * config.num_layers) ** -0.5)
        initialise_normal(self.head, 0.0, generator)


def head_masks(config: SparseTransformerConfig, layer: int) -> tuple[Mask, ...]:
    """What each head of a layer sees, from first to last."""
    heads, half = config.num_heads, config.num_heads // 2
    if config.combine == "merged":
        sets = [near(config) | far(config, head, heads) for head in range(heads)]
    elif config.combine == "heads":
        sets = [near(config)] * half + [far(config, head, heads - half) for head in range(heads - half)]
    elif layer % 2 == 0:
        sets = [near(config)] * heads
    else:
        sets = [far(config, head, heads) for head in range(heads)]
    return tuple(Causal() & one & SameDocument() for one in sets)


def near(config: SparseTransformerConfig) -> Mask:
    """A^(1) of section 4.3."""
    return Window(config.stride + 1) if config.pattern == "strided" else SameSegment(config.stride)


def far(config: SparseTransformerConfig, head: int, heads: int) -> Mask:
    """A^(2); of `heads` heads each has a sub-block of summary cells of its own while there are enough, from the end on."""
    if config.pattern == "strided":
        return Dilated(config.stride)
    sub_blocks = min(heads, config.stride // config.summary)
    number = head * sub_blocks // heads
    return Columns(config.stride, config.stride - config.summary * (number + 1), config.summary)


def attention(config: SparseTransformerConfig, layer: int) -> FactorisedAttention:
    heads, d_key, d_head, d_model = config.num_heads, config.width_of_key, config.d_head, config.d_model
    masks = head_masks(config, layer)
    return FactorisedAttention(
        NarrowProject(d_model, heads, d_key, d_head, bias=False),
        masks,
        scale_of(d_key),
        Mix(heads, d_head, d_model, bias=False),
        remember=NarrowCache(heads, d_key, d_head, window(config, layer)),
    )


def window(config: SparseTransformerConfig, layer: int) -> int | None:
    """Keys that a layer of near ones alone has to remember; None: all."""
    if config.combine != "alternate" or layer % 2:
        return None
    return config.stride + (config.pattern == "strided")


def feed_forward(config: SparseTransformerConfig) -> FeedForward:
    return FeedForward(config.d_model, config.d_hidden, activation_name="quick_gelu")


FOREIGN = None
"""No library has a class for it, and no weights were published: folders hold our settings and our names."""

CONFIG, MODEL = SparseTransformerConfig, SparseTransformer
