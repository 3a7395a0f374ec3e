"""Memorizing Transformers: Wu et al. (2203.08913, ICLR 2022).

A decoder that reads a document in segments. Attention sees its own segment and, through a cache, the `cache_length` tokens
before it; the memory layers also look up, by their own queries, the `neighbours` best of the keys and values that they
made in all earlier segments, and mix what they find with what is near by. No gradient enters the memory.

A segment may be many windows long (`window`, meliad's sliding window): a token then sees only so far near by, across the
segment's start too, and gradients pass from window to window as far back as the call began: training's calls are segments,
and what comes before is a cache without gradient. A memory still holds earlier segments only: what lies in the own segment
beyond the window is known through the layers below.

Where the paper, the authors' code (meliad) and the port that most people use (memorizing-transformers-pytorch) differ, each
way is a setting; this is what stands by default, and why:

- An empty memory takes no weight. meliad's zero entries take softmax weight, and its gate halves the local result, until the
  memory has filled; that is an accident of its first segments and has no setting here.
- `merge="gate"`: a sigmoid gate a head (paper). ``joint`` is the port's one softmax; ``sum`` and ``straight`` are meliad's.
- `own_token=True`: a token sees itself (paper's "usual" mask, the port). meliad's mask is strict, and its token does not.
- `bias_in_memory_layers=True`: T5 bias near by in every layer (paper). meliad gives its memory layers none.
- `seen_twice=True`: the newest segment is in the cache and in the memory (paper, meliad). The port adds only what falls out
  of the cache.
- `normalise=True`: keys and queries of the memory layers are unit vectors with a learned scale a head (paper, meliad).
- Heads have keys and a memory of their own (paper, meliad). The port shares one key/value head: `num_kv_heads=1`.
- When full, the oldest entry goes (paper, meliad). The port of version 0.4.1 empties the whole memory.

Departures
- Token embeddings are N(0, init_std) times d_model^1/2 (1706.03762, section 3.4). meliad draws them with a deviation of 1 and
  divides the tied logits by d_model^1/2: the same functions; this way Adam's steps suit the logits. Without either, what
  the layers add drowns the token, and looking a key up by its token is not learnt (docs/log.md).
- The T5 bias is its table times `bias_scale`. Adafactor, which the authors use, moves a number in proportion to its table's
  size; Adam moves all by the learning rate, and heads that look one token back took thousands of steps to form.
- The scale of unit queries begins at `normalised_scale` = 16, for the same reason: from 1, as meliad has it, AdamW brought it
  to 2 in 2,400 steps, a softmax over 16 neighbours stayed flat, and the memory gained nothing (docs/log.md).
- Exact search by default; `memory_search="approximate"` measures what it finds. The paper's finds about 90% of the true
  neighbours, meliad's one of each of k interleaved buckets.
- Learning rates and Adafactor are the recipe's business, not the model's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

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
from formers.parts.attention import Attention, KeyValueWindow, Mix, Project, Score, initialise_normal, scale_of
from formers.parts.distance_biases import FourierBias, NetworkBias, OrthogonalBias
from formers.parts.embeddings import SinusoidalPositions
from formers.parts.feed_forward import ACTIVATIONS, FeedForward
from formers.parts.heads import LanguageHead
from formers.parts.masks import Causal, EarlierSegment, Mask, SameDocument, Segments, StrictlyPast, Window
from formers.parts.model import Model
from formers.parts.norms import RMSNorm
from formers.parts.positions import Positions
from formers.parts.recollection import (
    BATCH_BREAKS,
    MERGES,
    MemoryAttention,
    MemorySettings,
    UnitVectors,
    unknown_ways,
)
from formers.parts.states import Tree
from formers.parts.terms import ALiBi, T5Bias
from formers.parts.trunk import PreNorm
from formers.parts.turns import Rotary


@dataclass(frozen=True)
class MemorizingConfig:
    """Sizes of the paper's 200M model by default (section 4.2), with its 8,192 entries a head."""

    architecture: ClassVar[str] = "memorizing"

    vocab_size: int = 32_128
    d_model: int = 1024
    num_layers: int = 12
    num_heads: int = 8
    num_kv_heads: int | None = None  # num_heads where None
    d_ff: int = 4096
    segment_length: int = 512
    cache_length: int = 512  # tokens before the segment that every layer sees; 0: none
    window: int | None = None  # keys near by that a token sees at most; None: its segment so far and all of the cache
    memory_layers: tuple[int, ...] = (8,)  # counted from 0; the paper's "9th layer"
    memory_size: int = 8192  # entries a head, beside the segment being read; 0: nothing is found
    memory_stride: int = 1  # of so many tokens one is remembered: memory_size entries then reach so many times further
    memory_query_stride: int = 1  # of so many tokens one looks up; the others are given what is near by alone
    neighbours: int = 32  # entries that a query is given
    memory_scope: str = "row"  # or batch: look-ups find what any row of the batch read, which breaks laws
    memory_search: str = "exact"  # or approximate, which needs faiss and gains from 65,536 entries on
    memory_storage: str | None = None  # float32, bfloat16 or int8 (a quarter of the bytes); None: as the weights are
    merge: str = "gate"
    normalise: bool = True
    normalised_scale: float = 16.0  # of unit queries, at first
    own_token: bool = True
    seen_twice: bool = True
    positions: str = "t5"  # or another of POSITIONS; `bias_in_memory_layers` says of all but sinusoidal where they are
    bias_in_memory_layers: bool = True
    num_buckets: int = 32
    max_distance: int = 128
    bias_scale: float = 8.0  # of the T5 bias and of an orthogonal one: parts/terms.py says why
    activation: str = "relu"
    eps: float = 1e-6
    dropout: float = 0.0
    attention_dropout: float = 0.0
    init_std: float = 0.02
    scale_embeddings: bool = True  # by d_model^1/2, so that a token counts as much as what the layers add to it
    tie: bool = True
    max_length: ClassVar[None] = None  # any

    def __post_init__(self) -> None:
        sizes = (
            "vocab_size",
            "d_model",
            "num_layers",
            "num_heads",
            "d_ff",
            "segment_length",
            "neighbours",
        )
        problems = out_of_range(self) + below_one(self, sizes)
        if self.memory_size < 0:
            problems.append(f"memory_size is {self.memory_size}, wanted 0 or more")
        problems += uneven_heads(self) + uneven_buckets(self)
        if not problems and self.num_heads % self.kv_heads:
            problems.append(f"num_heads {self.num_heads} is not a multiple of num_kv_heads {self.num_kv_heads}")
        if self.cache_length < 0:
            problems.append(f"cache_length is {self.cache_length}, wanted 0 or more")
        if self.window is not None and self.window < 1:
            problems.append(f"window is {self.window}, wanted none or at least 1")
        elif self.window is not None and self.cache_length > self.window:
            problems.append(f"cache_length is {self.cache_length}, wanted no more than window, {self.window}")
        problems += unknown_layers(self, "memory_layers")
        if self.merge not in MERGES:
            problems.append(f"merge is {self.merge!r}, wanted one of {', '.join(MERGES)}")
        ways = self.memory_search, self.memory_storage, self.memory_stride, self.memory_scope, self.memory_query_stride
        problems += unknown_ways(*ways)
        if self.positions not in POSITIONS:
            problems.append(f"positions is {self.positions!r}, wanted one of {', '.join(POSITIONS)}")
        elif self.positions == "rotary" and not problems and self.d_head % 2:
            problems.append(f"heads of {self.d_head} numbers, of which positions={self.positions!r} turns pairs")
        problems += unknown_activation(self, ACTIVATIONS)
        require("MemorizingConfig", problems)

    @property
    def d_head(self) -> int:
        return self.d_model // self.num_heads

    @property
    def kv_heads(self) -> int:
        return self.num_kv_heads or self.num_heads

    @property
    def behind(self) -> int:
        """How many tokens further back than its own a token sees at most."""
        most = self.segment_length - 1 + self.cache_length
        return most if self.window is None else min(most, self.window - self.own_token)

    @property
    def slides(self) -> bool:
        """Whether the cache is long enough for every window: then where segments begin does not show near by."""
        return self.cache_length >= self.behind

    @property
    def near(self) -> Mask:
        """What a token sees near by."""
        segments, window = Segments(self.segment_length, self.cache_length), Window(self.behind + 1)
        seen = window if self.slides else segments if self.window is None else segments & window
        return seen & SameDocument() & (Causal() if self.own_token else StrictlyPast())

    @property
    def remembered(self) -> EarlierSegment:
        """What a query may find: the newest `memory_size` entries of earlier segments."""
        behind = 0 if self.seen_twice else self.cache_length
        return EarlierSegment(self.segment_length, behind, self.memory_size * self.memory_stride)

    @property
    def memory_entries(self) -> int:
        """What a memory holds: beside those, the entries of the tokens that no query may find yet."""
        return self.memory_size - (-(self.remembered.behind + self.segment_length) // self.memory_stride)


PRESETS: dict[str, dict] = {
    "nano": {
        "d_model": 64, "num_layers": 2, "num_heads": 2, "d_ff": 256, "vocab_size": 512,
        "segment_length": 64, "cache_length": 64, "memory_layers": (1,), "memory_size": 1024, "neighbours": 16,
    },
    "tiny": {
        "d_model": 192, "num_layers": 4, "num_heads": 6, "d_ff": 768, "vocab_size": 4096,
        "segment_length": 128, "cache_length": 128, "memory_layers": (2,),
    },
    "mini": {
        "d_model": 384, "num_layers": 6, "num_heads": 6, "d_ff": 1536, "vocab_size": 8192, "memory_layers": (4,),
    },
    "base": {},  # 200M
    "1b": {"d_model": 2048, "num_layers": 8, "num_heads": 32, "d_ff": 16384, "memory_layers": (5,)},
    "8b": {"d_model": 4096, "num_layers": 16, "num_heads": 64, "d_ff": 32768, "memory_layers": (11,)},
    "meliad": {
        "neighbours": 128, "own_token": False, "bias_in_memory_layers": False, "normalised_scale": 1.0, "dropout": 0.05,
    },
    "port": {  # memorizing-transformers-pytorch, its example for enwik8
        "vocab_size": 256, "d_model": 512, "num_layers": 8, "num_heads": 8, "num_kv_heads": 1, "d_ff": 2048,
        "memory_layers": (3,), "memory_size": 7680, "merge": "joint", "normalised_scale": 20.0, "seen_twice": False,
        "activation": "gelu",
    },
}  # fmt: skip


class Memorizing(Model):
    """The memorizing transformer. `seed` draws the initial weights."""

    def __init__(self, config: MemorizingConfig, *, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.tokens = nn.Embedding(config.vocab_size, config.d_model)
        self.places = SinusoidalPositions(config.d_model) if config.positions == "sinusoidal" else None
        blocks = [
            {"attention": attention(config, i), "feed_forward": feed_forward(config)} for i in range(config.num_layers)
        ]
        self.trunk = PreNorm(blocks, lambda: RMSNorm(config.d_model, config.eps), dropout=config.dropout)
        self.head = LanguageHead(config.d_model, config.vocab_size)
        if config.tie:
            self.head.tie(self.tokens)
        self.law_exceptions = dict(BATCH_BREAKS) if config.memory_scope == "batch" and config.memory_layers else {}
        self.initialise(torch.Generator().manual_seed(seed))

    def run(self, input_ids: Ids, positions: Positions, state: Tree | None) -> tuple[Hidden, Tree | None]:
        x = self.tokens(input_ids)
        if self.config.scale_embeddings:
            x = x * self.config.d_model**0.5
        if self.places is not None:
            x = x + self.places(positions)
        x = F.dropout(x, self.config.dropout, self.training)
        return self.trunk(x, positions, state)

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """N(0, init_std); gates at 0, so that a memory counts as much as what is near by."""
        if not self.tokens.weight.is_meta:
            initialise_normal(self, self.config.init_std, generator)


def attention(config: MemorizingConfig, layer: int) -> nn.Module:
    """Local attention in segments, with a memory in the memory layers."""
    heads, d_head, d_model, remembers = config.num_heads, config.d_head, config.d_model, layer in config.memory_layers
    before, segment = (config.behind, 1) if config.slides else (config.cache_length, config.segment_length)
    scheme = config.positions if config.bias_in_memory_layers or not remembers else "none"
    unit = remembers and config.normalise
    terms = [BIASES[scheme](config)] if scheme in BIASES else []
    slots = {
        "project": Project(d_model, heads, d_head, num_kv_heads=config.kv_heads, bias=False),
        "score": Score(
            config.near,
            1.0 if unit else scale_of(d_head),
            terms=terms,
            dropout=config.attention_dropout,
        ),
        "mix": Mix(heads, d_head, d_model, bias=False),
        "turn": Rotary(d_head) if scheme == "rotary" else None,
        "remember": KeyValueWindow(config.kv_heads, d_head, before + segment, segment),
    }
    if not remembers:
        return Attention(**slots)
    memory = MemorySettings(
        entries=config.memory_entries,
        neighbours=config.neighbours,
        shows=config.remembered & SameDocument() if config.memory_scope == "row" else config.remembered,
        search=config.memory_search,
        storage=config.memory_storage,
        stride=config.memory_stride,
        scope=config.memory_scope,
        query_stride=config.memory_query_stride,
    )
    return MemoryAttention(
        **slots,
        memory=memory,
        merge=MERGES[config.merge](heads),
        turn_memory=UnitVectors(heads, config.normalised_scale) if unit else None,
    )


def _t5_bias(config: MemorizingConfig) -> T5Bias:
    return T5Bias(
        config.num_heads,
        num_buckets=config.num_buckets,
        max_distance=config.max_distance,
        bidirectional=False,
        scale=config.bias_scale,
    )


BIASES: dict[str, Callable[[MemorizingConfig], nn.Module]] = {
    "t5": _t5_bias,
    "alibi": lambda config: ALiBi(config.num_heads),
    "fourier": lambda config: FourierBias(config.num_heads, config.behind),
    "network": lambda config: NetworkBias(config.num_heads, config.behind),
    "orthogonal": lambda config: OrthogonalBias(config.num_heads, config.behind, scale=config.bias_scale),
}
"""Positions that are added to scores, near by alone."""

POSITIONS = (*BIASES, "rotary", "sinusoidal", "none")
"""meliad has all of them. Rotary ones turn queries and keys near by, so a memory holds keys without; sinusoidal ones, the only
ones that tell where in its document a token stands, are added to its embedding (1706.03762)."""


def feed_forward(config: MemorizingConfig) -> FeedForward:
    return FeedForward(config.d_model, config.d_ff, activation_name=config.activation, bias=False)


FOREIGN = None
"""No class of transformers holds this model."""

CONFIG, MODEL = MemorizingConfig, Memorizing
