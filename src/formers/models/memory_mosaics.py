"""Memory Mosaics: Zhang, Nolte, Sadhukhan, Chen, Bottou, "Memory Mosaics" (2405.06394, ICLR 2025).

Networks of associative memories. A block has a memory of the context in place of attention, and a persistent memory in
place of the feed-forward (parts/mosaic.py has the equations):

    x = x + context_memory(norm(x)), x = x + persistent_memory(norm(x)), logits = norm(x) tokens^T

A key is a leaky average of what came before and its value is what came next, so one head does in one layer what takes
attention two: it finds where it was in the same context, and says what followed.

The authors published two programs, and both are here as settings: `nanoMosaics` (the defaults) and `Library`, which made
the paper's figures (preset ``babistories``: maps without bias, other initial weights, logits over sqrt(d_model), dropout,
and other caps of the keys' scale).

`block` says what a block is made of, in order: context_memory or attention, persistent_memory or feed_forward.

Departures
- Documents packed into one row do not see each other, and averages begin anew with each. Theirs run on.
- No length is too long: their matrix of decays has block_size rows, our average has none.
- 1e-10 is added to every norm before it divides, as in nanoMosaics; Library divides by the norm.
- Library's keys and values may be convolutions of other widths and its norms may stand behind the memories; its published
  runs use neither, and they are left out. Its factor 1 - e^-rate before the average goes away in the norm.
- `attention` has rotary positions, since nothing else in the model knows of places.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from formers.axes import Hidden, Ids
from formers.config import below_one, out_of_range, require, uneven_heads, unknown_activation
from formers.parts.attention import Attention, KeyValueCache, Mix, Project, Score, scale_of
from formers.parts.feed_forward import ACTIVATIONS, FeedForward
from formers.parts.heads import LanguageHead
from formers.parts.masks import Causal, SameDocument, StrictlyPast
from formers.parts.model import Model
from formers.parts.mosaic import ContextMemory, Keys, PersistentMemory, Values
from formers.parts.norms import LayerNorm
from formers.parts.positions import Positions
from formers.parts.states import Tree
from formers.parts.trunk import PreNorm
from formers.parts.turns import Rotary
from formers.weights import Ignore, Rename, Reshape, Rule, Table, Tie, both


@dataclass(frozen=True)
class MemoryMosaicsConfig:
    """Sizes of nanoMosaics by default, which are GPT-2's."""

    architecture: ClassVar[str] = "memory_mosaics"
    max_length: ClassVar[None] = None  # nothing in it knows of places

    vocab_size: int = 50304
    d_model: int = 768
    num_layers: int = 12
    num_heads: int = 12
    block: tuple[str, ...] = ("context_memory", "persistent_memory")
    """Sublayers of a block, in order: context_memory or attention, persistent_memory or feed_forward."""
    memory_size: int = 2688
    """Learned pairs a head of a persistent memory. With 3.5 x d_model a block is as large as GPT-2's."""
    memory_sets: int = 1
    """Sets of so many pairs, whose answers are averaged."""
    d_ff: int | None = None
    """Width of a feed-forward; 4 x d_model where none."""
    activation: str = "gelu_tanh"
    rotary_base: float = 10_000.0
    bias: bool = True
    max_key_exponent: float = math.log(2**16 - 1)
    """Of e^s, the length of a context memory's keys."""
    max_persistent_exponent: float = math.log(2**16 - 1)
    """Of e^2s, the length of the keys that ask a persistent memory."""
    eps: float = 1e-5
    dropout: float = 0.0
    attention_dropout: float = 0.0
    init_std: float | None = 0.02
    """Of every map and the embedding; none: 1/sqrt(inputs) for maps and 1 for the embedding, as in Library."""
    scale_logits: bool = False
    """Logits over sqrt(d_model), as in Library."""

    def __post_init__(self) -> None:
        sizes = ("vocab_size", "d_model", "num_layers", "num_heads", "memory_size", "memory_sets")
        problems = (
            out_of_range(self) + below_one(self, sizes) + uneven_heads(self) + unknown_activation(self, ACTIVATIONS)
        )
        unknown = [name for name in self.block if name not in SUBLAYERS]
        problems += [f"block has {name!r}, wanted some of {', '.join(SUBLAYERS)}" for name in unknown]
        if not self.block or len(set(self.block)) < len(self.block):
            problems.append(f"block is {self.block}, wanted one or more different sublayers")
        if "attention" in self.block and not problems and self.d_head % 2:
            problems.append(f"d_model / num_heads is {self.d_head}, wanted an even number for rotary attention")
        if self.d_ff is not None and self.d_ff < 1:
            problems.append(f"d_ff is {self.d_ff}, wanted at least 1")
        require("MemoryMosaicsConfig", problems)

    @property
    def d_head(self) -> int:
        return self.d_model // self.num_heads

    @property
    def d_hidden(self) -> int:
        """Width of a feed-forward."""
        return 4 * self.d_model if self.d_ff is None else self.d_ff


def context_memory(config: MemoryMosaicsConfig) -> ContextMemory:
    heads, d_head, d_model = config.num_heads, config.d_head, config.d_model
    return ContextMemory(
        Keys(d_model, heads, d_head, bias=config.bias, power=1, max_exponent=config.max_key_exponent),
        Values(d_model, heads, d_head, bias=config.bias),
        Score(StrictlyPast() & SameDocument(), 1.0, dropout=config.attention_dropout),
        Mix(heads, d_head, d_model, bias=config.bias),
    )


def persistent_memory(config: MemoryMosaicsConfig) -> PersistentMemory:
    heads, d_head, d_model = config.num_heads, config.d_head, config.d_model
    return PersistentMemory(
        Keys(d_model, heads, d_head, bias=config.bias, power=2, max_exponent=config.max_persistent_exponent),
        Mix(heads, d_head, d_model, bias=config.bias),
        size=config.memory_size,
        sets=config.memory_sets,
        dropout=config.attention_dropout,
    )


def attention(config: MemoryMosaicsConfig) -> Attention:
    heads, d_head, d_model = config.num_heads, config.d_head, config.d_model
    return Attention(
        project=Project(d_model, heads, d_head, bias=config.bias),
        turn=Rotary(d_head, base=config.rotary_base),
        remember=KeyValueCache(heads, d_head),
        score=Score(Causal() & SameDocument(), scale_of(d_head), dropout=config.attention_dropout),
        mix=Mix(heads, d_head, d_model, bias=config.bias),
    )


def feed_forward(config: MemoryMosaicsConfig) -> FeedForward:
    return FeedForward(config.d_model, config.d_hidden, activation_name=config.activation, bias=config.bias)


SUBLAYERS: dict[str, Callable[[MemoryMosaicsConfig], nn.Module]] = {
    "context_memory": context_memory,
    "persistent_memory": persistent_memory,
    "attention": attention,
    "feed_forward": feed_forward,
}

_NANO = {"d_model": 64, "num_layers": 2, "num_heads": 2, "vocab_size": 512, "memory_size": 224}
_TINY = {"d_model": 192, "num_layers": 4, "num_heads": 6, "vocab_size": 4096, "memory_size": 672}


def _mixed(sizes: dict) -> dict[str, dict]:
    """The other three kinds of block, with as many parameters: maps are 4 d^2 in attention, 3 d^2 in a context memory, 2 d^2
    in a persistent one."""
    d = sizes["d_model"]
    return {
        "context_feed_forward": {**sizes, "block": ("context_memory", "feed_forward"), "d_ff": 9 * d // 2},
        "attention_persistent": {**sizes, "block": ("attention", "persistent_memory"), "memory_size": 3 * d},
        "attention_feed_forward": {**sizes, "block": ("attention", "feed_forward")},
    }


PRESETS: dict[str, dict] = {
    "nano": _NANO,
    **{f"nano_{name}": settings for name, settings in _mixed(_NANO).items()},
    "tiny": _TINY,
    **{f"tiny_{name}": settings for name, settings in _mixed(_TINY).items()},
    "mini": {"d_model": 384, "num_layers": 6, "num_heads": 6, "vocab_size": 8192, "memory_size": 1344},
    "small": {},  # nanoMosaics: GPT-2's 124M without its table of positions
    "babistories": {  # Library, 12 blocks: the paper's figures
        "vocab_size": 50257, "bias": False, "dropout": 0.05, "attention_dropout": 0.05, "init_std": None,
        "scale_logits": True, "max_key_exponent": 5.0, "max_persistent_exponent": 10.0,
    },
}  # fmt: skip


class MemoryMosaics(Model):
    """A memory mosaic. `seed` draws the initial weights."""

    def __init__(self, config: MemoryMosaicsConfig, *, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.tokens = nn.Embedding(config.vocab_size, config.d_model)
        blocks = [{name: SUBLAYERS[name](config) for name in config.block} for _ in range(config.num_layers)]
        self.trunk = PreNorm(
            blocks, lambda: LayerNorm(config.d_model, config.eps, bias=config.bias), dropout=config.dropout
        )
        scale = config.d_model**-0.5 if config.scale_logits else 1.0
        self.head = LanguageHead(config.d_model, config.vocab_size, scale=scale)
        self.head.tie(self.tokens)
        if config.init_std is None:
            self.law_exceptions = {
                "first loss near ln V": "tied embeddings of deviation 1, as in the authors' Library: each token names itself"
            }
        self.initialise(torch.Generator().manual_seed(seed))

    def run(self, input_ids: Ids, positions: Positions, state: Tree | None) -> tuple[Hidden, Tree | None]:
        x = F.dropout(self.tokens(input_ids), self.config.dropout, self.training)
        return self.trunk(x, positions, state)

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Maps from N(0, init_std), those that write to the stream smaller; learned pairs from N(0, 1/sqrt(d_head)), c from
        (0, 1). Rates and scales are set where they are made."""
        if self.tokens.weight.is_meta:
            return
        std = self.config.init_std
        nn.init.normal_(self.tokens.weight, 0.0, 1.0 if std is None else std, generator=generator)
        for module in self.trunk.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(
                    module.weight, 0.0, module.in_features**-0.5 if std is None else std, generator=generator
                )
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            if isinstance(module, Values):
                nn.init.uniform_(module.peek, 0.0, 1.0, generator=generator)
            if isinstance(module, PersistentMemory):
                for pairs in (module.slot_keys, module.slot_values):
                    nn.init.normal_(pairs, 0.0, self.config.d_head**-0.5, generator=generator)
        writers = self.config.num_layers * (1 if std is None else 2)
        for module in self.trunk.modules():
            if isinstance(module, Mix | FeedForward):
                (module.linear if isinstance(module, Mix) else module.contract).weight.mul_(writers**-0.5)


FOREIGN = None
"""No class of transformers holds this model: folders hold our settings and our names."""


def weights(config: MemoryMosaicsConfig) -> Table:
    """Our tensors and those of the authors' nanoMosaics (mosaic_model.py). Attention and feed-forward, which theirs does not
    have in a mosaic, go by the names of its gpt_model.py."""
    rules: list[Rule] = [Rename("tokens.weight", "mosaic.wte.weight")]
    for i in range(config.num_layers):
        ours, theirs = f"trunk.blocks.{i}", f"mosaic.h.{i}"
        for place, name in enumerate(config.block):
            their = "attn" if name in ("context_memory", "attention") else "mlp"
            rules += RULES[name](config, f"{ours}.{name}", f"{theirs}.{their}")
            rules += _both(config, f"trunk.norms.{i}.{name}", f"{theirs}.ln_{place + 1}")
    rules += _both(config, "trunk.final_norm", "mosaic.ln_f")
    ignored = (
        Ignore("*.attn.bias", "the mask, stored as a buffer"),
        Ignore("*.leaky_avg.coef", "distances between tokens, stored as a buffer"),
    )
    ties = (Tie("head.linear.weight", "tokens.weight", "lm_head.weight"),)
    return Table(tuple(rules), ties, ignored, extra_prefix="_orig_mod.")


def _both(config: MemoryMosaicsConfig, our: str, their: str) -> list[Rule]:
    return both(our, their) if config.bias else [Rename(f"{our}.weight", f"{their}.weight")]


def _scalars(config: MemoryMosaicsConfig, our: str, their: str) -> Reshape:
    return Reshape(our, their, (config.num_heads,), (1, config.num_heads, 1, 1))


def _key_rules(config: MemoryMosaicsConfig, our: str, their: str) -> list[Rule]:
    return [
        *_both(config, f"{our}.key.linear", f"{their}.k_featurizer.W_k"),
        _scalars(config, f"{our}.key.rate", f"{their}.k_featurizer.leaky_avg.leaky_key_beta"),
        _scalars(config, f"{our}.key.scale", f"{their}.k_featurizer.key_scale"),
        *_both(config, f"{our}.mix.linear", f"{their}.c_proj"),
    ]


def _context_rules(config: MemoryMosaicsConfig, our: str, their: str) -> list[Rule]:
    return [
        *_key_rules(config, our, their),
        *_both(config, f"{our}.value.linear", f"{their}.v_featurizer.W_v"),
        _scalars(config, f"{our}.value.peek", f"{their}.v_featurizer.coef"),
        _scalars(config, f"{our}.value.scale", f"{their}.v_featurizer.val_scale"),
    ]


def _persistent_rules(config: MemoryMosaicsConfig, our: str, their: str) -> list[Rule]:
    inner = (config.num_heads, config.memory_size, config.d_head)
    slots = (config.memory_sets, *inner), (config.memory_sets, 1, *inner)
    return [
        *_key_rules(config, our, their),
        _scalars(config, f"{our}.scale", f"{their}.out_scale"),
        Reshape(f"{our}.slot_keys", f"{their}.P_k", *slots),
        Reshape(f"{our}.slot_values", f"{their}.P_v", *slots),
    ]


def _attention_rules(config: MemoryMosaicsConfig, our: str, their: str) -> list[Rule]:
    project, mix = _both(config, f"{our}.project.linear", f"{their}.c_attn"), f"{our}.mix.linear"
    return [*project, *_both(config, mix, f"{their}.c_proj")]


def _feed_forward_rules(config: MemoryMosaicsConfig, our: str, their: str) -> list[Rule]:
    return [*_both(config, f"{our}.expand", f"{their}.c_fc"), *_both(config, f"{our}.contract", f"{their}.c_proj")]


RULES: dict[str, Callable[[MemoryMosaicsConfig, str, str], list[Rule]]] = {
    "context_memory": _context_rules,
    "persistent_memory": _persistent_rules,
    "attention": _attention_rules,
    "feed_forward": _feed_forward_rules,
}

CONFIG, MODEL = MemoryMosaicsConfig, MemoryMosaics
