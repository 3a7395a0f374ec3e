"""Transformer-XL: Dai et al., "Transformer-XL: Attentive Language Models beyond a Fixed-Length Context" (1901.02860).

A text is read in segments. Queries see their own segment and the `memory_length` tokens before it, through what every layer
was given for those tokens (section 3.2: h~ = [SG(memory); h], q = h W_q, k and v from h~), and scores go by distance:

    A_ij = q_i.k_j + u.k_j + (q_i + v).(W_kR R_{i-j}), over sqrt(d_head), for visible j <= i                    (3.3)
    x = norm(x + attention(x)), x = norm(x + feed_forward(x)), logits = x tokens^T + bias

Departures from the authors' code (kimiyoung/transformer-xl, pytorch/)
- What a query sees depends on positions alone: with `Segments(segment_length, memory_length)` all tokens of a segment see
  the same `memory_length` tokens before it. Theirs counts by calls: the last `mem_len` tokens before a call. The two are
  the same where calls are segments, which is how their trainer calls; ours does not change when calls are cut otherwise.
  For that the state holds `memory_length + segment_length` inputs a layer.
- A text read in one call without a state gives the logits that segments give, but its gradient crosses segments. Truncated
  backpropagation, as in the paper, is reading a segment a call with a state.
- Documents do not see each other, and a row's memory is emptied where a document begins. Theirs streams a whole corpus.
- `remember="keys"` keeps projected keys and values instead: the same numbers while weights stand still, cheaper by the
  projection of the memory, but W_k and W_v get no gradient through what is remembered.
- `recurrence="same_layer"` is no part of the paper: of earlier segments layer n sees what it gave itself (ERNIE-Doc,
  2012.15688), so that a dependency may be longer than layers times memory. The same weights; no gradient crosses segments.
- An ordinary softmax with tied weights and a bias in place of the adaptive one with projections (`div_val`, clusters).
- `norm="pre"` is a sublayer's norm before it and one final norm. Their `pre_lnorm` has no final norm, and norms remembered
  inputs afresh; ours remembers what was normed, so a norm's gain gets no gradient through the memory.
- Dropout is where theirs is, except on the sinusoids, which ours leaves whole. Norms begin at 1, theirs at N(1, 0.02).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import nn

from formers.axes import Hidden, Ids
from formers.config import below_one, out_of_range, require, uneven_heads
from formers.parts.attention import (
    Attention,
    InputAttention,
    InputWindow,
    KeyValueWindow,
    Mix,
    Project,
    Score,
    initialise_normal,
    scale_of,
)
from formers.parts.feed_forward import FeedForward
from formers.parts.heads import LanguageHead
from formers.parts.masks import Causal, SameDocument, Segments
from formers.parts.model import Model
from formers.parts.norms import LayerNorm
from formers.parts.positions import Positions
from formers.parts.recurrence import InputOutputWindow, SameLayer, SameLayerAttention
from formers.parts.states import Tree
from formers.parts.terms import RelativeBiases, RelativeSinusoids
from formers.parts.trunk import PostNorm, PreNorm, Trunk
from formers.weights import Rename, Rule, Table, Tie


@dataclass(frozen=True)
class TransformerXLConfig:
    """Sizes of the 12-layer enwik8 model by default (table 2 of the paper, 41M parameters)."""

    architecture: ClassVar[str] = "transformer_xl"
    max_length: ClassVar[None] = None  # distances are all that it knows of places

    vocab_size: int = 204
    d_model: int = 512
    num_layers: int = 12
    num_heads: int = 8
    d_head: int | None = None  # d_model / num_heads where None
    d_ff: int = 2048
    segment_length: int = 512
    """Tokens that see the same memory. Train with as many a row (`seq_len`)."""
    memory_length: int = 512
    """Tokens before its segment that a token sees. More than in training may serve evaluation well (section 4)."""
    remember: Literal["inputs", "keys"] = "inputs"
    """inputs: the paper's. keys: projected keys and values, cheaper, with less of the gradient."""
    recurrence: Literal["layer_below", "same_layer"] = "layer_below"
    """Of earlier segments a layer sees what it was given, that is what the layer below gave (the paper's), or what it gave
    itself (ERNIE-Doc's; parts/recurrence.py). With remembered inputs and norms behind alone."""
    norm: Literal["post", "pre"] = "post"
    untie: bool = False
    """Each layer has its own u and v."""
    eps: float = 1e-5
    dropout: float = 0.1
    attention_dropout: float = 0.0
    init_std: float = 0.02

    def __post_init__(self) -> None:
        sizes = ("vocab_size", "d_model", "num_layers", "num_heads", "d_ff", "segment_length")
        problems = out_of_range(self) + below_one(self, sizes)
        if self.memory_length < 0:
            problems.append(f"memory_length is {self.memory_length}, wanted at least 0")
        if self.d_model % 2:
            problems.append(f"d_model {self.d_model} is odd, and sinusoids are half sines, half cosines")
        problems += uneven_heads(self, ": give d_head") if self.d_head is None else []
        if self.d_head is not None and self.d_head < 1:
            problems.append(f"d_head is {self.d_head}, wanted at least 1")
        ways = {"remember": ("inputs", "keys"), "norm": ("post", "pre"), "recurrence": ("layer_below", "same_layer")}
        for name, known in ways.items():
            if getattr(self, name) not in known:
                problems.append(f"{name} is {getattr(self, name)!r}, wanted one of {', '.join(known)}")
        if self.recurrence == "same_layer" and (self.remember, self.norm) != ("inputs", "post"):
            problems.append(
                f"recurrence is 'same_layer' with remember {self.remember!r} and norm {self.norm!r}, wanted 'inputs' and 'post'"
            )
        require("TransformerXLConfig", problems)

    @property
    def width_of_head(self) -> int:
        return self.d_model // self.num_heads if self.d_head is None else self.d_head

    @property
    def reach(self) -> int:
        """Distances 0 .. reach-1 can be seen: the last token of a segment sees the first of its memory."""
        return self.memory_length + self.segment_length


PRESETS: dict[str, dict] = {
    "nano": {
        "d_model": 64, "num_layers": 2, "num_heads": 2, "d_ff": 256, "vocab_size": 512,
        "segment_length": 64, "memory_length": 64,
    },
    "tiny": {
        "d_model": 192, "num_layers": 4, "num_heads": 6, "d_ff": 768, "vocab_size": 4096,
        "segment_length": 128, "memory_length": 128,
    },
    "mini": {
        "d_model": 384, "num_layers": 6, "num_heads": 6, "d_ff": 1536, "vocab_size": 8192,
        "segment_length": 256, "memory_length": 256,
    },
    # The authors' scripts. Their adaptive softmax is ours in size where it has one width (div_val 1), so 151M stands here
    # and the 257M model of WikiText-103 (div_val 4) does not.
    "enwik8": {},  # 41M: run_enwik8_base.sh
    "enwik8_large": {  # 277M: run_enwik8_large.sh
        "d_model": 1024, "num_layers": 24, "num_heads": 8, "d_head": 128, "d_ff": 3072,
        "segment_length": 768, "memory_length": 768, "dropout": 0.15, "attention_dropout": 0.15,
    },
    "wt103": {  # 151M: run_wt103_base.sh
        "vocab_size": 267735, "d_model": 410, "num_layers": 16, "num_heads": 10, "d_head": 41, "d_ff": 2100,
        "segment_length": 150, "memory_length": 150,
    },
}  # fmt: skip


class TransformerXL(Model):
    """Transformer-XL. `seed` draws the initial weights."""

    def __init__(self, config: TransformerXLConfig, *, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.tokens = nn.Embedding(config.vocab_size, config.d_model)
        shared = None if config.untie else RelativeBiases(config.num_heads, config.width_of_head)
        blocks = [
            {"attention": attention(config, shared), "feed_forward": feed_forward(config)}
            for _ in range(config.num_layers)
        ]
        self.trunk = trunk(config, blocks)
        self.head = LanguageHead(config.d_model, config.vocab_size, bias=True)
        self.head.tie(self.tokens)
        self.initialise(torch.Generator().manual_seed(seed))
        if config.recurrence == "same_layer":
            self.law_exceptions = {
                "segments equal whole": "of earlier segments its layers see what they gave themselves, which attention "
                "without segments has not"
            }

    def run(self, input_ids: Ids, positions: Positions, state: Tree | None) -> tuple[Hidden, Tree | None]:
        x = self.drop(self.tokens(input_ids) * self.config.d_model**0.5)
        x, staged = self.trunk(x, positions, state)
        return self.drop(x), staged

    def drop(self, x: Hidden) -> Hidden:
        return F.dropout(x, self.config.dropout, self.training)

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """N(0, init_std) for every map, the embedding, u and v; biases 0."""
        if self.tokens.weight.is_meta:
            return
        initialise_normal(self, self.config.init_std, generator)
        for biases in (module for module in self.modules() if isinstance(module, RelativeBiases)):
            for parameter in (biases.content, biases.distance):
                nn.init.normal_(parameter, 0.0, self.config.init_std, generator=generator)


def attention(config: TransformerXLConfig, shared: RelativeBiases | None) -> Attention:
    heads, d_head, d_model = config.num_heads, config.width_of_head, config.d_model
    scale = scale_of(d_head)
    biases = RelativeBiases(heads, d_head) if shared is None else shared
    term = RelativeSinusoids(d_model, heads, d_head, reach=config.reach, scale=scale, biases=biases)
    mask = Causal() & Segments(config.segment_length, config.memory_length) & SameDocument()
    slots = {
        "project": Project(d_model, heads, d_head, bias=False),
        "score": Score(mask, scale, terms=[term], dropout=config.attention_dropout),
        "mix": Mix(heads, d_head, d_model, bias=False),
    }
    if config.recurrence == "same_layer":
        window = InputOutputWindow(d_model, config.reach, config.segment_length)
        return SameLayerAttention(**slots, remember=window, segment=config.segment_length)
    if config.remember == "keys":
        return Attention(**slots, remember=KeyValueWindow(heads, d_head, config.reach, config.segment_length))
    return InputAttention(**slots, remember=InputWindow(d_model, config.reach, config.segment_length))


def trunk(config: TransformerXLConfig, blocks: list[dict[str, nn.Module]]) -> Trunk:
    def norm() -> LayerNorm:
        return LayerNorm(config.d_model, config.eps)

    if config.recurrence == "same_layer":
        return SameLayer(blocks, norm, segment=config.segment_length, dropout=config.dropout)
    return (PostNorm if config.norm == "post" else PreNorm)(blocks, norm, dropout=config.dropout)


def feed_forward(config: TransformerXLConfig) -> FeedForward:
    return FeedForward(config.d_model, config.d_ff, activation_name="relu", dropout=config.dropout)


FOREIGN = None
"""Hugging Face has no class for it any more: folders hold our settings and our names."""


def weights(config: TransformerXLConfig) -> Table:
    """Our tensors and those of the authors' MemTransformerLM. What theirs lacks (u and v of each layer, a final norm) goes
    by names in its manner."""
    rules: list[Rule] = [Rename("tokens.weight", "word_emb.emb_layers.0.weight")]
    rules.append(Rename("head.linear.bias", "crit.out_layers.0.bias"))
    ties = [Tie("head.linear.weight", "tokens.weight", "crit.out_layers.0.weight")]
    for i in range(config.num_layers):
        ours, norms, theirs = f"trunk.blocks.{i}", f"trunk.norms.{i}", f"layers.{i}"
        maps = {
            "attention.project.linear": "dec_attn.qkv_net",
            "attention.score.terms.0.linear": "dec_attn.r_net",
            "attention.mix.linear": "dec_attn.o_net",
            "feed_forward.expand": "pos_ff.CoreNet.0",
            "feed_forward.contract": "pos_ff.CoreNet.3",
        }
        rules += [Rename(f"{ours}.{our}.weight", f"{theirs}.{their}.weight") for our, their in maps.items()]
        rules += [
            Rename(f"{ours}.{our}.bias", f"{theirs}.{maps[our]}.bias")
            for our in ("feed_forward.expand", "feed_forward.contract")
        ]
        for our, their in (("attention", "dec_attn"), ("feed_forward", "pos_ff")):
            rules += [
                Rename(f"{norms}.{our}.{part}", f"{theirs}.{their}.layer_norm.{part}") for part in ("weight", "bias")
            ]
        for our, their in (("content", "r_w_bias"), ("distance", "r_r_bias")):
            name = f"attention.score.terms.0.biases.{our}"
            if config.untie or i == 0:
                rules.append(Rename(f"{ours}.{name}", f"{theirs}.dec_attn.{their}" if config.untie else their))
            else:
                ties.append(Tie(f"{ours}.{name}", f"trunk.blocks.0.{name}", their))
    if config.norm == "pre":
        rules += [Rename(f"trunk.final_norm.{part}", f"layer_norm.{part}") for part in ("weight", "bias")]
    return Table(tuple(rules), tuple(ties))


def activations(config: TransformerXLConfig) -> list[tuple[str, str]]:
    """Modules whose outputs mean the same in ours and in the authors', in the order they run."""
    pairs = []
    for i in range(config.num_layers):
        ours, theirs = f"trunk.blocks.{i}", f"layers.{i}"
        pairs += [
            (f"{ours}.attention.project.linear", f"{theirs}.dec_attn.qkv_net"),
            (f"{ours}.attention.mix.linear", f"{theirs}.dec_attn.o_net"),
            (f"{ours}.feed_forward.expand", f"{theirs}.pos_ff.CoreNet.0"),
            (f"{ours}.feed_forward.contract", f"{theirs}.pos_ff.CoreNet.3"),
            (f"trunk.stream.{i}", theirs),
        ]
    return pairs


CONFIG, MODEL = TransformerXLConfig, TransformerXL
