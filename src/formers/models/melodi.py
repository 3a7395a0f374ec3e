"""MELODI: Chen et al., "MELODI: Exploring Memory Compression for Long Contexts" (2410.03156).

A decoder that reads a document window by window. Behind each window stand the S tokens of a summary, which see the window and
go through the layers with it. Of both, token mixers make in every layer the short-term memory that the next window sees in that
layer, and in a middle layer L tokens more whose keys and values join a long-term memory, a queue that later windows attend to
with a gate. Where the Memorizing Transformer keeps 512 keys and values of a window, MELODI keeps L: with L = 64 an eighth.

    [x; u] <- block([x; u] | z),  z' = u + M_z [norm x; norm u],  u <- u + M_u [norm x; norm u],  m = M_m [x; u]

Read were the paper's abstract, summaries of it by others, and the authors' code (google-research/meliad, memory2/melodi_*.py),
whose formulas these are. The paper's own equations could not be had, no checkpoint is published, and the code was not run: the
slow twin in the tests is our reading of it, and no number of theirs has been reproduced.

Departures from that code
- Windows are cut by places in the document, and a call may end inside one. For that the state holds keys, values and outputs of
  the open window beside the memories. Theirs reads whole windows, in segments of 8, and its state is the memories alone.
- An empty memory takes no weight. Theirs begins with zeros that do: in the first window, and until the queue is full.
- A token sees itself; meliad's mask is strict. A document that begins in the middle of a row begins with empty memories.
- The long-term memory keeps keys and values, as the paper has it. Theirs keeps the L tokens across segments and projects them
  again, so W_k and W_v also learn from windows of earlier calls.
- The summary is as long as the short-term memory. Theirs may differ, and then mixes without norm and residual.
- The last layer hands no summary on, so it has no mixer for that; theirs has one that nothing reads.
- Embeddings times d_model^1/2, `bias_scale` and `normalised_scale` are those of our Memorizing Transformer, for its reasons.
  The bias of distances is added after the learned scale, theirs before. Gates begin at 1/2 exactly, theirs near it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from formers.axes import Hidden, Ids
from formers.config import (
    below_one,
    out_of_range,
    require,
    uneven_buckets,
    uneven_heads,
    unknown_activation,
    unknown_layers,
)
from formers.parts.attention import Mix, Project, Score, initialise_normal
from formers.parts.compression import Compressing, TokenMixer, WindowAttention
from formers.parts.feed_forward import ACTIVATIONS, FeedForward
from formers.parts.heads import LanguageHead
from formers.parts.masks import Causal
from formers.parts.model import Model
from formers.parts.norms import RMSNorm
from formers.parts.positions import Positions
from formers.parts.recollection import UnitVectors
from formers.parts.states import Tree
from formers.parts.terms import T5Bias
from formers.parts.windows import Windows


@dataclass(frozen=True)
class MelodiConfig:
    """The 12-layer model of the authors' configuration (base_melodi.gin), with the paper's S = 128 and L = 64."""

    architecture: ClassVar[str] = "melodi"
    max_length: ClassVar[None] = None  # any

    vocab_size: int = 32_128
    d_model: int = 1024
    num_layers: int = 12
    num_heads: int = 8
    d_ff: int = 4096
    segment_length: int = 512
    """Tokens of a context window (W). Train with several a row (`seq_len`): what a window hands on is learnt from the next."""
    summary_length: int = 128
    """Tokens of a window's summary, and of each layer's short-term memory (S)."""
    memory_layers: tuple[int, ...] = (6,)
    """Layers with a long-term memory, counted from 0. The paper has one, in the middle; () is short-term memory alone."""
    memory_increment: int = 64
    """Tokens that a window adds to a long-term memory (L)."""
    memory_windows: int = 128
    """Windows that a long-term memory holds."""
    normalised_scale: float = 16.0
    """Of unit queries, at first."""
    num_buckets: int = 32
    max_distance: int = 128
    bias_scale: float = 8.0
    """Of the T5 bias: parts/terms.py says why."""
    activation: str = "relu"
    eps: float = 1e-6
    dropout: float = 0.0
    attention_dropout: float = 0.0
    init_std: float = 0.02
    tie: bool = True

    def __post_init__(self) -> None:
        sizes = ("vocab_size", "d_model", "num_layers", "num_heads", "d_ff", "segment_length", "summary_length")
        problems = (
            out_of_range(self)
            + below_one(self, (*sizes, "memory_increment", "memory_windows"))
            + uneven_heads(self)
            + uneven_buckets(self)
        )
        problems += unknown_layers(self, "memory_layers")
        problems += unknown_activation(self, ACTIVATIONS)
        require("MelodiConfig", problems)

    @property
    def d_head(self) -> int:
        return self.d_model // self.num_heads

    @property
    def windows(self) -> Windows:
        return Windows(self.segment_length, self.summary_length, self.memory_increment, self.memory_windows)


PRESETS: dict[str, dict] = {
    "nano": {
        "d_model": 64, "num_layers": 2, "num_heads": 2, "d_ff": 256, "vocab_size": 512,
        "segment_length": 32, "summary_length": 8, "memory_layers": (1,), "memory_increment": 4, "memory_windows": 64,
    },
    "tiny": {
        "d_model": 192, "num_layers": 4, "num_heads": 6, "d_ff": 768, "vocab_size": 4096,
        "segment_length": 64, "summary_length": 16, "memory_layers": (2,), "memory_increment": 8,
    },
    "mini": {
        "d_model": 384, "num_layers": 6, "num_heads": 6, "d_ff": 1536, "vocab_size": 8192,
        "segment_length": 128, "summary_length": 32, "memory_layers": (3,), "memory_increment": 16,
    },
    "base": {},  # S128 + L64
    "s192_l32": {"summary_length": 192, "memory_increment": 32},  # the paper's other two, by its names
    "s192_l96": {"summary_length": 192, "memory_increment": 96},
}  # fmt: skip


class Melodi(Model):
    """MELODI. `seed` draws the initial weights."""

    def __init__(self, config: MelodiConfig, *, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.tokens = nn.Embedding(config.vocab_size, config.d_model)
        blocks = [
            {"attention": attention(config, i), "feed_forward": feed_forward(config)} for i in range(config.num_layers)
        ]
        self.trunk = Compressing(
            blocks,
            lambda: RMSNorm(config.d_model, config.eps),
            windows=config.windows,
            d_model=config.d_model,
            dropout=config.dropout,
        )
        self.head = LanguageHead(config.d_model, config.vocab_size)
        if config.tie:
            self.head.tie(self.tokens)
        self.law_exceptions = {
            "segments equal whole": "of earlier windows it sees what they were compressed to, which attention without "
            "windows has not"
        }
        self.initialise(torch.Generator().manual_seed(seed))

    def run(self, input_ids: Ids, positions: Positions, state: Tree | None) -> tuple[Hidden, Tree | None]:
        x = self.tokens(input_ids) * self.config.d_model**0.5
        return self.trunk(F.dropout(x, self.config.dropout, self.training), positions, state)

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """N(0, init_std); token mixers N(0, 1/inputs) and the summary N(0, 1/16), as theirs; gates at 0."""
        if self.tokens.weight.is_meta:
            return
        initialise_normal(self, self.config.init_std, generator)
        for mixer in (module for module in self.modules() if isinstance(module, TokenMixer)):
            initialise_normal(mixer, mixer.linear.in_features**-0.5, generator)
        trunk: Any = self.trunk
        nn.init.normal_(trunk.summary, 0.0, 0.25, generator=generator)


def attention(config: MelodiConfig, layer: int) -> WindowAttention:
    """Attention in a window behind its short-term memory; in the memory layers to a long-term memory too."""
    heads, d_head, d_model = config.num_heads, config.d_head, config.d_model
    bias = T5Bias(
        heads,
        num_buckets=config.num_buckets,
        max_distance=config.max_distance,
        bidirectional=False,
        scale=config.bias_scale,
    )
    return WindowAttention(
        Project(d_model, heads, d_head, bias=False),
        Score(Causal(), 1.0, terms=[bias], dropout=config.attention_dropout),
        Mix(heads, d_head, d_model, bias=False),
        unit=UnitVectors(heads, config.normalised_scale),
        windows=config.windows,
        recalls=layer in config.memory_layers,
    )


def feed_forward(config: MelodiConfig) -> FeedForward:
    return FeedForward(config.d_model, config.d_ff, activation_name=config.activation, bias=False)


FOREIGN = None
"""No class of transformers holds this model."""

CONFIG, MODEL = MelodiConfig, Melodi
