"""Llama: Touvron et al., "LLaMA: Open and Efficient Foundation Language Models" (2302.13971), with the grouped heads of
Llama 2 (2307.09288) and the rotary scaling of Llama 3.1 (2407.21783). What most open checkpoints of today are.

For every block x += attention(norm(x)) with rotary queries and keys, x += gated feed-forward(norm(x)); no biases.

Departures
- Query, key and value are one linear map; checkpoints hold three. The weight table joins them.
- Documents packed into one row do not see each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from formers.axes import Hidden, Ids
from formers.config import Foreign, below_one, out_of_range, require, uneven_heads, unknown_activation
from formers.errors import ConfigError
from formers.parts.attention import Attention, KeyValueCache, Mix, Project, Score, initialise_normal, scale_of
from formers.parts.embeddings import check_length
from formers.parts.feed_forward import ACTIVATIONS, GatedFeedForward, in_chunks, name_in_chunks
from formers.parts.heads import LanguageHead
from formers.parts.masks import Causal, SameDocument
from formers.parts.model import Model
from formers.parts.norms import RMSNorm
from formers.parts.positions import Positions
from formers.parts.reversible import TRUNKS, problems_of_trunk
from formers.parts.states import Tree
from formers.parts.turns import LinearScaling, Llama3Scaling, Rotary
from formers.weights import Fuse, Ignore, Rename, Rule, Table, Tie


@dataclass(frozen=True)
class LlamaConfig:
    """Sizes of Llama 2 7B by default."""

    architecture: ClassVar[str] = "llama"
    later: ClassVar[tuple[str, ...]] = ("trunk", "ff_chunks")

    vocab_size: int = 32000
    d_model: int = 4096
    num_layers: int = 32
    num_heads: int = 32
    num_kv_heads: int | None = None  # as many as num_heads where None
    d_head: int | None = None  # d_model / num_heads where None
    d_ff: int = 11008
    max_length: int = 2048
    activation: str = "silu"
    eps: float = 1e-6
    rotary_base: float = 10_000.0
    rotary_scaling: LinearScaling | Llama3Scaling | None = None
    attention_bias: bool = False
    feed_forward_bias: bool = False
    attention_dropout: float = 0.0
    init_std: float = 0.02
    tie: bool = False
    trunk: str = "pre_norm"
    """pre_norm; reversible: two streams, memory for training that does not grow with depth, and no Llama any more."""
    ff_chunks: int = 1
    """Stretches of the sequence that the feed-forward is computed for one after another: less memory, the same function."""

    def __post_init__(self) -> None:
        sizes = ("vocab_size", "d_model", "num_layers", "num_heads", "d_ff", "max_length", "ff_chunks")
        problems = out_of_range(self) + below_one(self, sizes) + problems_of_trunk(self)
        if not problems and self.num_heads % self.kv_heads:
            problems.append(f"num_heads {self.num_heads} is not a multiple of num_kv_heads {self.kv_heads}")
        problems += uneven_heads(self) if self.d_head is None else []
        if not problems and self.head_width % 2:
            problems.append(f"d_head {self.head_width} is odd; rotary positions turn pairs")
        problems += unknown_activation(self, ACTIVATIONS)
        require("LlamaConfig", problems)

    @property
    def kv_heads(self) -> int:
        return self.num_heads if self.num_kv_heads is None else self.num_kv_heads

    @property
    def head_width(self) -> int:
        return self.d_model // self.num_heads if self.d_head is None else self.d_head


_SMALL = {"num_kv_heads": 2, "tie": True}

PRESETS: dict[str, dict] = {
    "nano": _SMALL | {"d_model": 64, "num_layers": 2, "num_heads": 4, "d_ff": 172, "vocab_size": 512, "max_length": 128},
    "tiny": _SMALL | {"d_model": 192, "num_layers": 4, "num_heads": 6, "d_ff": 512, "vocab_size": 4096, "max_length": 256},
    "mini": _SMALL | {"d_model": 384, "num_layers": 6, "num_heads": 6, "d_ff": 1024, "vocab_size": 8192, "max_length": 512},
    "1b": {"d_model": 2048, "num_layers": 22, "num_heads": 32, "num_kv_heads": 4, "d_ff": 5632, "eps": 1e-5},
    "7b": {"eps": 1e-5, "max_length": 4096},
}  # fmt: skip


class Llama(Model):
    """Llama. `seed` draws the initial weights."""

    def __init__(self, config: LlamaConfig, *, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.tokens = nn.Embedding(config.vocab_size, config.d_model)
        rotary = Rotary(config.head_width, base=config.rotary_base, scaling=config.rotary_scaling)
        blocks = [
            {"attention": attention(config, rotary), "feed_forward": feed_forward(config)}
            for _ in range(config.num_layers)
        ]
        self.trunk = TRUNKS[config.trunk](blocks, lambda: RMSNorm(config.d_model, config.eps))
        self.head = LanguageHead(config.d_model, config.vocab_size)
        if config.tie:
            self.head.tie(self.tokens)
        self.initialise(torch.Generator().manual_seed(seed))

    def run(self, input_ids: Ids, positions: Positions, state: Tree | None) -> tuple[Hidden, Tree | None]:
        if positions.start is not None:
            check_length(positions.start + positions.length, self.config.max_length)
        return self.trunk(self.tokens(input_ids), positions, state)

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """N(0, init_std) for every map and embedding."""
        if not self.tokens.weight.is_meta:
            initialise_normal(self, self.config.init_std, generator)


def attention(config: LlamaConfig, rotary: Rotary) -> Attention:
    heads, kv_heads, d_head = config.num_heads, config.kv_heads, config.head_width
    return Attention(
        project=Project(config.d_model, heads, d_head, num_kv_heads=kv_heads, bias=config.attention_bias),
        turn=rotary,
        remember=KeyValueCache(kv_heads, d_head),
        score=Score(Causal() & SameDocument(), scale_of(d_head), dropout=config.attention_dropout),
        mix=Mix(heads, d_head, config.d_model, bias=config.attention_bias),
    )


def feed_forward(config: LlamaConfig) -> nn.Module:
    bias = config.feed_forward_bias
    whole = GatedFeedForward(config.d_model, config.d_ff, activation_name=config.activation, bias=bias)
    return in_chunks(whole, config.ff_chunks)


@dataclass(frozen=True)
class _LlamaForeign(Foreign):
    """Adds what is more than a rename: the rotary settings, which Hugging Face keeps in one object."""

    def read(self, theirs: Any) -> dict[str, Any]:
        theirs = dict(theirs)
        rotary = dict(theirs.pop("rope_parameters", None) or theirs.pop("rope_scaling", None) or {})
        theirs.pop("rope_scaling", None)
        base = rotary.pop("rope_theta", theirs.pop("rope_theta", 10_000.0))
        theirs.pop("rope_theta", None)
        return super().read(theirs) | {"rotary_base": float(base), "rotary_scaling": _read_scaling(rotary)}

    def write(self, config: LlamaConfig) -> dict[str, Any]:
        return super().write(config) | {
            "rope_parameters": {"rope_theta": config.rotary_base, **_write_scaling(config.rotary_scaling)},
            "num_key_value_heads": config.kv_heads,
            "head_dim": config.head_width,
        }


def _read_scaling(rotary: dict[str, Any]) -> LinearScaling | Llama3Scaling | None:
    kind = rotary.pop("rope_type", rotary.pop("type", "default"))
    rotary.pop("type", None)
    if kind == "default" and not rotary:
        return None
    try:
        if kind == "linear":
            return LinearScaling(**rotary)
        if kind == "llama3":
            original = rotary.pop("original_max_position_embeddings")
            return Llama3Scaling(original_max_length=original, **rotary)
    except (TypeError, KeyError) as error:
        raise ConfigError(f"rotary settings {rotary} of kind {kind!r}: {error}") from None
    raise ConfigError(f"rotary scaling {kind!r} with {rotary} is not implemented", "default, linear or llama3")


def _write_scaling(scaling: LinearScaling | Llama3Scaling | None) -> dict[str, Any]:
    if scaling is None:
        return {"rope_type": "default"}
    if isinstance(scaling, LinearScaling):
        return {"rope_type": "linear", "factor": scaling.factor}
    return {
        "rope_type": "llama3",
        "factor": scaling.factor,
        "low_freq_factor": scaling.low_freq_factor,
        "high_freq_factor": scaling.high_freq_factor,
        "original_max_position_embeddings": scaling.original_max_length,
    }


FOREIGN = _LlamaForeign(
    "llama",
    class_name="LlamaForCausalLM",
    names={
        "vocab_size": "vocab_size",
        "hidden_size": "d_model",
        "num_hidden_layers": "num_layers",
        "num_attention_heads": "num_heads",
        "num_key_value_heads": "num_kv_heads",
        "head_dim": "d_head",
        "intermediate_size": "d_ff",
        "max_position_embeddings": "max_length",
        "hidden_act": "activation",
        "rms_norm_eps": "eps",
        "attention_bias": "attention_bias",
        "mlp_bias": "feed_forward_bias",
        "attention_dropout": "attention_dropout",
        "initializer_range": "init_std",
        "tie_word_embeddings": "tie",
    },
    values={"activation": {"silu": "silu", "swish": "silu", "gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh", "relu": "relu"}},
    defaults={
        "num_key_value_heads": None,
        "head_dim": None,
        "max_position_embeddings": 2048,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "attention_bias": False,
        "mlp_bias": False,
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "tie_word_embeddings": False,
    },
    only={"trunk": "pre_norm"},
)  # fmt: skip


def weights(config: LlamaConfig) -> Table:
    """Our tensors and those of Hugging Face's LlamaForCausalLM."""
    q, kv = config.num_heads * config.head_width, config.kv_heads * config.head_width
    rules: list[Rule] = [Rename("tokens.weight", "model.embed_tokens.weight")]
    feed_forward = name_in_chunks("feed_forward", config.ff_chunks)
    for i in range(config.num_layers):
        ours, norms, theirs = f"trunk.blocks.{i}", f"trunk.norms.{i}", f"model.layers.{i}"
        attention_kinds = ("weight", "bias") if config.attention_bias else ("weight",)
        feed_forward_kinds = ("weight", "bias") if config.feed_forward_bias else ("weight",)
        for kind in attention_kinds:
            parts = tuple(f"{theirs}.self_attn.{p}_proj.{kind}" for p in "qkv")
            rules.append(Fuse(f"{ours}.attention.project.linear.{kind}", parts, (q, kv, kv)))
            rules.append(Rename(f"{ours}.attention.mix.linear.{kind}", f"{theirs}.self_attn.o_proj.{kind}"))
        for our, their in (("gate", "gate_proj"), ("expand", "up_proj"), ("contract", "down_proj")):
            rules += [
                Rename(f"{ours}.{feed_forward}.{our}.{k}", f"{theirs}.mlp.{their}.{k}") for k in feed_forward_kinds
            ]
        rules.append(Rename(f"{norms}.attention.weight", f"{theirs}.input_layernorm.weight"))
        rules.append(Rename(f"{norms}.feed_forward.weight", f"{theirs}.post_attention_layernorm.weight"))
    rules.append(Rename("trunk.final_norm.weight", "model.norm.weight"))
    ties: tuple[Tie, ...] = (Tie("head.linear.weight", "tokens.weight", "lm_head.weight"),)
    if not config.tie:
        rules.append(Rename("head.linear.weight", "lm_head.weight"))
        ties = ()
    ignored = (Ignore("*.rotary_emb.inv_freq", "rotary frequencies, stored as a buffer by older files"),)
    return Table(tuple(rules), ties, ignored, optional_prefix="model.", unprefixed=("lm_head.weight",))


def activations(config: LlamaConfig) -> list[tuple[str, str]]:
    """Modules whose outputs mean the same in ours and in Hugging Face's, in the order they run."""
    pairs = [("tokens", "model.embed_tokens")]
    feed_forward = name_in_chunks("feed_forward", config.ff_chunks)
    for i in range(config.num_layers):
        ours, norms, theirs = f"trunk.blocks.{i}", f"trunk.norms.{i}", f"model.layers.{i}"
        pairs += [
            (f"{norms}.attention", f"{theirs}.input_layernorm"),
            (f"{ours}.attention.mix.linear", f"{theirs}.self_attn.o_proj"),
            (f"{norms}.feed_forward", f"{theirs}.post_attention_layernorm"),
            (f"{ours}.{feed_forward}.gate", f"{theirs}.mlp.gate_proj"),
            (f"{ours}.{feed_forward}.contract", f"{theirs}.mlp.down_proj"),
            (f"trunk.stream.{i}", theirs),
        ]
    return [*pairs, ("trunk.final_norm", "model.norm"), ("head", "lm_head")]


CONFIG, MODEL = LlamaConfig, Llama
