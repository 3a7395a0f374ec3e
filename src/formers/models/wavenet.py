"""WaveNet: van den Oord et al., "WaveNet: A Generative Model for Raw Audio" (1609.03499), for tokens of any kind.

No attention: a stack of causal convolutions whose dilations double, 1, 2, 4, .., and begin anew after `cycle` layers, so that
what a token hears of grows as fast as 2^layers while a step costs the same however long the text:

    z = tanh(F * x) . sigmoid(G * x), x += z R, skip += z S; logits = relu(relu(skip) P) W       (equation 2, figure 4)

A baseline for attention: same tokens, same training, no pattern to look at.

Departures
- Tokens are embedded; the paper has a causal convolution of one-hot samples there.
- Nothing conditions it (section 2.5), and the vocabulary is the tokenizer's, not 256 levels of a mu-law (2.2).
- Documents packed into a row do not hear of each other.
- The paper prints no initialisation: deviations of 1/sqrt(inputs), of what adds to stream and skips over sqrt(layers).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from formers.axes import Hidden, Ids
from formers.config import below_one, out_of_range, require
from formers.parts.attention import initialise_normal
from formers.parts.dilated import GatedConvolution, SkipTrunk
from formers.parts.heads import LanguageHead
from formers.parts.model import Model
from formers.parts.positions import Positions
from formers.parts.states import Tree


@dataclass(frozen=True)
class WaveNetConfig:
    """Three cycles of ten layers by default; the paper prints no widths."""

    architecture: ClassVar[str] = "wavenet"
    max_length: ClassVar[None] = None  # it has no positions

    vocab_size: int = 256
    d_model: int = 128
    """Channels of the stream."""
    d_skip: int = 512
    """Channels of the skips, and of the layer behind them."""
    num_layers: int = 30
    cycle: int = 10
    """Layers after which dilations begin anew: 1, 2, 4, .., 2^(cycle - 1)."""
    taps: int = 2
    """Inputs that a layer hears of."""
    dropout: float = 0.0
    init_std: float = 0.02
    """Of the logits' map."""

    def __post_init__(self) -> None:
        sizes = ("vocab_size", "d_model", "d_skip", "num_layers", "cycle", "taps")
        require("WaveNetConfig", out_of_range(self) + below_one(self, sizes))

    @property
    def dilations(self) -> tuple[int, ...]:
        return tuple(2 ** (layer % self.cycle) for layer in range(self.num_layers))

    @property
    def receptive_field(self) -> int:
        """How many tokens, its own included, a logit depends on."""
        return 1 + (self.taps - 1) * sum(self.dilations)


PRESETS: dict[str, dict] = {
    "nano": {"d_model": 64, "d_skip": 128, "num_layers": 8, "cycle": 8, "vocab_size": 512},
    "tiny": {"d_model": 128, "d_skip": 256, "num_layers": 18, "cycle": 9, "vocab_size": 4096},
}


class WaveNet(Model):
    """WaveNet. `seed` draws the initial weights."""

    def __init__(self, config: WaveNetConfig, *, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.tokens = nn.Embedding(config.vocab_size, config.d_model)
        blocks = [{"convolution": convolution(config, dilation)} for dilation in config.dilations]
        self.trunk = SkipTrunk(blocks, dropout=config.dropout)
        self.post = nn.Linear(config.d_skip, config.d_skip)
        self.head = LanguageHead(config.d_skip, config.vocab_size, bias=True)
        self.initialise(torch.Generator().manual_seed(seed))

    @property
    def hidden_width(self) -> int:
        return self.config.d_skip

    def run(self, input_ids: Ids, positions: Positions, state: Tree | None) -> tuple[Hidden, Tree | None]:
        stream = F.pad(self.tokens(input_ids), (0, self.config.d_skip))  # skips begin at 0
        x, staged = self.trunk(stream, positions, state)
        return self.post(x[..., self.config.d_model :].relu()).relu(), staged

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        if self.tokens.weight.is_meta:
            return
        for module in self.modules():
            if isinstance(module, nn.Linear):
                initialise_normal(module, module.in_features**-0.5, generator)
        for module in self.modules():
            if isinstance(module, GatedConvolution):
                module.contract.weight.mul_(self.config.num_layers**-0.5)
        initialise_normal(self.head, self.config.init_std, generator)
        nn.init.normal_(self.tokens.weight, 0.0, 1.0, generator=generator)


def convolution(config: WaveNetConfig, dilation: int) -> GatedConvolution:
    return GatedConvolution(config.d_model, config.d_skip, taps=config.taps, dilation=dilation)


FOREIGN = None
"""No library has a class for it: folders hold our settings and our names."""

CONFIG, MODEL = WaveNetConfig, WaveNet
