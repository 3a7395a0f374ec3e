"""The autoregressive Longformer: Beltagy, Peters, Cohan (2004.05150), sections 3.1 and 4.

A decoder whose tokens see the `windows` tokens up to their own, more in higher layers, and whose last heads see as many in
steps of the layer's dilation, so that they reach further at the same cost. No part of the text is global.

    x = tokens; for every block x += attention(norm(x)), x += feed_forward(norm(x)); logits = norm(x) tokens^T + bias
    attention sees, from i, keys i - m d for 0 <= m < w; scores as in Transformer-XL, by the distance's sinusoid

Windows are no part of the weights, so a model is trained in phases, each of which goes on from the last with windows and texts
twice as long, half the learning rate, and its warm-up anew (4.2, table 12): `doubled`.

Departures
- `places="rotary"` turns queries and keys instead of adding to scores, which leaves scores to the fused kernels. At 2,048
  tokens on a CPU the paper's scores take 1.3 to 1.6 times as long in plain layers, 3.5 to 5 times in dilated ones (where
  those of all heads are made once for each of the two masks). ``none`` knows no distances but those that windows leave.
- u and v of the scores by distance are each layer's own.
- A dilation is the step between keys: 1 is none. The paper counts the gaps, 0 to 3.
- Windows count the token itself. Table 12 says they grow from 32 to 8192 in the first phase, the text and the ablation from 32
  to 512; so do ours, doubled in each of the four phases that follow.
- Attention heads have no biases. The paper does not say; its code has them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import nn

from formers.axes import Hidden, Ids
from formers.config import below_one, out_of_range, replace, require, uneven_heads
from formers.parts.attention import Attention, KeyValueWindow, Mix, Project, Score, initialise_normal, scale_of
from formers.parts.feed_forward import FeedForward
from formers.parts.heads import LanguageHead
from formers.parts.masks import ByHead, Causal, Dilated, Mask, SameDocument, Window
from formers.parts.model import Model
from formers.parts.norms import LayerNorm
from formers.parts.positions import Positions
from formers.parts.states import Tree
from formers.parts.terms import RelativeBiases, RelativeSinusoids
from formers.parts.trunk import PreNorm
from formers.parts.turns import Rotary

PLACES = ("relative", "rotary", "none")


@dataclass(frozen=True)
class LongformerLMConfig:
    """Sizes of the small character model in its first phase by default (41M parameters).

    windows        tokens that a token sees, its own included, in every layer or in each
    dilations      the step between the keys of the dilated heads, in every layer or in each; 1 is none
    dilated_heads  how many heads, the last of a layer, are dilated
    """

    architecture: ClassVar[str] = "longformer_lm"
    max_length: ClassVar[None] = None  # distances are all that it knows of places

    vocab_size: int = 204
    d_model: int = 512
    num_layers: int = 12
    num_heads: int = 8
    d_ff: int = 2048
    windows: int | tuple[int, ...] = (32, 64, 96, 128, 160, 224, 256, 320, 352, 416, 448, 512)
    dilations: int | tuple[int, ...] = (1, 1, 1, 1, 1, 1, 2, 2, 3, 3, 4, 4)
    dilated_heads: int = 2
    places: Literal["relative", "rotary", "none"] = "relative"
    eps: float = 1e-5
    dropout: float = 0.2
    attention_dropout: float = 0.0
    init_std: float = 0.02

    def __post_init__(self) -> None:
        problems = (
            out_of_range(self)
            + below_one(self, ("vocab_size", "d_model", "num_layers", "num_heads", "d_ff"))
            + uneven_heads(self)
        )
        for name, values in (("windows", self.window_of_layers), ("dilations", self.dilation_of_layers)):
            if len(values) != self.num_layers:
                problems.append(f"{name} names {len(values)} layers, num_layers is {self.num_layers}")
            if any(value < 1 for value in values):
                problems.append(f"{name} {getattr(self, name)} are not all at least 1")
        if not 0 <= self.dilated_heads <= self.num_heads:
            problems.append(f"dilated_heads is {self.dilated_heads} of {self.num_heads} heads")
        if self.places not in PLACES:
            problems.append(f"places is {self.places!r}, wanted one of {', '.join(PLACES)}")
        if self.d_model % 2 or (self.num_heads > 0 and self.d_model // self.num_heads % 2 and self.places == "rotary"):
            problems.append(f"d_model {self.d_model} has halves of no whole width, for sines and cosines")
        require("LongformerLMConfig", problems)

    @property
    def window_of_layers(self) -> tuple[int, ...]:
        return (self.windows,) * self.num_layers if isinstance(self.windows, int) else self.windows

    @property
    def dilation_of_layers(self) -> tuple[int, ...]:
        return (self.dilations,) * self.num_layers if isinstance(self.dilations, int) else self.dilations

    def reach(self, layer: int) -> int:
        """Distances 0 .. reach-1 can be seen in the layer: what a state has to remember."""
        step = self.dilation_of_layers[layer] if self.dilated_heads else 1
        return (self.window_of_layers[layer] - 1) * step + 1

    def mask(self, layer: int) -> Mask:
        """Of every head of a layer."""
        window, step = self.window_of_layers[layer], self.dilation_of_layers[layer]
        near = Causal() & Window(window)
        if step == 1 or self.dilated_heads == 0:
            return near & SameDocument()
        far = Causal() & Window(self.reach(layer)) & Dilated(step)
        return ByHead((near,) * (self.num_heads - self.dilated_heads) + (far,) * self.dilated_heads) & SameDocument()


def doubled(config: LongformerLMConfig, times: int = 1) -> LongformerLMConfig:
    """The same weights with windows 2^times as wide, for the next phase of training."""
    windows = config.windows
    wider = windows * 2**times if isinstance(windows, int) else tuple(window * 2**times for window in windows)
    return replace(config, windows=wider)


PRESETS: dict[str, dict] = {
    "nano": {
        "d_model": 64, "num_layers": 2, "num_heads": 2, "d_ff": 256, "vocab_size": 512, "windows": (32, 64),
        "dilations": (1, 2), "dilated_heads": 1, "places": "rotary",
    },
    "tiny": {
        "d_model": 192, "num_layers": 4, "num_heads": 6, "d_ff": 768, "vocab_size": 4096, "windows": (32, 64, 96, 128),
        "dilations": (1, 1, 2, 4), "places": "rotary",
    },
    "small": {},  # 41M: text8 and enwik8, first phase; `doubled` four times for the last
    "large": {  # 102M: enwik8, the same growth of windows and dilations over 30 layers
        "num_layers": 30,
        "windows": tuple(32 + 480 * layer // 29 for layer in range(30)),
        "dilations": (1,) * 15 + (2,) * 5 + (3,) * 5 + (4,) * 5,
        "dropout": 0.4,
    },
}  # fmt: skip


class LongformerLM(Model):
    """The autoregressive Longformer. `seed` draws the initial weights."""

    def __init__(self, config: LongformerLMConfig, *, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.tokens = nn.Embedding(config.vocab_size, config.d_model)
        blocks = [
            {"attention": attention(config, layer), "feed_forward": feed_forward(config)}
            for layer in range(config.num_layers)
        ]
        self.trunk = PreNorm(blocks, lambda: LayerNorm(config.d_model, config.eps), dropout=config.dropout)
        self.head = LanguageHead(config.d_model, config.vocab_size, bias=True)
        self.head.tie(self.tokens)
        self.initialise(torch.Generator().manual_seed(seed))

    def run(self, input_ids: Ids, positions: Positions, state: Tree | None) -> tuple[Hidden, Tree | None]:
        x = F.dropout(self.tokens(input_ids), self.config.dropout, self.training)
        return self.trunk(x, positions, state)

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """N(0, init_std) for every map, the embedding, u and v; biases 0."""
        if self.tokens.weight.is_meta:
            return
        initialise_normal(self, self.config.init_std, generator)
        for biases in (module for module in self.modules() if isinstance(module, RelativeBiases)):
            for parameter in (biases.content, biases.distance):
                nn.init.normal_(parameter, 0.0, self.config.init_std, generator=generator)


def attention(config: LongformerLMConfig, layer: int) -> Attention:
    heads, d_model = config.num_heads, config.d_model
    d_head, reach = d_model // heads, config.reach(layer)
    terms = []
    if config.places == "relative":
        biases = RelativeBiases(heads, d_head)
        terms = [RelativeSinusoids(d_model, heads, d_head, reach=reach, scale=scale_of(d_head), biases=biases)]
    return Attention(
        project=Project(d_model, heads, d_head, bias=False),
        turn=Rotary(d_head) if config.places == "rotary" else None,
        remember=KeyValueWindow(heads, d_head, reach),
        score=Score(config.mask(layer), scale_of(d_head), terms=terms, dropout=config.attention_dropout),
        mix=Mix(heads, d_head, d_model, bias=False),
    )


def feed_forward(config: LongformerLMConfig) -> FeedForward:
    return FeedForward(config.d_model, config.d_ff, activation_name="gelu", dropout=config.dropout)


FOREIGN = None
"""No library has a class for it: folders hold our settings and our names."""

CONFIG, MODEL = LongformerLMConfig, LongformerLM
