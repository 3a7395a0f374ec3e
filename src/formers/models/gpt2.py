"""GPT-2: Radford et al., "Language Models are Unsupervised Multitask Learners" (2019).

x = tokens + positions; for every block x += attention(norm(x)), x += feed_forward(norm(x)); logits = norm(x) tokens^T.

Departures
- Query, key and value are one linear map stored [out, in]; OpenAI's Conv1D stores [in, out]. The weight table transposes.
- Positions of padding (index -1) give a row of zeros; OpenAI's code has no padding.
- Documents packed into one row do not see each other; OpenAI's training let them.
- The three dropouts have their own settings, as in Hugging Face's config; the paper names one number, 0.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from formers.axes import Hidden, Ids
from formers.config import Foreign, below_one, out_of_range, require, uneven_heads, unknown_activation
from formers.parts.attention import Attention, KeyValueCache, Mix, Project, Score, initialise_normal, scale_of
from formers.parts.embeddings import LearnedPositions
from formers.parts.feed_forward import ACTIVATIONS, FeedForward, in_chunks, name_in_chunks
from formers.parts.heads import LanguageHead
from formers.parts.masks import Causal, SameDocument
from formers.parts.model import Model
from formers.parts.norms import LayerNorm
from formers.parts.positions import Positions
from formers.parts.reversible import TRUNKS, problems_of_trunk
from formers.parts.states import Tree
from formers.weights import Ignore, Rename, Rule, Table, Tie, Transpose


@dataclass(frozen=True)
class GPT2Config:
    """Sizes of the 124M model by default (table 2 of the paper)."""

    architecture: ClassVar[str] = "gpt2"
    later: ClassVar[tuple[str, ...]] = ("trunk", "ff_chunks")

    vocab_size: int = 50257
    d_model: int = 768
    num_layers: int = 12
    num_heads: int = 12
    d_ff: int | None = None  # 4 x d_model where None
    max_length: int = 1024
    activation: str = "gelu_tanh"
    eps: float = 1e-5
    dropout: float = 0.1
    attention_dropout: float = 0.1
    embedding_dropout: float = 0.1
    init_std: float = 0.02
    tie: bool = True
    trunk: str = "pre_norm"
    """pre_norm; reversible: two streams, memory for training that does not grow with depth, and no GPT-2 any more."""
    ff_chunks: int = 1
    """Stretches of the sequence that the feed-forward is computed for one after another: less memory, the same function."""

    def __post_init__(self) -> None:
        sizes = ("vocab_size", "d_model", "num_layers", "num_heads", "max_length", "ff_chunks")
        problems = out_of_range(self) + below_one(self, sizes) + problems_of_trunk(self)
        problems += uneven_heads(self)
        problems += unknown_activation(self, ACTIVATIONS)
        require("GPT2Config", problems)

    @property
    def d_head(self) -> int:
        return self.d_model // self.num_heads

    @property
    def d_hidden(self) -> int:
        """Width of the feed-forward."""
        return 4 * self.d_model if self.d_ff is None else self.d_ff


PRESETS: dict[str, dict] = {
    "nano": {"d_model": 64, "num_layers": 2, "num_heads": 2, "vocab_size": 512, "max_length": 128},
    "tiny": {"d_model": 192, "num_layers": 4, "num_heads": 6, "vocab_size": 4096, "max_length": 256},
    "mini": {"d_model": 384, "num_layers": 6, "num_heads": 6, "vocab_size": 8192, "max_length": 512},
    "small": {"d_model": 768, "num_layers": 12, "num_heads": 12},  # 124M
    "medium": {"d_model": 1024, "num_layers": 24, "num_heads": 16},  # 355M
    "large": {"d_model": 1280, "num_layers": 36, "num_heads": 20},  # 774M
    "xl": {"d_model": 1600, "num_layers": 48, "num_heads": 25},  # 1.5B
}


class GPT2(Model):
    """GPT-2. `seed` draws the initial weights."""

    def __init__(self, config: GPT2Config, *, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.tokens = nn.Embedding(config.vocab_size, config.d_model)
        self.places = LearnedPositions(config.max_length, config.d_model)
        blocks = [
            {"attention": attention(config), "feed_forward": feed_forward(config)} for _ in range(config.num_layers)
        ]
        self.trunk = TRUNKS[config.trunk](blocks, lambda: LayerNorm(config.d_model, config.eps), dropout=config.dropout)
        self.head = LanguageHead(config.d_model, config.vocab_size)
        if config.tie:
            self.head.tie(self.tokens)
        self.initialise(torch.Generator().manual_seed(seed))

    def run(self, input_ids: Ids, positions: Positions, state: Tree | None) -> tuple[Hidden, Tree | None]:
        x = self.tokens(input_ids) + self.places(positions)
        x = F.dropout(x, self.config.embedding_dropout, self.training)
        return self.trunk(x, positions, state)

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """N(0, init_std); maps that write to the stream scaled by 1/sqrt(their number), section 2.3 of the paper."""
        if self.tokens.weight.is_meta:
            return
        initialise_normal(self, self.config.init_std, generator)
        for module in self.modules():
            if isinstance(module, Mix | FeedForward):
                writer = module.linear if isinstance(module, Mix) else module.contract
                writer.weight.mul_((2 * self.config.num_layers) ** -0.5)


def attention(config: GPT2Config) -> Attention:
    heads, d_head, d_model = config.num_heads, config.d_head, config.d_model
    return Attention(
        project=Project(d_model, heads, d_head, bias=True),
        remember=KeyValueCache(heads, d_head),
        score=Score(Causal() & SameDocument(), scale_of(d_head), dropout=config.attention_dropout),
        mix=Mix(heads, d_head, d_model, bias=True),
    )


def feed_forward(config: GPT2Config) -> nn.Module:
    whole = FeedForward(config.d_model, config.d_hidden, activation_name=config.activation)
    return in_chunks(whole, config.ff_chunks)


FOREIGN = Foreign(
    "gpt2",
    class_name="GPT2LMHeadModel",
    names={
        "vocab_size": "vocab_size",
        "n_embd": "d_model",
        "n_layer": "num_layers",
        "n_head": "num_heads",
        "n_inner": "d_ff",
        "n_positions": "max_length",
        "activation_function": "activation",
        "layer_norm_epsilon": "eps",
        "resid_pdrop": "dropout",
        "attn_pdrop": "attention_dropout",
        "embd_pdrop": "embedding_dropout",
        "initializer_range": "init_std",
        "tie_word_embeddings": "tie",
    },
    values={
        "activation": {
            "gelu_new": "gelu_tanh",
            "gelu_pytorch_tanh": "gelu_tanh",
            "gelu": "gelu",
            "relu": "relu",
            "silu": "silu",
            "swish": "silu",
        }
    },
    fixed={
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "reorder_and_upcast_attn": False,
        "add_cross_attention": False,
    },
    defaults={
        "n_inner": None,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "resid_pdrop": 0.1,
        "attn_pdrop": 0.1,
        "embd_pdrop": 0.1,
        "initializer_range": 0.02,
        "tie_word_embeddings": True,
    },
    only={"trunk": "pre_norm"},
)


def weights(config: GPT2Config) -> Table:
    """Our tensors and those of Hugging Face's GPT2LMHeadModel."""
    rules: list[Rule] = [
        Rename("tokens.weight", "transformer.wte.weight"),
        Rename("places.table.weight", "transformer.wpe.weight"),
    ]
    feed_forward = name_in_chunks("feed_forward", config.ff_chunks)
    for i in range(config.num_layers):
        ours, norms, theirs = f"trunk.blocks.{i}", f"trunk.norms.{i}", f"transformer.h.{i}"
        maps = {
            "attention.project.linear": "attn.c_attn",
            "attention.mix.linear": "attn.c_proj",
            f"{feed_forward}.expand": "mlp.c_fc",
            f"{feed_forward}.contract": "mlp.c_proj",
        }
        for our, their in maps.items():
            rules.append(Transpose(f"{ours}.{our}.weight", f"{theirs}.{their}.weight"))
            rules.append(Rename(f"{ours}.{our}.bias", f"{theirs}.{their}.bias"))
        for our, their in (("attention", "ln_1"), ("feed_forward", "ln_2")):
            rules += [Rename(f"{norms}.{our}.{part}", f"{theirs}.{their}.{part}") for part in ("weight", "bias")]
    rules += [Rename(f"trunk.final_norm.{part}", f"transformer.ln_f.{part}") for part in ("weight", "bias")]
    ties: tuple[Tie, ...] = (Tie("head.linear.weight", "tokens.weight", "lm_head.weight"),)
    if not config.tie:
        rules.append(Rename("head.linear.weight", "lm_head.weight"))
        ties = ()
    buffers = (
        Ignore("*.attn.bias", "the causal mask, stored as a buffer by older files"),
        Ignore("*.attn.masked_bias", "a constant, stored as a buffer by older files"),
    )
    return Table(tuple(rules), ties, buffers, optional_prefix="transformer.", unprefixed=("lm_head.weight",))


def activations(config: GPT2Config) -> list[tuple[str, str]]:
    """Modules whose outputs mean the same in ours and in Hugging Face's, in the order they run."""
    pairs = [("tokens", "transformer.wte")]
    feed_forward = name_in_chunks("feed_forward", config.ff_chunks)
    for i in range(config.num_layers):
        ours, norms, theirs = f"trunk.blocks.{i}", f"trunk.norms.{i}", f"transformer.h.{i}"
        pairs += [
            (f"{norms}.attention", f"{theirs}.ln_1"),
            (f"{ours}.attention.project.linear", f"{theirs}.attn.c_attn"),
            (f"{ours}.attention.mix.linear", f"{theirs}.attn.c_proj"),
            (f"{norms}.feed_forward", f"{theirs}.ln_2"),
            (f"{ours}.{feed_forward}.expand", f"{theirs}.mlp.c_fc"),
            (f"{ours}.{feed_forward}.contract", f"{theirs}.mlp.c_proj"),
            (f"trunk.stream.{i}", theirs),
        ]
    return [*pairs, ("trunk.final_norm", "transformer.ln_f"), ("head", "lm_head")]


CONFIG, MODEL = GPT2Config, GPT2
