"""DistilBERT: Sanh et al., "DistilBERT, a distilled version of BERT: smaller, faster, cheaper and lighter" (1910.01108).

BERT's shape with half the layers, and without token types and pooler (section 3): x = norm(tokens + positions); for every
block x = norm(x + attention(x)), x = norm(x + feed_forward(x)).

`head` in the config says what stands on top, each the class of transformers that its folders name:

    masked_token  DistilBertForMaskedLM: norm(gelu(transform x)) tokens^T + bias   logits [batch, seq, vocab]
    sequence      DistilBertForSequenceClassification: relu(linear(first token)), then labels   [batch, num_labels]
    choice        DistilBertForMultipleChoice: how well each text of several fits  [rows, 1]
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
from formers.parts.heads import MaskedTokenHead, Pooler, RowHead, TokenHead
from formers.parts.naming import BlockNames, EncoderNames, MaskedTokenNames
from formers.parts.norms import LayerNorm
from formers.parts.positions import Positions
from formers.parts.states import Tree
from formers.parts.trunk import PostNorm
from formers.weights import Ignore, Table

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
        problems = out_of_range(self) + below_one(
            self, ("vocab_size", "d_model", "num_layers", "num_heads", "d_ff", "max_length")
        )
        problems += uneven_heads(self) + unknown_activation(self, ACTIVATIONS)
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
        blocks = [encoder_block(config) for _ in range(config.num_layers)]
        self.trunk = PostNorm(blocks, lambda: LayerNorm(d_model, EPS), dropout=config.dropout)
        self.complete(HEADS[config.head](config), seed)

    def run(self, input_ids: Ids, positions: Positions, state: None) -> tuple[Hidden, Tree | None]:
        return self.trunk(self.embedding(input_ids, positions), positions)


HEADS: dict[str, Callable[[DistilBERTConfig], nn.Module]] = {
    "masked_token": lambda c: MaskedTokenHead(c.d_model, c.vocab_size, activation=activation(c.activation), eps=EPS),
    "sequence": lambda c: RowHead(Pooler(c.d_model, activation=F.relu), c.num_labels, dropout=c.sequence_dropout),
    "choice": lambda c: RowHead(Pooler(c.d_model, activation=F.relu), 1, dropout=c.sequence_dropout),
    "token": lambda c: TokenHead(c.d_model, c.num_labels, dropout=c.dropout),
    "span": lambda c: TokenHead(c.d_model, 2, dropout=c.span_dropout),
    "none": lambda c: nn.Identity(),
}


FOREIGN = ForeignHeads(
    "distilbert",
    classes={
        "DistilBertForMaskedLM": "masked_token",
        "DistilBertForSequenceClassification": "sequence",
        "DistilBertForMultipleChoice": "choice",
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


BLOCK = BlockNames(
    project=("attention.q_lin", "attention.k_lin", "attention.v_lin"),
    mix="attention.out_lin",
    attention_norm="sa_layer_norm",
    expand="ffn.lin1",
    contract="ffn.lin2",
    feed_forward_norm="output_layer_norm",
)
TOKENS = MaskedTokenNames(
    transform="vocab_transform", norm="vocab_layer_norm", bias="vocab_projector.bias", decoder="vocab_projector"
)


def names(config: DistilBERTConfig) -> EncoderNames:
    """What Hugging Face calls the parts of the model."""
    return EncoderNames(
        body="distilbert.",
        bare="none",
        block=BLOCK,
        layers=[f"transformer.layer.{i}" for i in range(config.num_layers)],
        tables=("tokens", "places.table"),
        tokens=TOKENS,
        pooler="pre_classifier",
        outputs={"masked_token": "vocab_projector"},
    )


def weights(config: DistilBERTConfig) -> Table:
    """Our tensors and those of the class of transformers that has this head."""
    theirs, head = names(config), config.head
    kept = Ignore("vocab_*", "the head of pretraining, which files of pretrained bodies keep")
    ignored = [] if head == "masked_token" else [kept]
    return theirs.table(head, theirs.body_rules(head, config.d_model), *theirs.head_rules(head), ignored)


def activations(config: DistilBERTConfig) -> list[tuple[str, str]]:
    """Modules whose outputs mean the same in ours and in Hugging Face's, in the order they run."""
    return names(config).activations(config.head)


CONFIG, MODEL = DistilBERTConfig, DistilBERT
