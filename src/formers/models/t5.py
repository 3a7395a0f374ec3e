"""T5: Raffel et al., "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer" (1910.10683), and
T5 1.1 with gated feed-forwards (Shazeer, 2002.05202), whose sizes FLAN-T5 has.

An encoder reads a source, a decoder writes: for every block x += attention(norm(x)) with q.k + b[distance], in the decoder
x += attention to the source(norm(x)), then x += feed_forward(norm(x)). Norms are RMSNorm, no map has a bias, q.k is not
scaled, and one table b serves all layers of a stack (section 2.1).

    1.0   ReLU; logits = d_model^-1/2 norm(x) tokens^T
    1.1   gated GELU; a head of its own, not scaled

`head` in the config says what stands on top, each the class of transformers that its folders name:

    None      T5ForConditionalGeneration: the next token                                [batch, seq, vocab]
    none      T5Model: what the decoder makes of the source                             [batch, seq, d_model]
    sequence  T5ForSequenceClassification: of the decoder's last token, which has read the text once more  [batch, num_labels]
    span      T5ForQuestionAnswering: of the decoder's tokens                           [batch, seq, 2]
    encoder   T5EncoderModel: the encoder alone; it takes a text, not a source          [batch, seq, d_model]
    token     T5ForTokenClassification: of the encoder's tokens                         [batch, seq, num_labels]

For `sequence` and `span` the decoder reads ``shifted(ids)`` of the same text that is its source.

With `local_radius` it is LongT5 with local attention (Guo et al., 2112.07916, section 3.1.1), for sources of tens of thousands
of tokens: a token of the encoder sees as many on either side, by the same biases, and all else is T5. Time and memory of the
encoder grow with the source, not with its square. transformers has LongT5 classes for the heads None, none and encoder.

Departures
- LongT5's other attention, with a transient global token for every 16 tokens, is not implemented.
- Query, key and value are one linear map, and so are key and value of the source; checkpoints hold three. The weight table
  joins them.
- The edges of distance buckets are counted on integers, once: no rounding of a logarithm moves them.
- Documents packed into one row do not see each other; where the source carries documents too, each target sees its own.
- Hidden states are not clamped in float16, as Hugging Face's are; bfloat16 needs no such thing.
- A map to the next token of its own begins at N(0, 1/d_model), as in the authors' code; Hugging Face draws it from N(0, 1).
  Heads that label begin at a tenth of that width, so that the first loss is that of a guess.
- The relative bias that the authors' code has for attention to the source is left out, as Hugging Face does: it is 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from formers.axes import Hidden, Ids
from formers.config import below_one, head_problems, out_of_range, require, unknown_activation
from formers.errors import ConfigError, StateError
from formers.models.t5_names import ENCODERS, FOREIGN, activations, weights
from formers.parts.attention import Attention, KeyValueCache, Mix, Project, Score, initialise_normal
from formers.parts.embeddings import check_ids
from formers.parts.feed_forward import ACTIVATIONS, FeedForward, GatedFeedForward
from formers.parts.heads import LanguageHead, TokenHead
from formers.parts.masks import Causal, Everything, Mask, SameDocument, Window
from formers.parts.model import Model, Output
from formers.parts.norms import RMSNorm
from formers.parts.positions import Positions
from formers.parts.sources import CrossAttention, CrossProject, Encoded, Source
from formers.parts.states import StagedState, Tree
from formers.parts.terms import T5Bias
from formers.parts.trunk import PreNorm

__all__ = ["CONFIG", "FOREIGN", "MODEL", "PRESETS", "T5", "T5Config", "activations", "shifted", "weights"]


@dataclass(frozen=True)
class T5Config:
    """Sizes of T5 1.0 small by default (section 3.1.2 and the authors' configuration files)."""

    architecture: ClassVar[str] = "t5"
    max_length: ClassVar[None] = None  # distances are all that it knows of places

    vocab_size: int = 32128
    d_model: int = 512
    num_layers: int = 6
    num_decoder_layers: int | None = None  # as many as num_layers, which are the encoder's, where None
    num_heads: int = 8
    d_head: int = 64
    d_ff: int = 2048
    activation: str = "relu"
    gated: bool = False
    tie: bool = True
    scale_head: bool = True
    """d_model^-1/2 before the head. 1.0 ties its head and scales; 1.1 does neither."""
    num_buckets: int = 32
    max_distance: int = 128
    """Distances from here on share the last bucket."""
    local_radius: int | None = None
    """Tokens to either side that a token of the encoder sees; all where None. A number makes it a LongT5 (127 in the paper)."""
    eps: float = 1e-6
    dropout: float = 0.1
    init_factor: float = 1.0
    start_token: int = 0
    """What the decoder begins with: the id of padding."""
    end_token: int = 1
    head: str | None = None
    num_labels: int = 2
    labels: tuple[str, ...] = ()
    classifier_dropout: float = 0.0

    def __post_init__(self) -> None:
        sizes = ("vocab_size", "d_model", "num_layers", "num_heads", "d_head", "d_ff")
        problems = out_of_range(self) + below_one(self, sizes)
        if self.num_decoder_layers is not None and self.num_decoder_layers < 1:
            problems.append(f"num_decoder_layers is {self.num_decoder_layers}, wanted at least 1")
        if self.local_radius is not None and self.local_radius < 1:
            problems.append(f"local_radius is {self.local_radius}, wanted at least 1, or None")
        if self.num_buckets < 4 or self.num_buckets % 2:
            problems.append(f"num_buckets is {self.num_buckets}, wanted an even number from 4 on")
        elif self.max_distance <= self.num_buckets // 2:
            problems.append(f"max_distance {self.max_distance} lies within the {self.num_buckets // 2} exact buckets")
        problems += unknown_activation(self, ACTIVATIONS)
        named = [] if self.head is None else head_problems(self, [head for head in HEADS if head is not None])
        require("T5Config", problems + named)

    @property
    def decoder_layers(self) -> int:
        return self.num_layers if self.num_decoder_layers is None else self.num_decoder_layers

    @property
    def init_std(self) -> float:
        """Of the first weights of a head that labels: its logits begin near 0, and the loss at that of a guess."""
        return 0.1 * self.init_factor * self.d_model**-0.5


_LARGE = {"d_model": 1024, "num_layers": 24}
_1_1 = {"activation": "gelu_tanh", "gated": True, "tie": False, "scale_head": False}
_1_1_BASE = _1_1 | {"d_model": 768, "num_layers": 12, "num_heads": 12, "d_ff": 2048}
_1_1_LARGE = _1_1 | _LARGE | {"num_heads": 16, "d_ff": 2816}
_NANO = {"d_model": 64, "num_layers": 2, "num_heads": 2, "d_head": 32, "d_ff": 256, "vocab_size": 512}
_TINY = {"d_model": 192, "num_layers": 4, "num_heads": 6, "d_head": 32, "d_ff": 768, "vocab_size": 4096}

PRESETS: dict[str, dict] = {
    "nano": _NANO,
    "tiny": _TINY,
    "small": {},  # 61M
    "base": {"d_model": 768, "num_layers": 12, "num_heads": 12, "d_ff": 3072},  # 223M
    "large": _LARGE | {"num_heads": 16, "d_ff": 4096},  # 738M
    "3b": _LARGE | {"num_heads": 32, "d_head": 128, "d_ff": 16384},
    "11b": _LARGE | {"num_heads": 128, "d_head": 128, "d_ff": 65536},
    # 1.1, and FLAN-T5 of the same names
    "v1_1_small": _1_1 | {"d_model": 512, "num_layers": 8, "num_heads": 6, "d_ff": 1024},  # 77M
    "v1_1_base": _1_1_BASE,  # 248M
    "v1_1_large": _1_1_LARGE,  # 783M
    "v1_1_xl": _1_1 | {"d_model": 2048, "num_layers": 24, "num_heads": 32, "d_ff": 5120},  # 2.8B
    "v1_1_xxl": _1_1 | {"d_model": 4096, "num_layers": 24, "num_heads": 64, "d_ff": 10240},  # 11B
    # LongT5: the same with a window (2112.07916)
    "long_nano": _NANO | {"local_radius": 63},
    "long_tiny": _TINY | {"local_radius": 127},
    "long_base": _1_1_BASE | {"local_radius": 127},  # 248M
    "long_large": _1_1_LARGE | {"local_radius": 127},  # 783M
}


class T5(Model):
    """T5 with the head that its config names. `seed` draws the initial weights.

        model(ids, source=source)                       # everything anew, with gradients
        state = model.init_state(batch, max_length, source=source)
        model(ids, state=state)                         # the source was read once

    `source` is ids [batch, source] or a `Source` with positions; `ids` begin with `config.start_token`. With a head on the
    encoder alone there is no decoder: ``model(ids)``.
    """

    inputs = frozenset({"positions", "state", "source"})
    causal = True

    def __init__(self, config: T5Config, *, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.tokens = nn.Embedding(config.vocab_size, config.d_model)
        self.encoder = stack(config, config.num_layers, decoder=False)
        if config.head not in ENCODERS:
            self.trunk = stack(config, config.decoder_layers, decoder=True)
        self.head = HEADS[config.head](config)
        if isinstance(self.head, LanguageHead) and config.tie:
            self.head.tie(self.tokens)
        self._tell_what_it_takes()
        self.initialise(torch.Generator().manual_seed(seed))

    def _tell_what_it_takes(self) -> None:
        if self.config.head in ENCODERS:
            self.inputs, self.causal = frozenset({"positions"}), False  # type: ignore[misc]
        if self.config.head == "sequence":
            self.inputs, self.causal = frozenset({"positions", "source"}), False  # type: ignore[misc]
            self.law_exceptions = {
                "documents stay apart": "its head reads a row by its last token, so a row is one text"
            }
        if isinstance(self.head, nn.Identity):
            self.law_exceptions = {"first loss near ln V": "it is a body without a head, and gives no logits"}

    def answer(self, hidden: Hidden, positions: Positions | None, staged: StagedState | None) -> Output:
        if isinstance(self.head, LastTokenHead):
            return Output(self.head(hidden, positions))
        return Output(self.head(hidden), staged)

    def run(
        self, input_ids: Ids, positions: Positions, state: Tree | None, source: Any = None
    ) -> tuple[Hidden, Tree | None]:
        if self.config.head in ENCODERS:
            return self.encode(Source(input_ids, positions)).hidden, None
        if (source is None) == (state is None):
            raise ConfigError(
                "a decoder was given " + ("neither a source nor a state" if source is None else "a source and a state"),
                "one of them: a state holds the source that it was made with",
                "model(ids, source=source), or state = model.init_state(batch, max_length, source=source)",
            )
        encoded = None if source is None else self.encode(source)
        if encoded is not None and encoded.hidden.shape[0] != input_ids.shape[0]:
            raise ConfigError(f"{encoded.hidden.shape[0]} sources for {input_ids.shape[0]} rows", "as many")
        x, staged = self.trunk(self.drop(self.tokens(input_ids)), positions, state, encoded)
        return self.drop(x), staged

    def encode(self, source: Any) -> Encoded:
        """What the encoder makes of ids [batch, source] or a `Source`: hidden states [batch, source, d_model]."""
        read = Source.of(source)
        check_ids(read.input_ids, self.config.vocab_size, "source ids")
        positions = read.placed
        if positions.length != read.input_ids.shape[1]:
            raise ConfigError(f"positions of {positions.length} tokens for a source of {read.input_ids.shape[1]}")
        x, _ = self.encoder(self.drop(self.tokens(read.input_ids)), positions)
        return Encoded(self.drop(x), positions)

    def first_nodes(self, batch_size: int, max_length: int, source: Any, **kind: Any) -> Tree:
        """A state is made from its source, which is read without gradients."""
        if source is None:
            raise StateError(
                "a state of T5 was asked for without a source",
                "the ids that the decoder writes from",
                "model.init_state(batch_size, max_length, source=ids)",
            )
        with torch.no_grad():
            encoded = self.encode(source)
            if encoded.hidden.shape[0] != batch_size:
                raise StateError(f"{encoded.hidden.shape[0]} sources for a state of {batch_size} rows", "as many")
            return self.trunk.init_state(batch_size, max_length, source=encoded, **kind)  # type: ignore[operator]

    def drop(self, x: Hidden) -> Hidden:
        return F.dropout(x, self.config.dropout, self.training)

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """N(0, std^2) as in the authors' code: 1 for tokens, (d_model d_head)^-1/2 for queries, which makes up for the scale
        that q.k lacks, and for every other map the -1/2th power of its inputs."""
        if self.tokens.weight.is_meta:
            return
        c = self.config

        def draw(weight: Any, std: float) -> None:
            nn.init.normal_(weight, 0.0, c.init_factor * std, generator=generator)

        draw(self.tokens.weight, 1.0)
        if not isinstance(self.head, LanguageHead):
            initialise_normal(self.head, c.init_std, generator)
        elif not c.tie:
            draw(self.head.linear.weight, c.d_model**-0.5)
        for module in self.modules():
            if isinstance(module, Project | CrossProject):
                draw(module.linear.weight, c.d_model**-0.5)
                module.linear.weight[: c.num_heads * c.d_head] *= c.d_head**-0.5
            if isinstance(module, CrossProject):
                draw(module.source.weight, c.d_model**-0.5)
            if isinstance(module, Mix):
                draw(module.linear.weight, (c.num_heads * c.d_head) ** -0.5)
            if isinstance(module, T5Bias):
                draw(module.table.weight, c.d_model**-0.5)
            if isinstance(module, FeedForward | GatedFeedForward):
                draw(module.expand.weight, c.d_model**-0.5)
                draw(module.contract.weight, c.d_ff**-0.5)
            if isinstance(module, GatedFeedForward):
                draw(module.gate.weight, c.d_model**-0.5)


class LastTokenHead(nn.Module):
    """Logits [batch, labels] of each row: linear(drop(tanh(dense(drop(last token)))))."""

    def __init__(self, d_model: int, num_labels: int, *, dropout: float) -> None:
        super().__init__()
        self.dense, self.linear, self.dropout = nn.Linear(d_model, d_model), nn.Linear(d_model, num_labels), dropout

    def forward(self, hidden: Hidden, positions: Positions | None = None) -> Float[Tensor, "batch labels"]:
        x = F.dropout(last_token(hidden, positions), self.dropout, self.training)
        return self.linear(F.dropout(torch.tanh(self.dense(x)), self.dropout, self.training))


def last_token(hidden: Hidden, positions: Positions | None) -> Float[Tensor, "batch d_model"]:
    """The hidden state of each row's last token, which padding on the right moves."""
    if positions is None or positions.start is not None:
        return hidden[:, -1]
    if positions.document is not None:
        raise ConfigError(
            "documents packed into rows, for a head that reads each row by its last token", "a text a row"
        )
    at = positions.index.argmax(-1).expand(hidden.shape[0])
    return hidden[torch.arange(hidden.shape[0], device=hidden.device), at]


def next_token(config: T5Config) -> LanguageHead:
    scale = config.d_model**-0.5 if config.scale_head else 1.0
    return LanguageHead(config.d_model, config.vocab_size, scale=scale)


HEADS: dict[str | None, Callable[[T5Config], nn.Module]] = {
    None: next_token,
    "none": lambda c: nn.Identity(),
    "sequence": lambda c: LastTokenHead(c.d_model, c.num_labels, dropout=c.classifier_dropout),
    "span": lambda c: TokenHead(c.d_model, 2),
    "encoder": lambda c: nn.Identity(),
    "token": lambda c: TokenHead(c.d_model, c.num_labels, dropout=c.classifier_dropout),
}


def shifted(ids: Ids, start_token: int) -> Ids:
    """What the decoder reads where it is to say `ids`: `start_token`, then all but their last."""
    return torch.cat([torch.full_like(ids[:, :1], start_token), ids[:, :-1]], 1)


class Stack(PreNorm):
    """An encoder or a decoder: one table of distances serves its layers. Without gradients it is read once a forward."""

    def forward(
        self, x: Hidden, positions: Positions, state: Tree | None = None, source: Any = None
    ) -> tuple[Hidden, Tree | None]:
        if torch.is_grad_enabled() or torch.compiler.is_compiling():  # each layer then has a gradient of its own
            return super().forward(x, positions, state, source)
        bias: Any = self.blocks[0]["attention"].score.terms[0]  # type: ignore[index]
        with bias.shared(positions):
            return super().forward(x, positions, state, source)


def stack(config: T5Config, num_layers: int, *, decoder: bool) -> Stack:
    """An encoder or a decoder, with one table of distances for all of its layers."""
    bias = T5Bias(
        config.num_heads,
        num_buckets=config.num_buckets,
        max_distance=config.max_distance,
        bidirectional=not decoder,
    )
    blocks = []
    for _ in range(num_layers):
        block: dict[str, nn.Module] = {"attention": attention(config, bias, decoder=decoder)}
        if decoder:
            block["cross"] = cross_attention(config)
        blocks.append(block | {"feed_forward": feed_forward(config)})
    return Stack(blocks, lambda: RMSNorm(config.d_model, config.eps), dropout=config.dropout)


def attention(config: T5Config, bias: T5Bias, *, decoder: bool) -> Attention:
    heads, d_head, d_model = config.num_heads, config.d_head, config.d_model
    around: Mask = Everything() if config.local_radius is None else Window(config.local_radius + 1)
    mask = (Causal() if decoder else around) & SameDocument()
    return Attention(
        project=Project(d_model, heads, d_head, bias=False),
        remember=KeyValueCache(heads, d_head) if decoder else None,
        score=Score(mask, 1.0, terms=[bias], dropout=config.dropout),
        mix=Mix(heads, d_head, d_model, bias=False),
    )


def cross_attention(config: T5Config) -> CrossAttention:
    heads, d_head, d_model = config.num_heads, config.d_head, config.d_model
    return CrossAttention(
        project=CrossProject(d_model, heads, d_head, bias=False),
        score=Score(SameDocument(), 1.0, dropout=config.dropout),
        mix=Mix(heads, d_head, d_model, bias=False),
    )


def feed_forward(config: T5Config) -> nn.Module:
    kind = GatedFeedForward if config.gated else FeedForward
    return kind(config.d_model, config.d_ff, activation_name=config.activation, bias=False, dropout=config.dropout)


CONFIG, MODEL = T5Config, T5
