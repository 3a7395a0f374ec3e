"""DistilBERT: Sanh et al., "DistilBERT, a distilled version of BERT: smaller, faster, cheaper and lighter" (1910.01108).

BERT's shape with half the layers, and without token types and pooler (section 3): x = norm(tokens + positions); for every
block x = norm(x + attention(x)), x = norm(x + feed_forward(x)).

`head` in the config says what stands on top, each the class of transformers that its folders name:

    masked_token  DistilBertForMaskedLM: norm(gelu(transform x)) tokens^T + bias   logits [batch, seq, vocab]
    sequence      DistilBertForSequenceClassification: relu(linear(first token)), then labels   [batch, num_labels]
    token         DistilBertForTokenClassification                                 [batch, seq, num_labels]
    span          DistilBertForQuestionAnswering: where the answer starts and ends [batch, seq, 2]
    none          DistilBertModel: hidden states as they are                       [batch, seq, d_model]

Departures
- Query, key and value are one linear map; checkpoints hold three. The weight table joins them.
- Positions of padding (index -1) give a row of zeros; documents packed into one row do not see each other.
- A row's first token is the first that is no padding; transformers takes the first of the row, padding or not.
- Positions are learned from random numbers on; the authors began with sinusoids that stood still (sinusoidal_pos_embds).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import nn

from formers.axes import Hidden, Ids
from formers.config import ACTIVATION_NAMES, ForeignHeads, below_one, head_problems, require
from formers.parts.embeddings import TextEmbedding
from formers.parts.encoder import Encoder, encoder_block
from formers.parts.feed_forward import ACTIVATIONS, activation
from formers.parts.heads import MaskedTokenHead, Pooler, RowHead, TokenHead
from formers.parts.norms import LayerNorm
from formers.parts.positions import Positions
from formers.parts.states import Tree
from formers.parts.trunk import PostNorm
from formers.weights import Fuse, Ignore, Rename, Rule, Table, Tie, both

EPS = 1e-12
"""Of every norm; it is no setting of theirs."""


@dataclass(frozen=True)
class DistilBERTConfig:
    """Sizes of DistilBERT base by default (section 3). Dropouts: of `head` sequence before its labels, and of span."""

    architecture: ClassVar[str] = "distilbert"

    vocab_size: int = 30522
    d_model: int = 768
    num_layers: int = 6
    num_heads: int = 12
    d_ff: int = 3072
    max_length: int = 512
    activation: str = "gelu"
    dropout: float = 0.1
    attention_dropout: float = 0.1
    sequence_dropout: float = 0.2
    span_dropout: float = 0.1
    init_std: float = 0.02
    head: str = "masked_token"
    num_labels: int = 2
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        problems = below_one(self, ("vocab_size", "d_model", "num_layers", "num_heads", "d_ff", "max_length"))
        if not problems and self.d_model % self.num_heads:
            problems.append(f"d_model {self.d_model} is not a multiple of num_heads {self.num_heads}")
        if self.activation not in ACTIVATIONS:
            problems.append(f"activation {self.activation!r} is none of {', '.join(ACTIVATIONS)}")
        require("DistilBERTConfig", problems + head_problems(self, list(HEADS)))


PRESETS: dict[str, dict] = {
    "nano": {"d_model": 64, "num_layers": 2, "num_heads": 2, "d_ff": 256, "vocab_size": 512, "max_length": 128},
    "tiny": {"d_model": 192, "num_layers": 3, "num_heads": 6, "d_ff": 768, "vocab_size": 4096, "max_length": 256},
    "base": {},  # 66M
}


class DistilBERT(Encoder):
    """DistilBERT with the head that its config names. `seed` draws the initial weights."""

    def __init__(self, config: DistilBERTConfig, *, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        d_model = config.d_model
        self.embedding = TextEmbedding(
            config.vocab_size, d_model, max_length=config.max_length, num_types=0, eps=EPS, dropout=config.dropout
        )
        blocks = [block(config) for _ in range(config.num_layers)]
        self.trunk = PostNorm(blocks, lambda: LayerNorm(d_model, EPS), dropout=config.dropout)
        self.complete(HEADS[config.head](config), seed)

    def run(self, input_ids: Ids, positions: Positions, state: None) -> tuple[Hidden, Tree | None]:
        return self.trunk(self.embedding(input_ids, positions), positions)


def block(config: DistilBERTConfig) -> dict[str, nn.Module]:
    return encoder_block(
        config.d_model,
        config.num_heads,
        config.d_ff,
        activation=config.activation,
        attention_dropout=config.attention_dropout,
    )


HEADS: dict[str, Callable[[DistilBERTConfig], nn.Module]] = {
    "masked_token": lambda c: MaskedTokenHead(c.d_model, c.vocab_size, activation=activation(c.activation), eps=EPS),
    "sequence": lambda c: RowHead(Pooler(c.d_model, activation=F.relu), c.num_labels, dropout=c.sequence_dropout),
    "token": lambda c: TokenHead(c.d_model, c.num_labels, dropout=c.dropout),
    "span": lambda c: TokenHead(c.d_model, 2, dropout=c.span_dropout),
    "none": lambda c: nn.Identity(),
}


FOREIGN = ForeignHeads(
    "distilbert",
    classes={
        "DistilBertForMaskedLM": "masked_token",
        "DistilBertForSequenceClassification": "sequence",
        "DistilBertForTokenClassification": "token",
        "DistilBertForQuestionAnswering": "span",
        "DistilBertModel": "none",
    },
    names={
        "vocab_size": "vocab_size",
        "dim": "d_model",
        "n_layers": "num_layers",
        "n_heads": "num_heads",
        "hidden_dim": "d_ff",
        "max_position_embeddings": "max_length",
        "activation": "activation",
        "dropout": "dropout",
        "attention_dropout": "attention_dropout",
        "seq_classif_dropout": "sequence_dropout",
        "qa_dropout": "span_dropout",
        "initializer_range": "init_std",
    },
    values={"activation": ACTIVATION_NAMES},
    fixed={"sinusoidal_pos_embds": False, "tie_weights_": True, "is_decoder": False, "tie_word_embeddings": True},
    defaults={
        "activation": "gelu",
        "dropout": 0.1,
        "attention_dropout": 0.1,
        "seq_classif_dropout": 0.2,
        "qa_dropout": 0.1,
        "initializer_range": 0.02,
    },
)


def weights(config: DistilBERTConfig) -> Table:
    """Our tensors and those of the class of transformers that has this head."""
    body = prefix(config)
    rules: list[Rule] = [
        Rename("embedding.tokens.weight", f"{body}embeddings.word_embeddings.weight"),
        Rename("embedding.places.table.weight", f"{body}embeddings.position_embeddings.weight"),
        *both("embedding.norm", f"{body}embeddings.LayerNorm"),
    ]
    for i in range(config.num_layers):
        ours, norms, theirs = f"trunk.blocks.{i}", f"trunk.norms.{i}", f"{body}transformer.layer.{i}"
        for kind in ("weight", "bias"):
            parts = tuple(f"{theirs}.attention.{part}_lin.{kind}" for part in "qkv")
            rules.append(Fuse(f"{ours}.attention.project.linear.{kind}", parts, (config.d_model,) * 3))
        rules += both(f"{ours}.attention.mix.linear", f"{theirs}.attention.out_lin")
        rules += both(f"{norms}.attention", f"{theirs}.sa_layer_norm")
        rules += both(f"{ours}.feed_forward.expand", f"{theirs}.ffn.lin1")
        rules += both(f"{ours}.feed_forward.contract", f"{theirs}.ffn.lin2")
        rules += both(f"{norms}.feed_forward", f"{theirs}.output_layer_norm")
    head = head_weights(config.head)
    ties = (Tie("head.linear.weight", "embedding.tokens.weight", "vocab_projector.weight"),)
    ignored = [Ignore("*embeddings.position_ids", "0, 1, .., stored as a buffer by older files")]
    if config.head != "masked_token":
        ties = ()
        ignored.append(Ignore("vocab_*", "the head of pretraining, which files of pretrained bodies keep"))
    return Table(
        (*rules, *head),
        ties,
        tuple(ignored),
        optional_prefix=body,
        unprefixed=tuple(name for rule in head for name in rule.theirs) + tuple(tie.their for tie in ties),
        extra_prefix="" if body else "distilbert.",
        old_endings=(("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias")),
    )


def prefix(config: DistilBERTConfig) -> str:
    """What stands before names of the body: DistilBertModel is the body itself."""
    return "" if config.head == "none" else "distilbert."


def head_weights(head: str) -> list[Rule]:
    """Rules of a head's tensors, but for what is tied."""
    if head == "masked_token":
        transform = both("head.transform", "vocab_transform") + both("head.norm", "vocab_layer_norm")
        return [*transform, Rename("head.linear.bias", "vocab_projector.bias")]
    if head == "sequence":
        return both("head.pool.linear", "pre_classifier") + both("head.linear", "classifier")
    theirs = {"token": "classifier", "span": "qa_outputs"}
    return both("head.linear", theirs[head]) if head in theirs else []


def activations(config: DistilBERTConfig) -> list[tuple[str, str]]:
    """Modules whose outputs mean the same in ours and in Hugging Face's, in the order they run."""
    body = prefix(config)
    pairs = [("embedding.tokens", f"{body}embeddings.word_embeddings"), ("embedding", f"{body}embeddings")]
    for i in range(config.num_layers):
        ours, norms, theirs = f"trunk.blocks.{i}", f"trunk.norms.{i}", f"{body}transformer.layer.{i}"
        pairs += [
            (f"{ours}.attention.mix.linear", f"{theirs}.attention.out_lin"),
            (f"{norms}.attention", f"{theirs}.sa_layer_norm"),
            (f"{ours}.feed_forward.expand", f"{theirs}.ffn.lin1"),
            (f"{ours}.feed_forward.contract", f"{theirs}.ffn.lin2"),
            (f"{norms}.feed_forward", f"{theirs}.output_layer_norm"),
            (f"trunk.stream.{i}", theirs),
        ]
    heads = {"masked_token": "vocab_projector", "sequence": "classifier", "token": "classifier", "span": "qa_outputs"}
    return [*pairs, ("head", heads[config.head])] if config.head in heads else pairs


CONFIG, MODEL = DistilBERTConfig, DistilBERT
