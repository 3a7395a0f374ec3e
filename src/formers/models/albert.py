"""ALBERT: Lan et al., "ALBERT: A Lite BERT for Self-supervised Learning of Language Representations" (1909.11942).

BERT with two savings: embeddings of width E that one map widens to d_model (3.1), and one group of layers that is applied
again and again, so that its parameters do not grow with depth. x = widen(norm(tokens + types + positions)); for every layer,
by its group, x = norm(x + attention(x)), x = norm(x + feed_forward(x)).

`head` in the config says what stands on top, each the class of transformers that its folders name:

    masked_token  AlbertForMaskedLM: norm(gelu(transform x)) tokens^T + bias, of width E   logits [batch, seq, vocab]
    pretraining   AlbertForPreTraining: the same, and whether two segments stand in order   and pair [batch, 2]
    sequence      AlbertForSequenceClassification: of a text or a pair             [batch, num_labels]
    choice        AlbertForMultipleChoice: how well each text of several fits      [rows, 1]
    token         AlbertForTokenClassification                                     [batch, seq, num_labels]
    span          AlbertForQuestionAnswering: where the answer starts and ends     [batch, seq, 2]
    pooler        AlbertModel: tanh(linear(first token)); its `body` gives every token's   [batch, d_model]
    none          AlbertModel of a file without pooler                             [batch, seq, d_model]

Of `pair`, 0 says that the segments stand as they were written, 1 that they were swapped (3.1, sentence-order prediction).

Departures
- Query, key and value are one linear map; checkpoints hold three. The weight table joins them.
- Groups are of equal size, as in the paper; transformers also divides 12 layers into 5 groups, this does not.
- Positions of padding (index -1) give a row of zeros; documents packed into one row do not see each other.
- A row's first token is the first that is no padding; transformers takes the first of the row, padding or not.
- `dropout` also stands behind the feed-forward, as in BERT and the authors' code; in transformers it does not. From v2 on
  it is 0, as the paper found best (4.8).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from formers.axes import Hidden, Ids
from formers.config import (
    ACTIVATION_NAMES,
    ForeignHeads,
    below_one,
    head_problems,
    out_of_range,
    require,
    uneven_heads,
    unknown_activation,
)
from formers.parts.embeddings import TextEmbedding
from formers.parts.encoder import Encoder, encoder_block
from formers.parts.feed_forward import ACTIVATIONS, activation
from formers.parts.heads import MaskedTokenHead, Pooler, PretrainingHead, RowHead, TokenHead
from formers.parts.naming import BlockNames, EncoderNames, MaskedTokenNames
from formers.parts.norms import LayerNorm
from formers.parts.positions import Positions
from formers.parts.states import Tree
from formers.parts.trunk import PostNorm, shared
from formers.weights import Ignore, Table, both


@dataclass(frozen=True)
class ALBERTConfig:
    """Sizes of ALBERT base, version 2, by default (table 1).

    d_embedding   E, the width of embeddings
    num_groups    groups of layers that share parameters, as many in each, one group after another
    group_layers  layers inside a group, each with its own parameters; all of them run for each of `num_layers`
    """

    architecture: ClassVar[str] = "albert"

    vocab_size: int = 30000
    d_embedding: int = 128
    d_model: int = 768
    num_layers: int = 12
    num_groups: int = 1
    group_layers: int = 1
    num_heads: int = 12
    d_ff: int = 3072
    max_length: int = 512
    num_types: int = 2
    activation: str = "gelu_tanh"
    eps: float = 1e-12
    dropout: float = 0.0
    attention_dropout: float = 0.0
    classifier_dropout: float = 0.1
    init_std: float = 0.02
    head: str = "masked_token"
    num_labels: int = 2
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        sizes = "vocab_size d_embedding d_model num_layers num_groups group_layers num_heads d_ff max_length num_types"
        problems = out_of_range(self) + below_one(self, sizes.split())
        if not problems and self.num_layers % self.num_groups:
            problems.append(f"num_layers {self.num_layers} is not a multiple of num_groups {self.num_groups}")
        problems += uneven_heads(self) + unknown_activation(self, ACTIVATIONS)
        require("ALBERTConfig", problems + head_problems(self, list(HEADS)))

    @property
    def order(self) -> tuple[int, ...]:
        """Which block every application uses: those of a layer's group, one after another."""
        inner = range(self.group_layers)
        return tuple(group * self.group_layers + i for group in shared(self.num_layers, self.num_groups) for i in inner)


_NANO = {
    "d_embedding": 24,
    "d_model": 64,
    "num_layers": 3,
    "num_heads": 2,
    "d_ff": 256,
    "vocab_size": 512,
    "max_length": 128,
}
_TINY = {
    "d_embedding": 64,
    "d_model": 192,
    "num_layers": 4,
    "num_heads": 6,
    "d_ff": 768,
    "vocab_size": 4096,
    "max_length": 256,
}
_LARGE = {"d_model": 1024, "num_layers": 24, "num_heads": 16, "d_ff": 4096}
_XLARGE = {"d_model": 2048, "num_layers": 24, "num_heads": 16, "d_ff": 8192}
_XXLARGE = {"d_model": 4096, "num_layers": 12, "num_heads": 64, "d_ff": 16384}
_V1 = {"activation": "gelu", "dropout": 0.1, "attention_dropout": 0.1}

PRESETS: dict[str, dict] = {
    "nano": _NANO,
    "tiny": _TINY,
    "base": {},  # 12M
    "large": _LARGE,  # 18M
    "xlarge": _XLARGE,  # 60M
    "xxlarge": _XXLARGE,  # 235M
    "base_v1": _V1,  # version 1: exact GELU and, below xxlarge, dropout
    "large_v1": _LARGE | _V1,
    "xlarge_v1": _XLARGE | _V1,
    "xxlarge_v1": _XXLARGE | {"activation": "gelu"},
}  # fmt: skip


class ALBERT(Encoder):
    """ALBERT with the head that its config names. `seed` draws the initial weights."""

    inputs = frozenset({"positions", "token_types"})

    def __init__(self, config: ALBERTConfig, *, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        d_model, eps = config.d_model, config.eps
        self.embedding = TextEmbedding(
            config.vocab_size,
            config.d_embedding,
            max_length=config.max_length,
            num_types=config.num_types,
            eps=eps,
            dropout=config.dropout,
        )
        self.widen = nn.Linear(config.d_embedding, d_model)
        blocks = [encoder_block(config) for _ in range(config.num_groups * config.group_layers)]
        self.trunk = PostNorm(blocks, lambda: LayerNorm(d_model, eps), dropout=config.dropout, order=config.order)
        self.complete(HEADS[config.head](config), seed)

    def run(
        self, input_ids: Ids, positions: Positions, state: None, token_types: Ids | None = None
    ) -> tuple[Hidden, Tree | None]:
        return self.trunk(self.widen(self.embedding(input_ids, positions, token_types)), positions)


def masked_token(config: ALBERTConfig) -> MaskedTokenHead:
    return MaskedTokenHead(
        config.d_model,
        config.vocab_size,
        activation=activation(config.activation),
        eps=config.eps,
        width=config.d_embedding,
    )


def row(config: ALBERTConfig, num_labels: int | None = None) -> RowHead:
    return RowHead(Pooler(config.d_model), num_labels or config.num_labels, dropout=config.classifier_dropout)


HEADS: dict[str, Callable[[ALBERTConfig], nn.Module]] = {
    "masked_token": masked_token,
    "pretraining": lambda c: PretrainingHead(masked_token(c), row(c)),
    "sequence": row,
    "choice": lambda c: row(c, 1),
    "token": lambda c: TokenHead(c.d_model, c.num_labels, dropout=c.classifier_dropout),
    "span": lambda c: TokenHead(c.d_model, 2),
    "pooler": lambda c: Pooler(c.d_model),
    "none": lambda c: nn.Identity(),
}


FOREIGN = ForeignHeads(
    "albert",
    classes={
        "AlbertForMaskedLM": "masked_token",
        "AlbertForPreTraining": "pretraining",
        "AlbertForSequenceClassification": "sequence",
        "AlbertForMultipleChoice": "choice",
        "AlbertForTokenClassification": "token",
        "AlbertForQuestionAnswering": "span",
        "AlbertModel": "pooler",
    },
    poolerless={"pooler": "none"},
    names={
        "vocab_size": "vocab_size",
        "embedding_size": "d_embedding",
        "hidden_size": "d_model",
        "num_hidden_layers": "num_layers",
        "num_hidden_groups": "num_groups",
        "inner_group_num": "group_layers",
        "num_attention_heads": "num_heads",
        "intermediate_size": "d_ff",
        "max_position_embeddings": "max_length",
        "type_vocab_size": "num_types",
        "hidden_act": "activation",
        "layer_norm_eps": "eps",
        "hidden_dropout_prob": "dropout",
        "attention_probs_dropout_prob": "attention_dropout",
        "classifier_dropout_prob": "classifier_dropout",
        "initializer_range": "init_std",
    },
    values={"activation": ACTIVATION_NAMES},
    fixed={
        "position_embedding_type": "absolute",
        "is_decoder": False,
        "tie_word_embeddings": True,
        "down_scale_factor": 1,
        "gap_size": 0,
        "layers_to_keep": [],
        "net_structure_type": 0,
        "num_memory_blocks": 0,
    },
    defaults={
        "num_hidden_groups": 1,
        "inner_group_num": 1,
        "type_vocab_size": 2,
        "hidden_act": "gelu_new",
        "layer_norm_eps": 1e-12,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "classifier_dropout_prob": 0.1,
        "initializer_range": 0.02,
    },
)


BLOCK = BlockNames(
    project=("attention.query", "attention.key", "attention.value"),
    mix="attention.dense",
    attention_norm="attention.LayerNorm",
    expand="ffn",
    contract="ffn_output",
    feed_forward_norm="full_layer_layer_norm",
)
TOKENS = MaskedTokenNames(
    transform="predictions.dense",
    norm="predictions.LayerNorm",
    bias="predictions.bias",
    decoder="predictions.decoder",
)
WIDEN = "encoder.embedding_hidden_mapping_in"


def names(config: ALBERTConfig) -> EncoderNames:
    """What Hugging Face calls the parts of the model: of a block that runs again, its one name."""
    blocks = [divmod(i, config.group_layers) for i in range(config.num_groups * config.group_layers)]
    return EncoderNames(
        body="albert.",
        bare="pooler",
        block=BLOCK,
        layers=[f"encoder.albert_layer_groups.{group}.albert_layers.{inner}" for group, inner in blocks],
        tokens=TOKENS,
        pooler="albert.pooler",
        pair="sop_classifier.classifier",
        outputs={"masked_token": "predictions"},
        repeats=True,
    )


def weights(config: ALBERTConfig) -> Table:
    """Our tensors and those of the class of transformers that has this head."""
    theirs, head = names(config), config.head
    rules = theirs.body_rules(head, config.d_model) + both("widen", theirs.prefix(head) + WIDEN)
    return theirs.table(head, rules, *theirs.head_rules(head), ignored(head))


def ignored(head: str) -> list[Ignore]:
    """What files of pretrained models hold beside the body and this head."""
    found = []
    if head not in ("pretraining", "sequence", "choice", "pooler"):
        found.append(Ignore("*pooler.*", "older classes keep a pooler that their head does not read"))
    if head not in ("pretraining", "masked_token"):
        found.append(Ignore("predictions.*", "the head of pretraining, which files of pretrained bodies keep"))
    if head != "pretraining":
        found.append(Ignore("sop_classifier.*", "the head of pretraining, which files of pretrained bodies keep"))
    return found


def activations(config: ALBERTConfig) -> list[tuple[str, str]]:
    """Modules whose outputs mean the same in ours and in Hugging Face's: of a block that runs again, every call."""
    return names(config).activations(config.head, [("widen", WIDEN)])


CONFIG, MODEL = ALBERTConfig, ALBERT
