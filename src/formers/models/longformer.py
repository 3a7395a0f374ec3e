"""Longformer: Beltagy, Peters, Cohan, "Longformer: The Long-Document Transformer" (2004.05150), the encoder.

RoBERTa whose tokens see `windows` tokens around them, half on either side, in time and memory linear in length. Tokens that
a task makes global (`is_global`) see everything, by query, key and value maps of their own, and are seen by everything:

    x = norm(tokens + types + positions); for every block x = norm(x + attention(x)), x = norm(x + feed_forward(x))
    attention(x)_i = softmax over keys within w/2 of i and global keys (each once), of q k^T / sqrt(d_head)
    attention(x)_g = softmax over all keys, of (W_gq x)_g (W_gk x)^T / sqrt(d_head), for global tokens g

`head` in the config says what stands on top, each the class of transformers that its folders name:

    masked_token  LongformerForMaskedLM                                            logits [batch, seq, vocab]
    sequence      LongformerForSequenceClassification; its first token is global where nothing says otherwise
                                                                                   [batch, num_labels]
    choice        LongformerForMultipleChoice: how well each text of several fits  [rows, 1]
    token         LongformerForTokenClassification                                 [batch, seq, num_labels]
    span          LongformerForQuestionAnswering: see `question_tokens`            [batch, seq, 2]
    pooler        LongformerModel                                                  [batch, d_model]
    none          LongformerModel of a file without pooler                         [batch, seq, d_model]

Departures
- Query, key and value are one linear map, and so are those of global tokens; checkpoints hold six.
- A window is counted in indices. Theirs is counted in places of the row, the same where padding stands at the ends.
- Rows are not padded to multiples of the window.
- Rows of the position table before a text's first (RoBERTa's padding and one more) are kept and never read.
- A row's first token is the first that is no padding. Documents in one row do not see each other, global tokens included.
- Before its map to labels, `sequence` drops of what the pooler gives, theirs of what it is given too.
- Which tokens are global is looked at; compiled code cannot, and takes the kernel with a mask.
- The dilated windows and the autoregressive model of the paper are `longformer_lm`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor, nn

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
from formers.errors import DataError
from formers.parts.attention import Mix, Project, Score, scale_of
from formers.parts.embeddings import LearnedPositions, TextEmbedding, check_length
from formers.parts.encoder import Encoder
from formers.parts.feed_forward import ACTIVATIONS, FeedForward, activation
from formers.parts.global_attention import GlobalAttention
from formers.parts.heads import MaskedTokenHead, Pooler, RowHead, TokenHead
from formers.parts.masks import GlobalTokens, SameDocument, Window
from formers.parts.naming import BlockNames, EncoderNames, MaskedTokenNames
from formers.parts.norms import LayerNorm
from formers.parts.positions import Positions
from formers.parts.states import Tree
from formers.parts.trunk import PostNorm
from formers.weights import Fuse, Ignore, Table, both


@dataclass(frozen=True)
class LongformerConfig:
    """Sizes of longformer-base-4096 by default.

    windows         how many tokens around its own a token sees, half on either side, in every layer or in each
    first_position  the row of the position table that a text's first token reads: RoBERTa's id of padding, and 1
    separator       the id between a question and a passage, `head` span: see `question_tokens`
    """

    architecture: ClassVar[str] = "longformer"

    vocab_size: int = 50265
    d_model: int = 768
    num_layers: int = 12
    num_heads: int = 12
    d_ff: int = 3072
    windows: int | tuple[int, ...] = 512
    max_length: int = 4096
    first_position: int = 2
    num_types: int = 1
    activation: str = "gelu"
    eps: float = 1e-5
    dropout: float = 0.1
    attention_dropout: float = 0.1
    init_std: float = 0.02
    separator: int | None = 2
    head: str = "masked_token"
    num_labels: int = 2
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        sizes = ("vocab_size", "d_model", "num_layers", "num_heads", "d_ff", "max_length", "num_types")
        problems = (
            out_of_range(self) + below_one(self, sizes) + uneven_heads(self) + unknown_activation(self, ACTIVATIONS)
        )
        if self.first_position < 0:
            problems.append(f"first_position is {self.first_position}, wanted at least 0")
        if len(self.window_of_layers) != self.num_layers:
            problems.append(f"windows names {len(self.window_of_layers)} layers, num_layers is {self.num_layers}")
        if any(window < 2 or window % 2 for window in self.window_of_layers):
            problems.append(f"windows {self.windows} are not all even and at least 2: half of one lies on either side")
        require("LongformerConfig", problems + head_problems(self, list(HEADS)))

    @property
    def window_of_layers(self) -> tuple[int, ...]:
        return (self.windows,) * self.num_layers if isinstance(self.windows, int) else self.windows


PRESETS: dict[str, dict] = {
    "nano": {
        "d_model": 64, "num_layers": 2, "num_heads": 2, "d_ff": 256, "vocab_size": 512, "max_length": 512, "windows": 64,
    },
    "tiny": {
        "d_model": 192, "num_layers": 4, "num_heads": 6, "d_ff": 768, "vocab_size": 4096, "max_length": 2048,
        "windows": 256,
    },
    "base": {},  # 149M: longformer-base-4096
    "large": {"d_model": 1024, "num_layers": 24, "num_heads": 16, "d_ff": 4096},  # 435M: longformer-large-4096
}  # fmt: skip


class OffsetPositions(LearnedPositions):
    """A table whose first rows are not read: index i reads row first + i (RoBERTa)."""

    def __init__(self, max_length: int, d_model: int, first: int) -> None:
        super().__init__(max_length + first, d_model)
        self.first = first

    def forward(self, positions: Positions) -> Tensor:
        """Raises ConfigError where a known position lies beyond the table, before the table would."""
        if positions.start is not None and positions.place is None:
            check_length(positions.start + positions.length, self.table.num_embeddings - self.first)
            return self.table(positions.index + self.first)
        return self.table(positions.table_index + self.first) * positions.present[..., None]


class Longformer(Encoder):
    """Longformer with the head that its config names. `seed` draws the initial weights."""

    inputs = frozenset({"positions", "token_types", "is_global"})

    def __init__(self, config: LongformerConfig, *, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        d_model, eps = config.d_model, config.eps
        self.embedding = TextEmbedding(
            config.vocab_size, d_model, max_length=None, num_types=config.num_types, eps=eps, dropout=config.dropout
        )
        self.embedding.places = OffsetPositions(config.max_length, d_model, config.first_position)
        blocks = [block(config, window) for window in config.window_of_layers]
        self.trunk = PostNorm(blocks, lambda: LayerNorm(d_model, eps), dropout=config.dropout)
        self.complete(HEADS[config.head](config), seed)
        self.law_exceptions["every parameter gets a gradient"] = silent_maps(config.head)

    def run(
        self,
        input_ids: Ids,
        positions: Positions,
        state: None,
        token_types: Ids | None = None,
        is_global: Tensor | None = None,
    ) -> tuple[Hidden, Tree | None]:
        if is_global is not None:
            positions = replace(positions, is_global=is_global.bool())
        elif positions.is_global is None and self.config.head == "sequence":
            positions = replace(positions, is_global=first_tokens(positions))
        return self.trunk(self.embedding(input_ids, positions, token_types), positions)


def silent_maps(head: str) -> str:
    """Which maps get no gradient where nothing says which tokens are global, and why."""
    if head == "sequence":
        return "the first token is global and the only one that is read, so no head reads the last layer's window"
    return "maps of global tokens learn where there are global tokens, and without `is_global` there are none"


def block(config: LongformerConfig, window: int) -> dict[str, nn.Module]:
    """Attention to the window and to global tokens, then a feed-forward, all with biases."""
    d_model, heads, d_head = config.d_model, config.num_heads, config.d_model // config.num_heads
    mask = (Window(window // 2 + 1) | GlobalTokens()) & SameDocument()
    attention = GlobalAttention(
        project=Project(d_model, heads, d_head, bias=True),
        project_global=Project(d_model, heads, d_head, bias=True),
        score=Score(mask, scale_of(d_head), dropout=config.attention_dropout),
        mix=Mix(heads, d_head, d_model, bias=True),
    )
    return {
        "attention": attention,
        "feed_forward": FeedForward(d_model, config.d_ff, activation_name=config.activation),
    }


# --- which tokens are global ------------------------------------------------------------------------------------------


def first_tokens(positions: Positions) -> Tensor:
    """Bool [1 or batch, seq]: each row's first token that is no padding."""
    return positions.present & (positions.present.cumsum(-1) == 1)


def question_tokens(input_ids: Ids, separator: int | None) -> Tensor:
    """Bool [batch, seq]: all tokens before the first separator, for rows of a question and a passage (section 5).

    Rows are framed as RoBERTa frames pairs: <s> question </s></s> passage </s>. Raises DataError for a row that does not
    hold exactly three separators, because then nobody knows where its question ends.
    """
    found = input_ids == (-1 if separator is None else separator)
    for row, count in enumerate(found.sum(-1).tolist()):
        if count != 3:
            raise DataError(
                f"row {row} has {count} separators (id {separator})",
                "three: <s> question </s></s> passage </s>",
                "frame the pair so, or say with is_global which tokens are the question",
            )
    return found.cumsum(-1) == 0


HEADS: dict[str, Callable[[LongformerConfig], nn.Module]] = {
    "masked_token": lambda c: MaskedTokenHead(c.d_model, c.vocab_size, activation=activation("gelu"), eps=c.eps),
    "sequence": lambda c: RowHead(Pooler(c.d_model), c.num_labels, dropout=c.dropout),
    "choice": lambda c: RowHead(Pooler(c.d_model), 1, dropout=c.dropout),
    "token": lambda c: TokenHead(c.d_model, c.num_labels, dropout=c.dropout),
    "span": lambda c: TokenHead(c.d_model, 2),
    "pooler": lambda c: Pooler(c.d_model),
    "none": lambda c: nn.Identity(),
}


# --- transformers' names ------------------------------------------------------------------------------------------------


OF_OLD_FILES = ("attention_mode", "ignore_attention_mask", "position_embedding_type")
"""Settings of published files that the class of today does not have."""


class LongformerForeign(ForeignHeads):
    """Their table of positions counts the rows that no text reads, which end with their id of padding."""

    def read(self, theirs: Mapping[str, Any]) -> dict[str, Any]:
        pad = theirs.get("pad_token_id")
        ours = super().read({**theirs, "pad_token_id": 1 if pad is None else pad})
        ours["first_position"] += 1
        return ours | {"max_length": ours["max_length"] - ours["first_position"]}

    def write(self, config: LongformerConfig) -> dict[str, Any]:
        theirs = super().write(replace(config, windows=2))
        theirs["pad_token_id"] -= 1
        for name in OF_OLD_FILES:
            del theirs[name]
        windows = config.windows if isinstance(config.windows, int) else list(config.windows)
        return theirs | {
            "attention_window": windows,
            "max_position_embeddings": config.max_length + config.first_position,
        }


FOREIGN = LongformerForeign(
    "longformer",
    classes={
        "LongformerForMaskedLM": "masked_token",
        "LongformerForSequenceClassification": "sequence",
        "LongformerForMultipleChoice": "choice",
        "LongformerForTokenClassification": "token",
        "LongformerForQuestionAnswering": "span",
        "LongformerModel": "pooler",
    },
    poolerless={"pooler": "none"},
    names={
        "vocab_size": "vocab_size",
        "hidden_size": "d_model",
        "num_hidden_layers": "num_layers",
        "num_attention_heads": "num_heads",
        "intermediate_size": "d_ff",
        "attention_window": "windows",
        "max_position_embeddings": "max_length",
        "pad_token_id": "first_position",
        "sep_token_id": "separator",
        "type_vocab_size": "num_types",
        "hidden_act": "activation",
        "layer_norm_eps": "eps",
        "hidden_dropout_prob": "dropout",
        "attention_probs_dropout_prob": "attention_dropout",
        "initializer_range": "init_std",
    },
    values={"activation": ACTIVATION_NAMES},
    fixed={
        "attention_mode": "longformer",
        "ignore_attention_mask": False,
        "onnx_export": False,
        "is_decoder": False,
        "position_embedding_type": "absolute",
        "tie_word_embeddings": True,
    },
    defaults={
        "attention_window": 512,
        "sep_token_id": 2,
        "type_vocab_size": 2,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
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
    transform="lm_head.dense", norm="lm_head.layer_norm", bias="lm_head.bias", decoder="lm_head.decoder"
)


def names(config: LongformerConfig) -> EncoderNames:
    """What Hugging Face calls the parts of the model."""
    return EncoderNames(
        body="longformer.",
        bare="pooler",
        block=BLOCK,
        layers=[f"encoder.layer.{i}" for i in range(config.num_layers)],
        tokens=TOKENS,
        pooler="longformer.pooler.dense",
        outputs={"masked_token": "lm_head"},
    )


def weights(config: LongformerConfig) -> Table:
    """Our tensors and those of the class of transformers that has this head."""
    theirs, head = names(config), config.head
    rules = theirs.body_rules(head, config.d_model)
    for i, layer in enumerate(theirs.layers):
        for kind in ("weight", "bias"):
            parts = [f"{theirs.prefix(head)}{layer}.{part}_global.{kind}" for part in BLOCK.project]
            ours = f"trunk.blocks.{i}.attention.project_global.linear.{kind}"
            rules.append(Fuse(ours, tuple(parts), (config.d_model,) * 3))
    of_head, ties = theirs.head_rules(head)
    if head == "sequence":  # it has a pooler of its own
        of_head = both("head.pool.linear", "classifier.dense") + both("head.linear", "classifier.out_proj")
    return theirs.table(head, rules, of_head, ties, ignored(head))


def ignored(head: str) -> list[Ignore]:
    """What files of pretrained models hold beside the body and this head."""
    found = []
    if head not in ("choice", "pooler"):
        found.append(Ignore("*pooler.dense.*", "older classes keep a pooler that their head does not read"))
    if head != "masked_token":
        found.append(Ignore("lm_head.*", "the head of pretraining, which files of pretrained bodies keep"))
    return found


def activations(config: LongformerConfig) -> list[tuple[str, str]]:
    """Modules whose outputs mean the same in ours and in Hugging Face's, in the order they run."""
    return names(config).activations(config.head)


CONFIG, MODEL = LongformerConfig, Longformer
