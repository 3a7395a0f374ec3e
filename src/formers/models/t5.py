"""T5: Raffel et al., "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer" (1910.10683), and
T5 1.1 with gated feed-forwards (Shazeer, 2002.05202), whose sizes FLAN-T5 has.

An encoder reads a source, a decoder writes: for every block x += attention(norm(x)) with q.k + b[distance], in the decoder
x += attention to the source(norm(x)), then x += feed_forward(norm(x)). Norms are RMSNorm, no map has a bias, q.k is not
scaled, and one table b serves all layers of a stack (section 2.1).

    1.0   ReLU; logits = d_model^-1/2 norm(x) tokens^T
    1.1   gated GELU; a head of its own, not scaled

Departures
- Query, key and value are one linear map, and so are key and value of the source; checkpoints hold three. The weight table
  joins them.
- The edges of distance buckets are counted on integers, once: no rounding of a logarithm moves them.
- Documents packed into one row do not see each other; where the source carries documents too, each target sees its own.
- Hidden states are not clamped in float16, as Hugging Face's are; bfloat16 needs no such thing.
- A head of its own begins at N(0, 1/d_model), as in the authors' code; Hugging Face draws it from N(0, 1).
- The relative bias that the authors' code has for attention to the source is left out, as Hugging Face does: it is 0.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from formers.axes import Hidden, Ids
from formers.config import Foreign, below_one, require
from formers.errors import ConfigError, StateError
from formers.parts.attention import Attention, KeyValueCache, Mix, Project, Score
from formers.parts.feed_forward import ACTIVATIONS, FeedForward, GatedFeedForward
from formers.parts.heads import LanguageHead
from formers.parts.masks import Causal, Everything, SameDocument
from formers.parts.model import Model
from formers.parts.norms import RMSNorm
from formers.parts.positions import Positions
from formers.parts.sources import CrossAttention, CrossProject, Encoded, Source
from formers.parts.states import Tree
from formers.parts.terms import T5Bias
from formers.parts.trunk import PreNorm
from formers.weights import Fuse, Ignore, Rename, Rule, Table, Tie


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
    eps: float = 1e-6
    dropout: float = 0.1
    init_factor: float = 1.0
    start_token: int = 0
    """What the decoder begins with: the id of padding."""
    end_token: int = 1

    def __post_init__(self) -> None:
        sizes = ("vocab_size", "d_model", "num_layers", "num_heads", "d_head", "d_ff")
        problems = below_one(self, sizes)
        if self.num_decoder_layers is not None and self.num_decoder_layers < 1:
            problems.append(f"num_decoder_layers is {self.num_decoder_layers}, wanted at least 1")
        if self.num_buckets < 4 or self.num_buckets % 2:
            problems.append(f"num_buckets is {self.num_buckets}, wanted an even number from 4 on")
        elif self.max_distance <= self.num_buckets // 2:
            problems.append(f"max_distance {self.max_distance} lies within the {self.num_buckets // 2} exact buckets")
        if self.activation not in ACTIVATIONS:
            problems.append(f"activation {self.activation!r} is none of {', '.join(ACTIVATIONS)}")
        require("T5Config", problems)

    @property
    def decoder_layers(self) -> int:
        return self.num_layers if self.num_decoder_layers is None else self.num_decoder_layers


_LARGE = {"d_model": 1024, "num_layers": 24}
_1_1 = {"activation": "gelu_tanh", "gated": True, "tie": False, "scale_head": False}

PRESETS: dict[str, dict] = {
    "nano": {"d_model": 64, "num_layers": 2, "num_heads": 2, "d_head": 32, "d_ff": 256, "vocab_size": 512},
    "tiny": {"d_model": 192, "num_layers": 4, "num_heads": 6, "d_head": 32, "d_ff": 768, "vocab_size": 4096},
    "small": {},  # 61M
    "base": {"d_model": 768, "num_layers": 12, "num_heads": 12, "d_ff": 3072},  # 223M
    "large": _LARGE | {"num_heads": 16, "d_ff": 4096},  # 738M
    "3b": _LARGE | {"num_heads": 32, "d_head": 128, "d_ff": 16384},
    "11b": _LARGE | {"num_heads": 128, "d_head": 128, "d_ff": 65536},
    # 1.1, and FLAN-T5 of the same names
    "v1_1_small": _1_1 | {"d_model": 512, "num_layers": 8, "num_heads": 6, "d_ff": 1024},  # 77M
    "v1_1_base": _1_1 | {"d_model": 768, "num_layers": 12, "num_heads": 12, "d_ff": 2048},  # 248M
    "v1_1_large": _1_1 | _LARGE | {"num_heads": 16, "d_ff": 2816},  # 783M
    "v1_1_xl": _1_1 | {"d_model": 2048, "num_layers": 24, "num_heads": 32, "d_ff": 5120},  # 2.8B
    "v1_1_xxl": _1_1 | {"d_model": 4096, "num_layers": 24, "num_heads": 64, "d_ff": 10240},  # 11B
}


class T5(Model):
    """T5 with a head for the next token. `seed` draws the initial weights.

        model(ids, source=source)                       # everything anew, with gradients
        state = model.init_state(batch, max_length, source=source)
        model(ids, state=state)                         # the source was read once

    `source` is ids [batch, source] or a `Source` with positions; `ids` begin with `config.start_token`.
    """

    inputs = frozenset({"positions", "state", "source"})

    def __init__(self, config: T5Config, *, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.tokens = nn.Embedding(config.vocab_size, config.d_model)
        self.encoder = stack(config, config.num_layers, decoder=False)
        self.trunk = stack(config, config.decoder_layers, decoder=True)
        scale = config.d_model**-0.5 if config.scale_head else 1.0
        self.head = LanguageHead(config.d_model, config.vocab_size, scale=scale)
        if config.tie:
            self.head.tie(self.tokens)
        self.initialise(torch.Generator().manual_seed(seed))

    def run(
        self, input_ids: Ids, positions: Positions, state: Tree | None, source: Any = None
    ) -> tuple[Hidden, Tree | None]:
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
        if not c.tie:
            draw(self.head.linear.weight, c.d_model**-0.5)  # type: ignore[union-attr]
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


def stack(config: T5Config, num_layers: int, *, decoder: bool) -> PreNorm:
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
    return PreNorm(blocks, lambda: RMSNorm(config.d_model, config.eps), dropout=config.dropout)


def attention(config: T5Config, bias: T5Bias, *, decoder: bool) -> Attention:
    heads, d_head, d_model = config.num_heads, config.d_head, config.d_model
    mask = (Causal() if decoder else Everything()) & SameDocument()
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


# --- Hugging Face's ---------------------------------------------------------------------------------------------------

_ACTIVATIONS = {"relu": "relu", "gelu_new": "gelu_tanh", "gelu": "gelu", "silu": "silu", "swish": "silu"}
"""By their names; ``gated-gelu`` means gelu_new."""


class _T5Foreign(Foreign):
    """Their `feed_forward_proj` is two settings of ours; what ties the head and what scales it, they mix up."""

    def read(self, theirs: Mapping[str, Any]) -> dict[str, Any]:
        """`scale_decoder_outputs` is newer than the files of 1.1, which say it by `tie_word_embeddings`. Of a file that does
        not scale, the names of its tensors tell whether it ties (`settle`): newer ones say True in either case."""
        given = {name: value for name, value in theirs.items() if name not in ("n_positions", "classifier_dropout")}
        stated = [given.pop(name, None) for name in ("feed_forward_proj", "dense_act_fn", "is_gated_act")]
        tie, scale = given.pop("tie_word_embeddings", None), given.pop("scale_decoder_outputs", None)
        ours = super().read(given) | _read_feed_forward(*stated)
        scale = tie is not False if scale is None else scale
        return ours | {"tie": tie is not False and scale, "scale_head": scale}

    def settle(self, config: T5Config, names: Collection[str]) -> T5Config:
        return config if config.scale_head or "lm_head.weight" in names else replace(config, tie=True)

    def write(self, config: T5Config) -> dict[str, Any]:
        named = {ours: theirs for theirs, ours in reversed(_ACTIVATIONS.items())}
        if config.activation not in named:
            raise ConfigError(f"activation={config.activation!r} has no feed_forward_proj", ", ".join(named))
        their = named[config.activation]
        gated_gelu = config.gated and their == "gelu_new"
        return super().write(config) | {
            "feed_forward_proj": "gated-gelu" if gated_gelu else f"gated-{their}" if config.gated else their,
            "num_decoder_layers": config.decoder_layers,
            "tie_word_embeddings": config.tie,
            "scale_decoder_outputs": config.scale_head,
            "pad_token_id": config.start_token,
        }


def _read_feed_forward(proj: str | None, activation: str | None, gated: bool | None) -> dict[str, Any]:
    """`feed_forward_proj`, and what newer files derive from it beside it."""
    proj = proj or "relu"
    kind, _, rest = proj.rpartition("-")
    name = activation or ("gelu_new" if proj == "gated-gelu" else rest)
    if kind not in ("", "gated") or name not in _ACTIVATIONS or gated not in (None, kind == "gated"):
        found = f"feed_forward_proj={proj!r} with dense_act_fn={activation!r} and is_gated_act={gated!r}"
        raise ConfigError(f"{found} is not implemented", "relu or gated-gelu, or another of " + ", ".join(_ACTIVATIONS))
    return {"activation": _ACTIVATIONS[name], "gated": kind == "gated"}


FOREIGN = _T5Foreign(
    "t5",
    class_name="T5ForConditionalGeneration",
    names={
        "vocab_size": "vocab_size",
        "d_model": "d_model",
        "num_layers": "num_layers",
        "num_decoder_layers": "num_decoder_layers",
        "num_heads": "num_heads",
        "d_kv": "d_head",
        "d_ff": "d_ff",
        "relative_attention_num_buckets": "num_buckets",
        "relative_attention_max_distance": "max_distance",
        "layer_norm_epsilon": "eps",
        "dropout_rate": "dropout",
        "initializer_factor": "init_factor",
        "decoder_start_token_id": "start_token",
        "eos_token_id": "end_token",
    },
    fixed={"is_encoder_decoder": True, "is_decoder": False},
    defaults={
        "num_decoder_layers": None,
        "relative_attention_num_buckets": 32,
        "relative_attention_max_distance": 128,
        "layer_norm_epsilon": 1e-6,
        "dropout_rate": 0.1,
        "initializer_factor": 1.0,
        "decoder_start_token_id": 0,
        "eos_token_id": 1,
    },
)


def weights(config: T5Config) -> Table:
    """Our tensors and those of Hugging Face's T5ForConditionalGeneration."""
    rules: list[Rule] = [Rename("tokens.weight", "shared.weight")]
    ties = [Tie("tokens.weight", "tokens.weight", f"{side}.embed_tokens.weight") for side in ("encoder", "decoder")]
    for our, their, layers in (("encoder", "encoder", config.num_layers), ("trunk", "decoder", config.decoder_layers)):
        rules += [rule for i in range(layers) for rule in _block(config, our, their, i)]
        rules.append(Rename(f"{our}.final_norm.weight", f"{their}.final_layer_norm.weight"))
        table = "attention.score.terms.0.table.weight", "layer.0.SelfAttention.relative_attention_bias.weight"
        rules.append(Rename(f"{our}.blocks.0.{table[0]}", f"{their}.block.0.{table[1]}"))
        ties += [
            Tie(f"{our}.blocks.{i}.{table[0]}", f"{our}.blocks.0.{table[0]}", f"{their}.block.{i}.{table[1]}")
            for i in range(1, layers)
        ]
    if config.tie:
        ties.append(Tie("head.linear.weight", "tokens.weight", "lm_head.weight"))
    else:
        rules.append(Rename("head.linear.weight", "lm_head.weight"))
    unused = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
    ignored = (Ignore(unused, "distances to a source mean nothing: no code reads this table of the authors' files"),)
    return Table(tuple(rules), tuple(ties), ignored)


def _block(config: T5Config, our: str, their: str, i: int) -> list[Rule]:
    """One block of the encoder or the decoder."""
    ours, norms, theirs = f"{our}.blocks.{i}", f"{our}.norms.{i}", f"{their}.block.{i}.layer"
    width, maps = config.num_heads * config.d_head, f"{theirs}.0.SelfAttention"
    names = {"attention": 0, "feed_forward": 1} if our == "encoder" else {"attention": 0, "cross": 1, "feed_forward": 2}
    rules: list[Rule] = [
        Rename(f"{norms}.{n}.weight", f"{theirs}.{place}.layer_norm.weight") for n, place in names.items()
    ]
    three = tuple(f"{maps}.{part}.weight" for part in "qkv")
    rules.append(Fuse(f"{ours}.attention.project.linear.weight", three, (width,) * 3))
    rules.append(Rename(f"{ours}.attention.mix.linear.weight", f"{maps}.o.weight"))
    if "cross" in names:
        maps = f"{theirs}.1.EncDecAttention"
        rules.append(Rename(f"{ours}.cross.project.linear.weight", f"{maps}.q.weight"))
        two = f"{maps}.k.weight", f"{maps}.v.weight"
        rules.append(Fuse(f"{ours}.cross.project.source.weight", two, (width,) * 2))
        rules.append(Rename(f"{ours}.cross.mix.linear.weight", f"{maps}.o.weight"))
    feed = {"gate": "wi_0", "expand": "wi_1", "contract": "wo"} if config.gated else {"expand": "wi", "contract": "wo"}
    feed_forward = f"{theirs}.{names['feed_forward']}.DenseReluDense"
    rules += [Rename(f"{ours}.feed_forward.{n}.weight", f"{feed_forward}.{t}.weight") for n, t in feed.items()]
    return rules


def activations(config: T5Config) -> list[tuple[str, str]]:
    """Modules whose outputs mean the same in ours and in Hugging Face's, in the order they run."""
    pairs = []
    for our, their, layers in (("encoder", "encoder", config.num_layers), ("trunk", "decoder", config.decoder_layers)):
        names = {"attention": "SelfAttention.o", "cross": "EncDecAttention.o", "feed_forward": "DenseReluDense.wo"}
        if our == "encoder":
            del names["cross"]
        for i in range(layers):
            for place, (name, last) in enumerate(names.items()):
                map_of = "contract" if name == "feed_forward" else "mix.linear"
                theirs = f"{their}.block.{i}.layer.{place}"
                pairs.append((f"{our}.norms.{i}.{name}", f"{theirs}.layer_norm"))
                pairs.append((f"{our}.blocks.{i}.{name}.{map_of}", f"{theirs}.{last}"))
        pairs.append((f"{our}.final_norm", f"{their}.final_layer_norm"))
    return [*pairs, ("head", "lm_head")]


CONFIG, MODEL = T5Config, T5
