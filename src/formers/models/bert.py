"""BERT: Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding" (1810.04805).

x = norm(tokens + types + positions); for every block x = norm(x + attention(x)), x = norm(x + feed_forward(x)).

`head` in the config says what stands on top, each the class of transformers that its folders name:

    masked_token  BertForMaskedLM: norm(gelu(transform x)) tokens^T + bias         logits [batch, seq, vocab]
    pretraining   BertForPreTraining: the same, and whether the second sentence follows   and pair [batch, 2]
    pair          BertForNextSentencePrediction: 0 it follows, 1 it does not       [batch, 2]
    sequence      BertForSequenceClassification: of a text or a pair               [batch, num_labels]
    choice        BertForMultipleChoice: how well each text of several fits        [rows, 1]
    token         BertForTokenClassification                                       [batch, seq, num_labels]
    span          BertForQuestionAnswering: where the answer starts and ends       [batch, seq, 2]
    pooler        BertModel: tanh(linear(first token)); its `body` gives every token's   [batch, d_model]
    none          BertModel of a file without pooler                               [batch, seq, d_model]

Departures
- Query, key and value are one linear map; checkpoints hold three. The weight table joins them.
- Positions of padding (index -1) give a row of zeros, and no token sees padding. Google's code has tokens see each other
  across a row that is packed; here documents in one row do not.
- A row's first token is the first that is no padding; transformers takes the first of the row, padding or not.
- The row of [PAD] learns like any other; transformers keeps gradients of inputs from it (pad_token_id).
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
from formers.parts.trunk import PostNorm
from formers.weights import Ignore, Table


@dataclass(frozen=True)
class BERTConfig:
    """Sizes of BERT base, uncased, by default (section 3). classifier_dropout: `dropout` where None."""

    architecture: ClassVar[str] = "bert"

    vocab_size: int = 30522
    d_model: int = 768
    num_layers: int = 12
    num_heads: int = 12
    d_ff: int = 3072
    max_length: int = 512
    num_types: int = 2
    activation: str = "gelu"
    eps: float = 1e-12
    dropout: float = 0.1
    attention_dropout: float = 0.1
    classifier_dropout: float | None = None
    init_std: float = 0.02
    head: str = "masked_token"
    num_labels: int = 2
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        sizes = ("vocab_size", "d_model", "num_layers", "num_heads", "d_ff", "max_length", "num_types")
        problems = (
            out_of_range(self) + below_one(self, sizes) + uneven_heads(self) + unknown_activation(self, ACTIVATIONS)
        )
        require("BERTConfig", problems + head_problems(self, list(HEADS)))

    @property
    def label_dropout(self) -> float:
        """Before the maps to labels."""
        return self.dropout if self.classifier_dropout is None else self.classifier_dropout


_NANO = {"d_model": 64, "num_layers": 2, "num_heads": 2, "d_ff": 256, "vocab_size": 512, "max_length": 128}
_TINY = {"d_model": 192, "num_layers": 4, "num_heads": 6, "d_ff": 768, "vocab_size": 4096, "max_length": 256}

PRESETS: dict[str, dict] = {
    "nano": _NANO,
    "tiny": _TINY,
    "base": {"d_model": 768, "num_layers": 12, "num_heads": 12, "d_ff": 3072},  # 110M
    "large": {"d_model": 1024, "num_layers": 24, "num_heads": 16, "d_ff": 4096},  # 340M
}


class BERT(Encoder):
    """BERT with the head that its config names. `seed` draws the initial weights."""

    inputs = frozenset({"positions", "token_types"})

    def __init__(self, config: BERTConfig, *, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        d_model, eps = config.d_model, config.eps
        self.embedding = TextEmbedding(
            config.vocab_size,
            d_model,
            max_length=config.max_length,
            num_types=config.num_types,
            eps=eps,
            dropout=config.dropout,
        )
        blocks = [encoder_block(config) for _ in range(config.num_layers)]
        self.trunk = PostNorm(blocks, lambda: LayerNorm(d_model, eps), dropout=config.dropout)
        self.complete(HEADS[config.head](config), seed)

    def run(
        self, input_ids: Ids, positions: Positions, state: None, token_types: Ids | None = None
    ) -> tuple[Hidden, Tree | None]:
        return self.trunk(self.embedding(input_ids, positions, token_types), positions)


def masked_token(config: BERTConfig) -> MaskedTokenHead:
    return MaskedTokenHead(config.d_model, config.vocab_size, activation=activation(config.activation), eps=config.eps)


def pair(config: BERTConfig) -> RowHead:
    return RowHead(Pooler(config.d_model), 2)


HEADS: dict[str, Callable[[BERTConfig], nn.Module]] = {
    "masked_token": masked_token,
    "pretraining": lambda c: PretrainingHead(masked_token(c), pair(c)),
    "pair": pair,
    "sequence": lambda c: RowHead(Pooler(c.d_model), c.num_labels, dropout=c.label_dropout),
    "choice": lambda c: RowHead(Pooler(c.d_model), 1, dropout=c.label_dropout),
    "token": lambda c: TokenHead(c.d_model, c.num_labels, dropout=c.label_dropout),
    "span": lambda c: TokenHead(c.d_model, 2),
    "pooler": lambda c: Pooler(c.d_model),
    "none": lambda c: nn.Identity(),
}


FOREIGN = ForeignHeads(
    "bert",
    classes={
        "BertForMaskedLM": "masked_token",
        "BertForPreTraining": "pretraining",
        "BertForNextSentencePrediction": "pair",
        "BertForSequenceClassification": "sequence",
        "BertForMultipleChoice": "choice",
        "BertForTokenClassification": "token",
        "BertForQuestionAnswering": "span",
        "BertModel": "pooler",
    },
    poolerless={"pooler": "none"},
    names={
        "vocab_size": "vocab_size",
        "hidden_size": "d_model",
        "num_hidden_layers": "num_layers",
        "num_attention_heads": "num_heads",
        "intermediate_size": "d_ff",
        "max_position_embeddings": "max_length",
        "type_vocab_size": "num_types",
        "hidden_act": "activation",
        "layer_norm_eps": "eps",
        "hidden_dropout_prob": "dropout",
        "attention_probs_dropout_prob": "attention_dropout",
        "classifier_dropout": "classifier_dropout",
        "initializer_range": "init_std",
    },
    values={"activation": ACTIVATION_NAMES},
    fixed={"position_embedding_type": "absolute", "is_decoder": False, "tie_word_embeddings": True},
    defaults={
        "type_vocab_size": 2,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "classifier_dropout": None,
        "initializer_range": 0.02,
    },
)


BLOCK = BlockNames(
    project=("attention.self.query", "attention.self.key", "attention.self.value"),
    mix="attention.output.dense",
    attention_norm="attention.output.LayerNorm",
    expand="intermediate.dense",
    contract="output.dense",
    feed_forward_norm="output.LayerNorm",
)
TOKENS = MaskedTokenNames(
    transform="cls.predictions.transform.dense",
    norm="cls.predictions.transform.LayerNorm",
    bias="cls.predictions.bias",
    decoder="cls.predictions.decoder",
)


def names(config: BERTConfig) -> EncoderNames:
    """What Hugging Face calls the parts of the model."""
    return EncoderNames(
        body="bert.",
        bare="pooler",
        block=BLOCK,
        layers=[f"encoder.layer.{i}" for i in range(config.num_layers)],
        tokens=TOKENS,
        pooler="bert.pooler.dense",
        pair="cls.seq_relationship",
        outputs={"masked_token": "cls", "pair": "cls"},
    )


def weights(config: BERTConfig) -> Table:
    """Our tensors and those of the class of transformers that has this head."""
    theirs, head = names(config), config.head
    return theirs.table(head, theirs.body_rules(head, config.d_model), *theirs.head_rules(head), ignored(head))


def ignored(head: str) -> list[Ignore]:
    """What files of pretrained models hold beside the body and this head."""
    found = []
    if head not in ("pretraining", "pair", "sequence", "choice", "pooler"):
        found.append(Ignore("*pooler.dense.*", "older classes keep a pooler that their head does not read"))
    if head not in ("pretraining", "masked_token"):
        found.append(Ignore("cls.predictions.*", "the head of pretraining, which files of pretrained bodies keep"))
    if head not in ("pretraining", "pair"):
        found.append(Ignore("cls.seq_relationship.*", "the head of pretraining, which files of pretrained bodies keep"))
    return found


def activations(config: BERTConfig) -> list[tuple[str, str]]:
    """Modules whose outputs mean the same in ours and in Hugging Face's, in the order they run."""
    return names(config).activations(config.head)


CONFIG, MODEL = BERTConfig, BERT
