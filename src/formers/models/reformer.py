"""Reformer: Kitaev, Kaiser, Levskaya, "Reformer: The Efficient Transformer" (2001.04451, ICLR 2020).

A decoder or an encoder for long texts: attention among tokens that hash alike (parts/lsh.py), in turns with attention to
neighbouring chunks; reversible layers (parts/reversible.py), which keep no activations; feed-forwards in chunks; and positions
on a grid, so that a table for half a million places has some hundred rows.

    x1 = x2 = tokens + places; for every block x1 = x1 + attention(norm(x2)), x2 = x2 + feed_forward(norm(x1))
    logits = head(norm([x1, x2]))

`head` says what stands on top, each the class of transformers that its folders name:

    None          ReformerModelWithLMHead: the next token, causal         logits [batch, seq, vocab]
    masked_token  ReformerForMaskedLM                                     [batch, seq, vocab]
    sequence      ReformerForSequenceClassification                       [batch, num_labels]
    span          ReformerForQuestionAnswering                            [batch, seq, 2]
    none          ReformerModel                                           [batch, seq, 2 d_model]

`rules` says which keys a query sees in its chunks. "transformers": all of them, which is what the authors' code and Hugging
Face's do, and what published weights were trained with. "paper": those of its own bucket, each once, as the paper says.

Beyond the paper, and off by default: `full_below` (short texts are not hashed), `local_heads` in hashed layers, and
`memory_layers`, whose feed-forward gives way to a product-key memory (parts/product_keys.py).

Departures
- Any length is taken, in training too; texts are filled up to whole chunks inside. transformers fills up in evaluation alone.
- The number of buckets follows each text where it is not given; transformers keeps that of the first text it sees.
- The head adds its bias, as the authors' code and transformers 4 do. transformers 5 stores the bias and does not add it.
- Causal local layers see a chunk once, however few chunks there are; transformers sees its ring of chunks several times over.
- Dropout of the embedding falls on single numbers; transformers drops whole columns of the grid of places.
- In evaluation the rotations are always the same (those of `hash_seed`, or of seed 0); transformers draws others at every call
  where `hash_seed` is not given. In training both do.
- With a state, tokens sort themselves among what was read so far; see docs/models/reformer.md for what that means.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import nn

from formers.axes import Hidden, Ids
from formers.config import below_one, head_problems, out_of_range, require, unknown_activation
from formers.models.reformer_names import FOREIGN as FOREIGN
from formers.models.reformer_names import activations as activations
from formers.models.reformer_names import weights as weights
from formers.parts.attention import Mix, initialise_normal
from formers.parts.chunked import Window
from formers.parts.embeddings import AxialPositions, LearnedPositions
from formers.parts.feed_forward import ACTIVATIONS, FeedForward, in_chunks
from formers.parts.hashing import Hashing
from formers.parts.heads import LanguageHead, Pooler, RowHead, TokenHead
from formers.parts.local import local_attention
from formers.parts.lsh import RULES, HashedAttention, SharedProject
from formers.parts.model import Model, Output
from formers.parts.norms import LayerNorm
from formers.parts.positions import Positions
from formers.parts.product_keys import NORMS, ProductKeyMemory, problems_of_memory
from formers.parts.reversible import Reversible, concatenate
from formers.parts.states import StagedState, Tree

KEY_EPS = 1e-6
"""Under the root that makes keys of queries, in the authors' code."""


@dataclass(frozen=True)
class ReformerConfig:
    """Sizes of transformers' configuration by default, but for num_heads, which is that of the published models."""

    architecture: ClassVar[str] = "reformer"
    later: ClassVar[tuple[str, ...]] = (
        "full_below", "local_heads", "memory_layers", "memory_keys", "memory_heads", "memory_d_key", "memory_best",
        "memory_norm",
    )  # fmt: skip

    vocab_size: int = 320
    d_model: int = 256
    num_layers: int = 6
    layers: tuple[str, ...] = ("local", "lsh")
    """Kinds of attention, in turns from the first layer on: local and lsh."""
    num_heads: int = 2
    d_head: int = 64
    d_ff: int = 512
    max_length: int = 4096
    axial_shape: tuple[int, int] | None = (64, 64)
    """Rows and columns of the grid of places; none: a table with a row for each place."""
    axial_widths: tuple[int, int] = (64, 192)
    """Of the tables for rows and for columns; together d_model."""
    rounds: int = 1
    """Of hashing. More find more, at a cost in proportion; they may be raised after training."""
    num_buckets: int | tuple[int, ...] | None = None
    """Even, or even factors; none: as many as the text asks for."""
    rules: Literal["transformers", "paper"] = "transformers"
    hash_seed: int | None = None
    full_below: int = 0
    """Tokens of a row below which hashed layers attend in full. ``formers crossover`` measures from how many hashing pays."""
    local_heads: int = 0
    """Heads of a hashed layer that look at their chunk and those beside it, instead of at buckets."""
    lsh_chunk: int = 64
    lsh_before: int = 1
    lsh_after: int = 0
    local_chunk: int = 64
    local_before: int = 1
    local_after: int = 0
    causal: bool | None = None
    """Whether tokens see what follows them; none: only a head for the next token forbids it."""
    activation: str = "relu"
    ff_chunks: int = 1
    """Stretches of the text whose feed-forwards are computed one after another, to save memory."""
    memory_layers: tuple[int, ...] = ()
    """Layers, counted from 0, that have a product-key memory in place of the feed-forward."""
    memory_keys: int = 128
    """Half-keys of either set. A memory holds as many values as their square."""
    memory_heads: int = 4
    memory_d_key: int = 128
    memory_best: int = 32
    """Values that each head gives a token."""
    memory_norm: Literal["layer", "batch", "none"] = "layer"
    """Of a memory's queries; the paper's is batch."""
    eps: float = 1e-12
    dropout: float = 0.05
    lsh_dropout: float = 0.0
    local_dropout: float = 0.05
    classifier_dropout: float | None = None
    init_std: float = 0.02
    axial_std: float = 1.0
    head: str | None = None
    num_labels: int = 2
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        sizes = ("vocab_size", "d_model", "num_layers", "num_heads", "d_head", "d_ff", "max_length")
        problems = out_of_range(self) + below_one(self, (*sizes, "rounds", "lsh_chunk", "local_chunk", "ff_chunks"))
        unknown = [kind for kind in self.layers if kind not in SUBLAYERS]
        problems += [f"layers has {kind!r}, wanted {' or '.join(SUBLAYERS)}" for kind in unknown]
        problems += [] if self.layers else ["layers is empty, wanted local, lsh or both"]
        problems += [] if self.rules in RULES else [f"rules {self.rules!r} is none of {', '.join(RULES)}"]
        problems += unknown_activation(self, ACTIVATIONS) + self._axial_problems() + self._window_problems()
        problems += bucket_problems(self.num_buckets) + self._extra_problems()
        problems += [] if self.head is None else head_problems(self, [head for head in HEADS if head is not None])
        if self.head is None and self.causal is False:
            problems.append("causal is False, and a head for the next token must not see it; or head=masked_token")
        if self.head == "masked_token" and self.causal:
            problems.append("causal is True, and a head for masked tokens reads both sides of them")
        require("ReformerConfig", problems)

    def _axial_problems(self) -> list[str]:
        if self.axial_shape is None:
            return []
        rows, columns = self.axial_shape
        problems = [] if rows > 0 and columns > 0 else [f"axial_shape is {self.axial_shape}, wanted at least 1 of each"]
        if rows * columns < self.max_length:
            fault = f"axial_shape {rows} x {columns} has places for {rows * columns} tokens, max_length is {self.max_length}"
            problems.append(fault)
        if sum(self.axial_widths) != self.d_model or min(self.axial_widths) < 1:
            problems.append(
                f"axial_widths {self.axial_widths} come to {sum(self.axial_widths)}, d_model is {self.d_model}"
            )
        return problems

    def _window_problems(self) -> list[str]:
        sides = ("lsh_before", "lsh_after", "local_before", "local_after")
        problems = [f"{name} is {getattr(self, name)}, wanted at least 0" for name in sides if getattr(self, name) < 0]
        later = [name for name in ("lsh_after", "local_after") if self.is_causal and getattr(self, name)]
        return problems + [
            f"{name} is {getattr(self, name)}, and a causal model sees no later chunks" for name in later
        ]

    def _extra_problems(self) -> list[str]:
        problems = [] if self.full_below >= 0 else [f"full_below is {self.full_below}, wanted at least 0"]
        if not 0 <= self.local_heads <= self.num_heads:
            problems.append(f"local_heads is {self.local_heads}, wanted 0 to num_heads, {self.num_heads}")
        outside = [i for i in self.memory_layers if not 0 <= i < self.num_layers]
        problems += [f"memory_layers has {i}, wanted 0 to {self.num_layers - 1}" for i in outside]
        if self.memory_norm not in NORMS:
            problems.append(f"memory_norm {self.memory_norm!r} is none of {', '.join(NORMS)}")
        sizes = (self.memory_keys, self.memory_heads, self.memory_d_key, self.memory_best)
        problems += problems_of_memory(*sizes, prefix="memory_")
        if self.batch_normed and self.ff_chunks > 1:
            problems.append("memory_norm is batch, and ff_chunks would take averages of every chunk by itself")
        return problems

    @property
    def is_causal(self) -> bool:
        return self.head is None if self.causal is None else self.causal

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kind of every layer."""
        return tuple(self.layers[i % len(self.layers)] for i in range(self.num_layers))

    @property
    def hashes(self) -> bool:
        """Whether any text that the model takes is hashed."""
        return "lsh" in self.kinds and self.full_below <= self.max_length

    @property
    def batch_normed(self) -> bool:
        """Whether what one token asks of a memory depends, in training, on what others ask."""
        return bool(self.memory_layers) and self.memory_norm == "batch"

    @property
    def multiple(self) -> int:
        """Texts longer than a chunk are filled up to a multiple of this: whole chunks of every kind."""
        chunks = {"local": self.local_chunk, "lsh": self.lsh_chunk}
        return math.lcm(*(chunks[kind] for kind in set(self.kinds)))


def bucket_problems(num_buckets: int | tuple[int, ...] | None) -> list[str]:
    """What is wrong with a number of buckets, or with its factors."""
    factors = () if num_buckets is None else (num_buckets,) if isinstance(num_buckets, int) else num_buckets
    good = num_buckets in (None, 1) or (len(factors) > 0 and all(f >= 2 and f % 2 == 0 for f in factors))
    return [] if good else [f"num_buckets is {num_buckets}, wanted an even number, or several, or 1"]


def lsh(config: ReformerConfig) -> HashedAttention:
    return HashedAttention(
        SharedProject(config.d_model, config.num_heads, config.d_head),
        Mix(config.num_heads, config.d_head, config.d_model, bias=False),
        window=Window(config.lsh_chunk, config.lsh_before, config.lsh_after, config.multiple, causal=config.is_causal),
        hashing=Hashing(config.rounds, config.num_buckets, config.hash_seed, config.lsh_chunk, config.max_length),
        rules=RULES[config.rules],
        eps=KEY_EPS,
        dropout=config.lsh_dropout,
        full_below=config.full_below,
        local_heads=config.local_heads,
    )


def local(config: ReformerConfig) -> nn.Module:
    window = Window(
        config.local_chunk, config.local_before, config.local_after, config.multiple, causal=config.is_causal
    )
    return local_attention(config.d_model, config.num_heads, config.d_head, window, dropout=config.local_dropout)


SUBLAYERS: dict[str, Callable[[ReformerConfig], nn.Module]] = {"local": local, "lsh": lsh}


def feed_forward(config: ReformerConfig, layer: int) -> nn.Module:
    if layer in config.memory_layers:
        return in_chunks(memory(config), config.ff_chunks)
    whole = FeedForward(config.d_model, config.d_ff, activation_name=config.activation, dropout=config.dropout)
    return in_chunks(whole, config.ff_chunks)


def memory(config: ReformerConfig) -> ProductKeyMemory:
    return ProductKeyMemory(
        config.d_model,
        keys=config.memory_keys,
        heads=config.memory_heads,
        d_key=config.memory_d_key,
        best=config.memory_best,
        norm=NORMS[config.memory_norm],
    )


def language(config: ReformerConfig) -> LanguageHead:
    return LanguageHead(2 * config.d_model, config.vocab_size, bias=True)


def sequence(config: ReformerConfig) -> RowHead:
    dropout = config.dropout if config.classifier_dropout is None else config.classifier_dropout
    pool = Pooler(2 * config.d_model, config.d_model, dropout=dropout)
    return RowHead(pool, config.num_labels, dropout=dropout)


HEADS: dict[str | None, Callable[[ReformerConfig], nn.Module]] = {
    None: language,
    "masked_token": language,
    "sequence": sequence,
    "span": lambda c: TokenHead(2 * c.d_model, 2),
    "none": lambda c: nn.Identity(),
}

_NANO = {
    "d_model": 64, "num_layers": 2, "num_heads": 2, "d_head": 32, "d_ff": 256, "vocab_size": 512, "max_length": 128,
    "axial_shape": (8, 16), "axial_widths": (32, 32), "lsh_chunk": 16, "local_chunk": 16, "rounds": 2,
}  # fmt: skip
_TINY = {
    "d_model": 192, "num_layers": 4, "num_heads": 6, "d_head": 32, "d_ff": 768, "vocab_size": 4096, "max_length": 256,
    "axial_shape": (16, 16), "axial_widths": (64, 128), "lsh_chunk": 32, "local_chunk": 32, "rounds": 2,
}  # fmt: skip

PRESETS: dict[str, dict] = {
    "nano": _NANO,
    "tiny": _TINY,
    # google/reformer-crime-and-punishment: a novel of half a million characters in one text, 320 pieces
    "crime_and_punishment": {"max_length": 524_288, "axial_shape": (512, 1024), "num_buckets": (64, 128)},
    # google/reformer-enwik8: characters, 12 layers of the paper's width
    "enwik8": {
        "vocab_size": 258, "d_model": 1024, "num_layers": 12, "layers": ("local", "local", "lsh", "local"),
        "num_heads": 8, "d_head": 128, "d_ff": 4096, "max_length": 65_536, "axial_shape": (128, 512),
        "axial_widths": (256, 768), "lsh_chunk": 256, "local_chunk": 128, "rounds": 4, "num_buckets": 512,
        "dropout": 0.2, "lsh_dropout": 0.1, "local_dropout": 0.2,
    },
}  # fmt: skip


class Reformer(Model):
    """Reformer with the head that its config names. `seed` draws the initial weights."""

    def __init__(self, config: ReformerConfig, *, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        d_model, causal = config.d_model, config.is_causal
        self.inputs = frozenset({"positions", "state"} if causal else {"positions"})  # type: ignore[misc]
        self.causal = causal
        self.tokens = nn.Embedding(config.vocab_size, d_model)
        self.places = places(config)
        blocks = [
            {"attention": SUBLAYERS[kind](config), "feed_forward": feed_forward(config, i)}
            for i, kind in enumerate(config.kinds)
        ]
        self.trunk = Reversible(
            blocks,
            lambda: LayerNorm(d_model, config.eps),
            merge=concatenate,
            make_final_norm=lambda: LayerNorm(2 * d_model, config.eps),
            dropout=config.dropout,
        )
        self.head = HEADS[config.head](config)
        self.law_exceptions = law_exceptions(config)
        self.initialise(torch.Generator().manual_seed(seed))

    @property
    def hidden_width(self) -> int:
        return 2 * self.config.d_model

    def run(self, input_ids: Ids, positions: Positions, state: Tree | None) -> tuple[Hidden, Tree | None]:
        x = self.drop(self.tokens(input_ids) + self.places(positions))
        x, staged = self.trunk(x, positions, state)
        return self.drop(x), staged

    def drop(self, x: Hidden) -> Hidden:
        return F.dropout(x, self.config.dropout, self.training)

    def answer(self, hidden: Hidden, positions: Positions | None, staged: StagedState | None) -> Output:
        if isinstance(self.head, RowHead):
            return Output(self.head(hidden, positions))
        return Output(self.head(hidden), staged)

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """N(0, init_std), biases 0, and the tables of the grid N(0, axial_std); memories have a say of their own."""
        if self.tokens.weight.is_meta:
            return
        initialise_normal(self, self.config.init_std, generator)
        if isinstance(self.places, AxialPositions):
            initialise_normal(self.places, self.config.axial_std, generator)
        for module in self.modules():
            if isinstance(module, ProductKeyMemory):
                module.initialise(generator)


def places(config: ReformerConfig) -> nn.Module:
    if config.axial_shape is None:
        return LearnedPositions(config.max_length, config.d_model)
    return AxialPositions(config.axial_shape, config.axial_widths, max_length=config.max_length)


def law_exceptions(config: ReformerConfig) -> dict[str, str]:
    """The laws that hashing makes inexact, and why; and those that say nothing of a head."""
    hashed, ring = config.hashes, not config.is_causal and (config.hashes or "local" in config.kinds)
    sorting = "chunks of sorted tokens: what stands elsewhere moves their borders"
    exceptions = {}
    if hashed and config.is_causal:
        exceptions |= {
            "causal by perturbation": f"LSH attends in {sorting}, though no weight and no gradient goes to later tokens",
            "step by step equals whole": f"LSH attends in {sorting}, and a step sorts what was read so far",
        }
    if hashed and config.hash_seed is None:
        exceptions["training differs only by dropout"] = "in training rotations are drawn anew at every call"
    if hashed or ring:
        exceptions["documents stay apart"] = f"LSH attends in {sorting}; local layers count chunks from the row's start"
    if ring or (hashed and (config.rules != "paper" or config.num_buckets is None)):
        exceptions["padding changes nothing"] = "chunks stand in a ring, and there are as many as the padded row fills"
    elif hashed and config.full_below:
        exceptions["padding changes nothing"] = "the length of the padded row decides whether it is hashed (full_below)"
    if config.batch_normed:
        shared = "queries of its memories are normed by averages of the batch"
        exceptions |= {"rows independent": shared, "training differs only by dropout": f"in training {shared}"}
    if config.head == "sequence":
        exceptions["documents stay apart"] = "its head reads a row by its first token, so a row is one text"
    if config.head == "none":
        exceptions["first loss near ln V"] = "it is a body without a head, and gives no logits"
    return exceptions


CONFIG, MODEL = ReformerConfig, Reformer
