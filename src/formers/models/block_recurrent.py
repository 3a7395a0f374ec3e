"""Block-Recurrent Transformer: Hutchins, Schlag, Wu, Dyer, Neyshabur (2203.07852, NeurIPS 2022).

A decoder with a window, one of whose layers is also a recurrent cell over blocks of tokens. Everywhere a token sees itself and
the `block_length` tokens before it. In the recurrent layer it reads `num_states` vectors as well, in parallel, and when a
block of `block_length` tokens is whole the vectors take it in (parts/block_recurrence.py, parts/state_cell.py):

    vertical     y_e = W [softmax(q_e k_e^T + bias) v_e, softmax(q_es k_s^T) v_s]         x <- x + y_e, then a feed-forward
    horizontal   h_s = [softmax(q_s k_s^T) v_s, softmax(q_se k_e^T) v_e]                  c <- gate(c, h_s)

Keys and values are the same in both directions, queries are four; all keys and queries are unit vectors, with a learned scale
a head and kind of query. A document begins with learned state vectors. So a state is of one size however long the text, and
what is read goes back to the document's beginning.

Where the paper and the authors' code (meliad, transformer/memory) differ, or either leaves a choice, this stands by default:

- `gate="fixed"` with `structure="skip"`, no feed-forward in the cell: the paper's best and cheapest. `lstm`, and `dual` and
  `single` with a feed-forward, are its others.
- W_z has no bias (meliad); the paper prints one. tanh stands in the LSTM gate alone and always, as the paper prints it; meliad
  has it in `single`, with either gate, and nowhere else.
- `own_token=True`: a token sees itself, as usual. meliad's mask is strict.
- `previous_block=False`: state vectors take in the tokens of their block, each once, as the paper describes a cell. meliad's
  also see those of the block before, which its window keeps at hand, and before a document's first block its zeros.
- An empty window takes no weight. meliad's zero keys take softmax weight in a document's first block.

Departures
- A block is a block of a document's positions, whatever the calls; meliad counts from where a call begins, and takes calls
  of whole blocks. A call that ends within a block remembers its keys, and the block is taken in when it is whole.
- The bias is added behind the scale; meliad scales it with the logits.
- Token embeddings times d_model^1/2, T5 bias times `bias_scale` and unit queries that begin at `normalised_scale`: for AdamW
  in place of Adafactor, as in models/memorizing.py.
- The variant with feedback, where every layer reads the state vectors of the block before, is not implemented.
- Dropout falls on what sublayers add, and on attention to tokens near by; none on the cell (meliad has none there either).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import nn

from formers.axes import Hidden, Ids
from formers.config import (
    below_one,
    out_of_range,
    require,
    uneven_buckets,
    uneven_heads,
    unknown_activation,
    unknown_layers,
)
from formers.parts.attention import Attention, KeyValueWindow, Mix, Project, Score, initialise_normal
from formers.parts.block_recurrence import RecurrentAttention
from formers.parts.feed_forward import ACTIVATIONS, FeedForward
from formers.parts.heads import LanguageHead
from formers.parts.masks import Causal, Mask, SameDocument, Segments, StrictlyPast, Window
from formers.parts.model import Model
from formers.parts.norms import RMSNorm
from formers.parts.positions import Positions
from formers.parts.recollection import UnitVectors
from formers.parts.state_cell import GATES, UPDATES, Ask, FixedGate, Layer, LSTMGate, StateCell
from formers.parts.states import Tree
from formers.parts.terms import T5Bias
from formers.parts.trunk import PreNorm


@dataclass(frozen=True)
class BlockRecurrentConfig:
    """Sizes of the paper's 12-layer model by default (section 4.1), recurrent in the tenth layer."""

    architecture: ClassVar[str] = "block_recurrent"
    max_length: ClassVar[None] = None  # any

    vocab_size: int = 32_128
    d_model: int = 1024
    num_layers: int = 12
    num_heads: int = 8
    d_ff: int = 4096
    block_length: int = 512
    """Tokens that state vectors take in at once, and tokens before it that a token sees. Train with several a row."""
    num_states: int = 512
    """State vectors of a recurrent layer."""
    recurrent_layers: tuple[int, ...] = (9,)
    """Counted from 0; none: a decoder with a window."""
    gate: Literal["fixed", "lstm"] = "fixed"
    structure: Literal["skip", "dual", "single"] = "skip"
    own_token: bool = True
    previous_block: bool = False
    """State vectors see the block before theirs, too."""
    normalised_scale: float = 16.0
    """Of unit queries, at first."""
    num_buckets: int = 32
    max_distance: int = 128
    bias_scale: float = 8.0
    """Of the T5 bias: parts/terms.py says why."""
    activation: str = "relu"
    eps: float = 1e-6
    dropout: float = 0.0
    attention_dropout: float = 0.0
    init_std: float = 0.02
    tie: bool = True

    def __post_init__(self) -> None:
        sizes = ("vocab_size", "d_model", "num_layers", "num_heads", "d_ff", "block_length", "num_states")
        problems = (
            out_of_range(self)
            + below_one(self, sizes)
            + uneven_heads(self)
            + uneven_buckets(self)
            + unknown_activation(self, ACTIVATIONS)
        )
        problems += unknown_layers(self, "recurrent_layers")
        for name, known in {"gate": GATES, "structure": UPDATES}.items():
            if getattr(self, name) not in known:
                problems.append(f"{name} is {getattr(self, name)!r}, wanted one of {', '.join(known)}")
        require("BlockRecurrentConfig", problems)

    @property
    def d_head(self) -> int:
        return self.d_model // self.num_heads


PRESETS: dict[str, dict] = {
    "nano": {
        "d_model": 64, "num_layers": 2, "num_heads": 2, "d_ff": 256, "vocab_size": 512,
        "block_length": 64, "num_states": 64, "recurrent_layers": (1,),
    },
    "tiny": {
        "d_model": 192, "num_layers": 4, "num_heads": 6, "d_ff": 768, "vocab_size": 4096,
        "block_length": 128, "num_states": 128, "recurrent_layers": (2,),
    },
    "mini": {
        "d_model": 384, "num_layers": 6, "num_heads": 6, "d_ff": 1536, "vocab_size": 8192,
        "block_length": 256, "num_states": 256, "recurrent_layers": (4,),
    },
    "base": {},
    "meliad": {"own_token": False, "previous_block": True, "normalised_scale": 1.0, "dropout": 0.05, "attention_dropout": 0.05},
}  # fmt: skip


class BlockRecurrent(Model):
    """The Block-Recurrent Transformer. `seed` draws the initial weights."""

    def __init__(self, config: BlockRecurrentConfig, *, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.tokens = nn.Embedding(config.vocab_size, config.d_model)
        blocks = [
            {"attention": attention(config, i), "feed_forward": feed_forward(config)} for i in range(config.num_layers)
        ]
        self.trunk = PreNorm(blocks, lambda: RMSNorm(config.d_model, config.eps), dropout=config.dropout)
        self.head = LanguageHead(config.d_model, config.vocab_size)
        if config.tie:
            self.head.tie(self.tokens)
        self.initialise(torch.Generator().manual_seed(seed))

    def run(self, input_ids: Ids, positions: Positions, state: Tree | None) -> tuple[Hidden, Tree | None]:
        x = self.tokens(input_ids) * self.config.d_model**0.5
        return self.trunk(F.dropout(x, self.config.dropout, self.training), positions, state)

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """N(0, init_std) for maps. In recurrent layers as meliad has them, or narrow models never come to read their state
        vectors (docs/models/block_recurrent.md): maps N(0, 1 / inputs), ids N(0, 1), a document's first state vectors and the
        gates' biases N(0, 0.1^2), maps that open a gate N(0, 0.1 / inputs)."""
        if self.tokens.weight.is_meta:
            return
        initialise_normal(self, self.config.init_std, generator)
        for layer in (module for module in self.modules() if isinstance(module, RecurrentAttention)):
            maps = [(m.weight, m.in_features**-0.5) for m in layer.modules() if isinstance(m, nn.Linear)]
            for parameter, std in [*maps, *(pair for m in layer.modules() for pair in _of_the_cell(m))]:
                nn.init.normal_(parameter, 0.0, std, generator=generator)


def _of_the_cell(module: nn.Module) -> list[tuple[torch.Tensor, float]]:
    """Parameters of a cell or a gate with a deviation of their own."""
    if isinstance(module, StateCell):
        return [(module.ids, 1.0), (module.first, 0.1)]
    if isinstance(module, FixedGate):
        return [(module.bias, 0.1)]
    if isinstance(module, LSTMGate):
        maps = (module.forget, module.write)
        return [pair for m in maps for pair in ((m.weight, (0.1 / m.in_features) ** 0.5), (m.bias, 0.1))]
    return []


def attention(config: BlockRecurrentConfig, layer: int) -> Attention:
    """A window of `block_length` tokens; with state vectors in the recurrent layers."""
    heads, d_head, d_model, size = config.num_heads, config.d_head, config.d_model, config.block_length
    recurrent = layer in config.recurrent_layers
    bias = T5Bias(
        heads,
        num_buckets=config.num_buckets,
        max_distance=config.max_distance,
        bidirectional=False,
        scale=config.bias_scale,
    )
    past: Mask = Causal() if config.own_token else StrictlyPast()
    slots = {
        "project": Project(d_model, heads, d_head, bias=False),
        "score": Score(past & Window(size + 1) & SameDocument(), 1.0, terms=[bias], dropout=config.attention_dropout),
        "mix": Mix((1 + recurrent) * heads, d_head, d_model, bias=False),
        "turn": UnitVectors(heads, config.normalised_scale),
        "remember": KeyValueWindow(heads, d_head, 2 * size, size),
    }
    if not recurrent:
        return Attention(**slots)
    return RecurrentAttention(
        **slots,
        ask=Ask(d_model, heads, d_head),
        turn_states=UnitVectors(heads, config.normalised_scale),
        cell=cell(config),
        size=size,
        before=int(config.previous_block),
    )


def cell(config: BlockRecurrentConfig) -> StateCell:
    heads, d_head, size = config.num_heads, config.d_head, config.block_length
    d_heads = 2 * heads * d_head
    layer = Layer(GATES[config.gate], d_heads, config.d_model, config.d_ff, config.activation, config.eps)
    return StateCell(
        config.d_model,
        heads,
        d_head,
        config.num_states,
        UPDATES[config.structure](layer),
        Segments(size, size if config.previous_block else 0) & SameDocument(),
        turn=UnitVectors(heads, config.normalised_scale),
        turn_tokens=UnitVectors(heads, config.normalised_scale),
        eps=config.eps,
    )


def feed_forward(config: BlockRecurrentConfig) -> FeedForward:
    return FeedForward(config.d_model, config.d_ff, activation_name=config.activation, bias=False)


FOREIGN = None
"""No class of transformers holds this model."""

CONFIG, MODEL = BlockRecurrentConfig, BlockRecurrent
