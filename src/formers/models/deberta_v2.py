"""DeBERTa, the authors' version 2, whose shape version 3 has: He et al., "DeBERTaV3: Improving DeBERTa using ELECTRA-Style
Pre-Training with Gradient-Disentangled Embedding Sharing" (2111.09543), after 2006.03654.

DeBERTa with fewer parameters for distances: they fall into log buckets, their table passes a norm, and the maps that make
queries and keys of contents make those of distances too. The larger models of version 2 put a convolution behind the first
block. x = norm(tokens); for every block x = norm(x + attention(x)), x = norm(x + feed_forward(x)):

    A_ij = q_i.k_j + q_i.Kr[delta(i,j)] + k_j.Qr[delta(i,j)], over sqrt(3 d_head), delta(i,j) the bucket of i - j

`head` in the config says what stands on top, each the class of transformers that its folders name:

    masked_token  DebertaV2ForMaskedLM: norm(gelu(transform x)) tokens^T + bias    logits [batch, seq, vocab]
    sequence      DebertaV2ForSequenceClassification: gelu(linear(first token)), then labels   [batch, num_labels]
    choice        DebertaV2ForMultipleChoice: how well each text of several fits   [rows, 1]
    token         DebertaV2ForTokenClassification                                  [batch, seq, num_labels]
    span          DebertaV2ForQuestionAnswering: where the answer starts and ends  [batch, seq, 2]
    none          DebertaV2Model: hidden states as they are                        [batch, seq, d_model]

Departures
- k_j.Qr is taken at delta(i,j), as in the authors' code and every checkpoint; equation 4 of the first paper has delta(j,i).
- Query, key and value are one linear map; checkpoints hold three. The weight table joins them.
- The edges of buckets are counted on integers, once: no rounding of a logarithm moves them.
- `mask_decoder` "enhanced" is the first paper's; transformers has none, and reads past it in a folder (its
  `position_embeddings` and two settings): bodies are equal, guesses of masked tokens are not.
- Distances count by positions: padding has none, and documents packed into one row do not see each other, by the
  convolution neither.
- A row's first token is the first that is no padding; transformers takes the first of the row, padding or not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import nn

from formers.config import ACTIVATION_NAMES, require
from formers.parts.attention import Project
from formers.parts.disentangled import TERMS, ContentMaps, Distances, OwnMaps
from formers.parts.disentangled_encoder import CURVES, Convolution, DisentangledEncoder, Heads, problems_of, row
from formers.parts.disentangled_encoder import HEADS as SHARED_HEADS
from formers.parts.disentangled_names import (
    CURVE_NAMES,
    DEFAULTS,
    FIXED,
    NAMES,
    TERM,
    DisentangledForeign,
    names,
    table,
)
from formers.parts.norms import LayerNorm
from formers.weights import Rule, Table, both

HEADS: Heads = {**SHARED_HEADS, "choice": lambda c: row(c, 1)}
PROJECT = ("attention.self.query_proj", "attention.self.key_proj", "attention.self.value_proj")


@dataclass(frozen=True)
class DeBERTaV2Config:
    """Sizes of DeBERTa version 3 base by default (2111.09543, table 7).

    num_buckets         of distances to either side, half of them exact; 0: distances -k .. k-1 are told apart as they are
    max_distance        k, or where the buckets end
    share_keys          distances go through the maps of contents; else each layer has maps of its own for them
    norm_distances      their table passes a norm
    convolution_width   tokens that the convolution behind the first block sees, an odd number; 0: there is none
    score_terms, position_input, mask_decoder, decoder_steps, classifier_dropout, legacy   as in version 1
    """

    architecture: ClassVar[str] = "deberta_v2"

    vocab_size: int = 128100
    d_model: int = 768
    num_layers: int = 12
    num_heads: int = 12
    d_ff: int = 3072
    max_length: int = 512
    max_distance: int = 512
    num_buckets: int = 256
    num_types: int = 0
    score_terms: tuple[str, ...] = TERMS
    share_keys: bool = True
    norm_distances: bool = True
    convolution_width: int = 0
    convolution_activation: str = "tanh"
    position_input: bool = False
    mask_decoder: Literal["none", "enhanced"] = "none"
    decoder_steps: int = 2
    activation: str = "gelu"
    pooler_activation: str = "gelu"
    eps: float = 1e-7
    dropout: float = 0.1
    attention_dropout: float = 0.1
    classifier_dropout: float | None = None
    init_std: float = 0.02
    legacy: bool = True
    head: str = "masked_token"
    num_labels: int = 2
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        problems = problems_of(self, HEADS)
        if self.num_buckets < 0 or self.num_buckets == 1:
            problems.append(f"num_buckets is {self.num_buckets}, wanted 0, or 2 and more")
        elif self.num_buckets and self.max_distance - 1 <= self.num_buckets // 2:
            problems.append(f"max_distance {self.max_distance} lies within the {self.num_buckets // 2} exact buckets")
        if self.convolution_width < 0 or (self.convolution_width and self.convolution_width % 2 == 0):
            problems.append(f"convolution_width is {self.convolution_width}, wanted an odd number, or 0")
        if self.convolution_activation not in CURVES:
            problems.append(f"convolution_activation {self.convolution_activation!r} is none of {', '.join(CURVES)}")
        require("DeBERTaV2Config", problems)


_NANO = {
    "d_model": 64, "num_layers": 2, "num_heads": 2, "d_ff": 256, "vocab_size": 512, "max_length": 128, "max_distance": 128,
    "num_buckets": 32,
}  # fmt: skip
_TINY = {
    "d_model": 192, "num_layers": 4, "num_heads": 6, "d_ff": 768, "vocab_size": 4096, "max_length": 256,
    "max_distance": 256, "num_buckets": 64,
}  # fmt: skip
_XLARGE = {
    "d_model": 1536, "num_layers": 24, "num_heads": 24, "d_ff": 6144, "convolution_width": 3, "convolution_activation": "gelu",
}  # fmt: skip

PRESETS: dict[str, dict] = {
    "nano": _NANO,
    "tiny": _TINY,
    "v3_xsmall": {"d_model": 384, "num_heads": 6, "d_ff": 1536},  # 71M
    "v3_small": {"num_layers": 6},  # 142M
    "v3_base": {},  # 185M
    "v3_large": {"d_model": 1024, "num_layers": 24, "num_heads": 16, "d_ff": 4096},  # 435M
    "mdeberta_v3_base": {"vocab_size": 251000},  # 279M, of many languages
    "v2_xlarge": _XLARGE,  # 887M
    "v2_xxlarge": _XLARGE | {"num_layers": 48},  # 1.6B
}


class DeBERTaV2(DisentangledEncoder):
    """DeBERTa, version 2 or 3, with the head that its config names. `seed` draws the initial weights."""

    heads = HEADS

    def project(self, config: DeBERTaV2Config) -> nn.Module:
        return Project(config.d_model, config.num_heads, config.d_model // config.num_heads, bias=True)

    def maps(self, config: DeBERTaV2Config) -> nn.Module:
        if config.share_keys:
            return ContentMaps(config.score_terms)
        d_head = config.d_model // config.num_heads
        return OwnMaps(config.d_model, config.num_heads, d_head, terms=config.score_terms, key_bias=True)

    def distances(self, config: DeBERTaV2Config) -> Distances:
        return Distances(
            config.d_model,
            reach=config.num_buckets or config.max_distance,
            max_distance=config.max_distance if config.num_buckets else None,
            norm=LayerNorm(config.d_model, config.eps) if config.norm_distances else None,
            dropout=config.dropout,
        )

    def convolution(self, config: DeBERTaV2Config) -> Convolution | None:
        if not config.convolution_width:
            return None
        curve = CURVES[config.convolution_activation]
        return Convolution(config.d_model, config.convolution_width, activation=curve, dropout=config.dropout)


# --- Hugging Face's ---------------------------------------------------------------------------------------------------


class _Foreign(DisentangledForeign):
    """What version 2 adds: buckets of -1, a list of norms, and no convolution without a word."""

    def read(self, theirs: Mapping[str, Any]) -> dict[str, Any]:
        buckets = theirs.get("position_buckets") or 0
        return super().read(theirs) | {"num_buckets": max(0, buckets), "norm_distances": "layer_norm" in _norms(theirs)}

    def write(self, config: DeBERTaV2Config) -> dict[str, Any]:
        return super().write(config) | {
            "position_buckets": config.num_buckets or -1,
            "norm_rel_ebd": "layer_norm" if config.norm_distances else "none",
        }

    def _not_implemented(self, theirs: Mapping[str, Any]) -> list[str]:
        own = ("position_buckets", "norm_rel_ebd")
        problems = super()._not_implemented({name: value for name, value in theirs.items() if name not in own})
        if not _norms(theirs) <= {"layer_norm", "none"}:
            problems.append(f"norm_rel_ebd={theirs['norm_rel_ebd']!r} is not implemented (known: 'layer_norm', 'none')")
        return problems


def _norms(theirs: Mapping[str, Any]) -> set[str]:
    return {norm.strip() for norm in (theirs.get("norm_rel_ebd") or "none").lower().split("|")}


FOREIGN = _Foreign(
    "deberta-v2",
    classes={
        "DebertaV2ForMaskedLM": "masked_token",
        "DebertaV2ForSequenceClassification": "sequence",
        "DebertaV2ForMultipleChoice": "choice",
        "DebertaV2ForTokenClassification": "token",
        "DebertaV2ForQuestionAnswering": "span",
        "DebertaV2Model": "none",
    },
    names=NAMES
    | {"share_att_key": "share_keys", "conv_kernel_size": "convolution_width", "conv_act": "convolution_activation"},
    values={
        "activation": ACTIVATION_NAMES,
        "pooler_activation": CURVE_NAMES,
        "convolution_activation": CURVE_NAMES,
    },
    fixed=FIXED | {"conv_groups": 1},
    defaults=DEFAULTS | {"share_att_key": False, "conv_kernel_size": 0, "conv_act": "tanh"},
)


def weights(config: DeBERTaV2Config) -> Table:
    """Our tensors and those of the class of transformers that has this head."""
    theirs = names(config, PROJECT)
    prefix, shared = theirs.prefix(config.head), {"distances.table.weight": "encoder.rel_embeddings.weight"}
    rules = [rule for i in range(config.num_layers) for rule in map_rules(config, i, prefix)]
    if config.norm_distances:
        shared |= {f"distances.norm.{kind}": f"encoder.LayerNorm.{kind}" for kind in ("weight", "bias")}
    if config.convolution_width:
        rules += both("trunk.convolution.conv", f"{prefix}encoder.conv.conv")
        rules += both("trunk.convolution_norm", f"{prefix}encoder.conv.LayerNorm")
    return table(config, theirs, rules, shared)


def map_rules(config: DeBERTaV2Config, i: int, prefix: str) -> list[Rule]:
    """Rules of the maps of distances that a layer has of its own."""
    ours, theirs = f"trunk.blocks.{i}.{TERM}.maps", f"{prefix}encoder.layer.{i}.attention.self"
    own = () if config.share_keys else config.score_terms
    keys = both(f"{ours}.keys", f"{theirs}.pos_key_proj") if "c2p" in own else []
    return keys + (both(f"{ours}.queries", f"{theirs}.pos_query_proj") if "p2c" in own else [])


def activations(config: DeBERTaV2Config) -> list[tuple[str, str]]:
    """Modules whose outputs mean the same in ours and in Hugging Face's, in the order they run."""
    theirs = names(config, PROJECT)
    pairs = theirs.activations(config.head)
    if not config.convolution_width:
        return pairs
    prefix = theirs.prefix(config.head)
    behind = {"trunk.stream.0": f"{prefix}encoder.conv"}  # theirs of the layer does not know the convolution
    return [(our, behind.get(our, their)) for our, their in pairs]


CONFIG, MODEL = DeBERTaV2Config, DeBERTaV2
