"""DeBERTa: He et al., "DeBERTa: Decoding-enhanced BERT with Disentangled Attention" (2006.03654), the authors' version 1.

BERT's shape with two changes. Contents and distances have vectors of their own, and an attention score is a sum of three
products of them (3.1); no position is added to the tokens. Places in the text come in only where masked tokens are guessed,
by the enhanced mask decoder (3.2). x = norm(tokens); for every block x = norm(x + attention(x)), x = norm(x + feed_forward(x)):

    A_ij = q_i.k_j + q_i.Kr[delta(i,j)] + k_j.Qr[delta(i,j)], over sqrt(3 d_head), delta(i,j) the row of i - j in P

`head` in the config says what stands on top, each the class of transformers that its folders name:

    masked_token  DebertaForMaskedLM: norm(gelu(transform x)) tokens^T + bias      logits [batch, seq, vocab]
    sequence      DebertaForSequenceClassification: gelu(linear(first token)), then labels   [batch, num_labels]
    token         DebertaForTokenClassification                                    [batch, seq, num_labels]
    span          DebertaForQuestionAnswering: where the answer starts and ends    [batch, seq, 2]
    none          DebertaModel: hidden states as they are                          [batch, seq, d_model]

Departures
- k_j.Qr is taken at delta(i,j), as in the authors' code and every checkpoint; equation 4 has delta(j,i).
- Query, key and value of all heads stand one after another in one map; checkpoints hold them head by head.
- `mask_decoder` "enhanced" is the paper's; transformers has none, and reads past it in a folder (its `position_embeddings`
  and two settings): bodies are equal, guesses of masked tokens are not. It belongs to `masked_token` alone.
- Distances count by positions: padding has none, and documents packed into one row do not see each other.
- A row's first token is the first that is no padding; transformers takes the first of the row, padding or not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import nn

from formers.config import ACTIVATION_NAMES, require
from formers.parts.disentangled import TERMS, Distances, OwnMaps, UnbiasedKeys
from formers.parts.disentangled_encoder import HEADS as HEADS
from formers.parts.disentangled_encoder import DisentangledEncoder, problems_of
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
from formers.weights import ByHead, Rename, Rule, Table, both


@dataclass(frozen=True)
class DeBERTaConfig:
    """Sizes of DeBERTa base by default (appendix A).

    max_distance        k: distances -k .. k-1 are told apart, those further away count as the last
    score_terms         which products of contents and distances there are: c2p, p2c, both or none
    position_input      places are added to the tokens too, as in BERT; the authors do not
    mask_decoder        enhanced: the last block is replaced by `decoder_steps` of it that know places (3.2)
    classifier_dropout  of `head` sequence before its labels: `dropout` where None
    legacy              what folders call the head for masked tokens: cls.predictions, or lm_predictions as the authors do
    """

    architecture: ClassVar[str] = "deberta"

    vocab_size: int = 50265
    d_model: int = 768
    num_layers: int = 12
    num_heads: int = 12
    d_ff: int = 3072
    max_length: int = 512
    max_distance: int = 512
    num_types: int = 0
    score_terms: tuple[str, ...] = TERMS
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
        require("DeBERTaConfig", problems_of(self, HEADS))


_NANO = {
    "d_model": 64, "num_layers": 2, "num_heads": 2, "d_ff": 256, "vocab_size": 512, "max_length": 128, "max_distance": 32,
}  # fmt: skip
_TINY = {
    "d_model": 192, "num_layers": 4, "num_heads": 6, "d_ff": 768, "vocab_size": 4096, "max_length": 256, "max_distance": 64,
}  # fmt: skip

PRESETS: dict[str, dict] = {
    "nano": _NANO,
    "tiny": _TINY,
    "base": {},  # 139M
    "base_paper": {"mask_decoder": "enhanced"},  # as it was pretrained
    "large": {"d_model": 1024, "num_layers": 24, "num_heads": 16, "d_ff": 4096},  # 406M
    "xlarge": {"d_model": 1024, "num_layers": 48, "num_heads": 16, "d_ff": 4096},  # 759M
}


class DeBERTa(DisentangledEncoder):
    """DeBERTa, version 1, with the head that its config names. `seed` draws the initial weights."""

    heads = HEADS

    def project(self, config: DeBERTaConfig) -> nn.Module:
        return UnbiasedKeys(config.d_model, config.num_heads, config.d_model // config.num_heads)

    def maps(self, config: DeBERTaConfig) -> nn.Module:
        d_head = config.d_model // config.num_heads
        return OwnMaps(config.d_model, config.num_heads, d_head, terms=config.score_terms, key_bias=False)

    def distances(self, config: DeBERTaConfig) -> Distances:
        return Distances(config.d_model, reach=config.max_distance, dropout=config.dropout)


FOREIGN = DisentangledForeign(
    "deberta",
    classes={
        "DebertaForMaskedLM": "masked_token",
        "DebertaForSequenceClassification": "sequence",
        "DebertaForTokenClassification": "token",
        "DebertaForQuestionAnswering": "span",
        "DebertaModel": "none",
    },
    names=NAMES,
    values={"activation": ACTIVATION_NAMES, "pooler_activation": CURVE_NAMES},
    fixed=FIXED,
    defaults=DEFAULTS,
)


def weights(config: DeBERTaConfig) -> Table:
    """Our tensors and those of the class of transformers that has this head."""
    theirs = names(config)
    rules = [rule for i in range(config.num_layers) for rule in block_rules(config, i, theirs.prefix(config.head))]
    return table(config, theirs, rules, {"distances.table.weight": "encoder.rel_embeddings.weight"})


def block_rules(config: DeBERTaConfig, i: int, prefix: str) -> list[Rule]:
    """Rules of a block's attention, but for its last map."""
    ours, theirs = f"trunk.blocks.{i}", f"{prefix}encoder.layer.{i}.attention.self"
    rules: list[Rule] = [
        ByHead(f"{ours}.attention.project.linear.weight", f"{theirs}.in_proj.weight", config.num_heads),
        Rename(f"{ours}.attention.project.query_bias", f"{theirs}.q_bias"),
        Rename(f"{ours}.attention.project.value_bias", f"{theirs}.v_bias"),
    ]
    if "c2p" in config.score_terms:
        rules.append(Rename(f"{ours}.{TERM}.maps.keys.weight", f"{theirs}.pos_proj.weight"))
    if "p2c" in config.score_terms:
        rules += both(f"{ours}.{TERM}.maps.queries", f"{theirs}.pos_q_proj")
    return rules


def activations(config: DeBERTaConfig) -> list[tuple[str, str]]:
    """Modules whose outputs mean the same in ours and in Hugging Face's, in the order they run."""
    return names(config).activations(config.head)


CONFIG, MODEL = DeBERTaConfig, DeBERTa
