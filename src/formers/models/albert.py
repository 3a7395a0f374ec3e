"""ALBERT: Lan et al., "ALBERT: A Lite BERT for Self-supervised Learning of Language Representations" (1909.11942).

BERT with two savings: embeddings of width E that one map widens to d_model (3.1), and one group of layers that is applied
again and again, so that its parameters do not grow with depth. x = widen(norm(tokens + types + positions)); for every layer,
by its group, x = norm(x + attention(x)), x = norm(x + feed_forward(x)).

`head` in the config says what stands on top, each the class of transformers that its folders name:

    masked_token  AlbertForMaskedLM: norm(gelu(transform x)) tokens^T + bias, of width E   logits [batch, seq, vocab]
    pretraining   AlbertForPreTraining: the same, and whether two segments stand in order   and pair [batch, 2]
    sequence      AlbertForSequenceClassification: of a text or a pair             [batch, num_labels]
    token         AlbertForTokenClassification                                     [batch, seq, num_labels]
    span          AlbertForQuestionAnswering: where the answer starts and ends     [batch, seq, 2]
    pooler        AlbertModel: tanh(linear(first token)); its `body` gives every token's   [batch, d_model]

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
from formers.config import ACTIVATION_NAMES, ForeignHeads, below_one, head_problems, require
from formers.parts.embeddings import TextEmbedding
from formers.parts.encoder import Encoder, encoder_block
from formers.parts.feed_forward import ACTIVATIONS, activation
from formers.parts.heads import MaskedTokenHead, Pooler, PretrainingHead, RowHead, TokenHead
from formers.parts.norms import LayerNorm
from formers.parts.positions import Positions
from formers.parts.states import Tree
from formers.parts.trunk import PostNorm, shared
from formers.weights import Fuse, Ignore, Rename, Rule, Table, Tie, both


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
        problems = below_one(self, sizes.split())
        if not problems and self.d_model % self.num_heads:
            problems.append(f"d_model {self.d_model} is not a multiple of num_heads {self.num_heads}")
        if not problems and self.num_layers % self.num_groups:
            problems.append(f"num_layers {self.num_layers} is not a multiple of num_groups {self.num_groups}")
        if self.activation not in ACTIVATIONS:
            problems.append(f"activation {self.activation!r} is none of {', '.join(ACTIVATIONS)}")
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
        blocks = [block(config) for _ in range(config.num_groups * config.group_layers)]
        self.trunk = PostNorm(blocks, lambda: LayerNorm(d_model, eps), dropout=config.dropout, order=config.order)
        self.complete(HEADS[config.head](config), seed)

    def run(
        self, input_ids: Ids, positions: Positions, state: None, token_types: Ids | None = None
    ) -> tuple[Hidden, Tree | None]:
        return self.trunk(self.widen(self.embedding(input_ids, positions, token_types)), positions)


def block(config: ALBERTConfig) -> dict[str, nn.Module]:
    return encoder_block(
        config.d_model,
        config.num_heads,
        config.d_ff,
        activation=config.activation,
        attention_dropout=config.attention_dropout,
    )


def masked_token(config: ALBERTConfig) -> MaskedTokenHead:
    return MaskedTokenHead(
        config.d_model,
        config.vocab_size,
        activation=activation(config.activation),
        eps=config.eps,
        width=config.d_embedding,
    )


def row(config: ALBERTConfig) -> RowHead:
    return RowHead(Pooler(config.d_model), config.num_labels, dropout=config.classifier_dropout)


HEADS: dict[str, Callable[[ALBERTConfig], nn.Module]] = {
    "masked_token": masked_token,
    "pretraining": lambda c: PretrainingHead(masked_token(c), row(c)),
    "sequence": row,
    "token": lambda c: TokenHead(c.d_model, c.num_labels, dropout=c.classifier_dropout),
    "span": lambda c: TokenHead(c.d_model, 2),
    "pooler": lambda c: Pooler(c.d_model),
}


FOREIGN = ForeignHeads(
    "albert",
    classes={
        "AlbertForMaskedLM": "masked_token",
        "AlbertForPreTraining": "pretraining",
        "AlbertForSequenceClassification": "sequence",
        "AlbertForTokenClassification": "token",
        "AlbertForQuestionAnswering": "span",
        "AlbertModel": "pooler",
    },
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


def weights(config: ALBERTConfig) -> Table:
    """Our tensors and those of the class of transformers that has this head."""
    albert = prefix(config)
    pairs = [
        ("embedding.tokens", f"{albert}embeddings.word_embeddings"),
        ("embedding.places.table", f"{albert}embeddings.position_embeddings"),
        ("embedding.types", f"{albert}embeddings.token_type_embeddings"),
    ]
    rules: list[Rule] = [Rename(f"{our}.weight", f"{their}.weight") for our, their in pairs]
    rules += both("embedding.norm", f"{albert}embeddings.LayerNorm")
    rules += both("widen", f"{albert}encoder.embedding_hidden_mapping_in")
    for i in range(config.num_groups * config.group_layers):
        ours, norms, theirs = f"trunk.blocks.{i}", f"trunk.norms.{i}", layer(config, i)
        for kind in ("weight", "bias"):
            parts = tuple(f"{theirs}.attention.{part}.{kind}" for part in ("query", "key", "value"))
            rules.append(Fuse(f"{ours}.attention.project.linear.{kind}", parts, (config.d_model,) * 3))
        rules += both(f"{ours}.attention.mix.linear", f"{theirs}.attention.dense")
        rules += both(f"{norms}.attention", f"{theirs}.attention.LayerNorm")
        rules += both(f"{ours}.feed_forward.expand", f"{theirs}.ffn")
        rules += both(f"{ours}.feed_forward.contract", f"{theirs}.ffn_output")
        rules += both(f"{norms}.feed_forward", f"{theirs}.full_layer_layer_norm")
    head, ties = head_weights(config.head)
    apart = [name for rule in head for name in rule.theirs] + [tie.their for tie in ties]
    return Table(
        (*rules, *head),
        ties,
        ignored(config.head),
        optional_prefix=albert,
        unprefixed=tuple(name for name in apart if not name.startswith("albert.")),
        extra_prefix="" if albert else "albert.",
        old_endings=(("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias")),
    )


def prefix(config: ALBERTConfig) -> str:
    """What stands before names of the body: AlbertModel is the body itself."""
    return "" if config.head == "pooler" else "albert."


def layer(config: ALBERTConfig, block: int) -> str:
    """Their name of a block of ours."""
    group, inner = divmod(block, config.group_layers)
    return f"{prefix(config)}encoder.albert_layer_groups.{group}.albert_layers.{inner}"


def head_weights(head: str) -> tuple[list[Rule], tuple[Tie, ...]]:
    """Rules and ties of a head's tensors."""
    pooler = "albert.pooler"
    if head == "masked_token":
        return masked_token_weights("head")
    if head == "pretraining":
        rules, ties = masked_token_weights("head.tokens")
        pair = both("head.pair.pool.linear", pooler) + both("head.pair.linear", "sop_classifier.classifier")
        return rules + pair, ties
    if head == "sequence":
        return both("head.pool.linear", pooler) + both("head.linear", "classifier"), ()
    theirs = {"token": "classifier", "span": "qa_outputs", "pooler": "pooler"}
    return both("head.linear", theirs[head]), ()


def masked_token_weights(ours: str) -> tuple[list[Rule], tuple[Tie, ...]]:
    rules = both(f"{ours}.transform", "predictions.dense") + both(f"{ours}.norm", "predictions.LayerNorm")
    bias = f"{ours}.linear.bias"
    ties = (
        Tie(f"{ours}.linear.weight", "embedding.tokens.weight", "predictions.decoder.weight"),
        Tie(bias, bias, "predictions.decoder.bias"),  # one bias, which some files hold under both names
    )
    return [*rules, Rename(bias, "predictions.bias")], ties


def ignored(head: str) -> tuple[Ignore, ...]:
    """What files of pretrained models hold beside the body and this head."""
    found = [Ignore("*embeddings.position_ids", "0, 1, .., stored as a buffer by older files")]
    if head not in ("pretraining", "sequence", "pooler"):
        found.append(Ignore("*pooler.*", "older classes keep a pooler that their head does not read"))
    if head not in ("pretraining", "masked_token"):
        found.append(Ignore("predictions.*", "the head of pretraining, which files of pretrained bodies keep"))
    if head != "pretraining":
        found.append(Ignore("sop_classifier.*", "the head of pretraining, which files of pretrained bodies keep"))
    return tuple(found)


def activations(config: ALBERTConfig) -> list[tuple[str, str]]:
    """Modules whose outputs mean the same in ours and in Hugging Face's: of a block that runs again, every call."""
    albert = prefix(config)
    pairs = [
        ("embedding.tokens", f"{albert}embeddings.word_embeddings"),
        ("embedding", f"{albert}embeddings"),
        ("widen", f"{albert}encoder.embedding_hidden_mapping_in"),
    ]
    for i in range(config.num_groups * config.group_layers):
        ours, norms, theirs = f"trunk.blocks.{i}", f"trunk.norms.{i}", layer(config, i)
        pairs += [
            (f"{ours}.attention.mix.linear", f"{theirs}.attention.dense"),
            (f"{norms}.attention", f"{theirs}.attention.LayerNorm"),
            (f"{ours}.feed_forward.expand", f"{theirs}.ffn"),
            (f"{ours}.feed_forward.contract", f"{theirs}.ffn_output"),
            (f"{norms}.feed_forward", f"{theirs}.full_layer_layer_norm"),
        ]
    heads = {"masked_token": "predictions", "sequence": "classifier", "token": "classifier", "span": "qa_outputs"}
    return [*pairs, ("head", heads[config.head])] if config.head in heads else pairs


CONFIG, MODEL = ALBERTConfig, ALBERT
