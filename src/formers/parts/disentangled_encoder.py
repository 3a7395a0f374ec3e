"""What the versions of DeBERTa share above their attention: trunk, convolution, mask decoder, heads, settings."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, ClassVar, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from formers.axes import Hidden, Ids
from formers.config import below_one, head_problems, out_of_range, uneven_heads
from formers.parts.attention import Mix, Score
from formers.parts.disentangled import TERMS, DisentangledScore, Distances, TwoStreamAttention
from formers.parts.embeddings import LearnedPositions, TextEmbedding
from formers.parts.encoder import Encoder
from formers.parts.feed_forward import ACTIVATIONS, FeedForward
from formers.parts.heads import MaskedTokenHead, Pooler, RowHead, TokenHead
from formers.parts.masks import Everything, SameDocument
from formers.parts.norms import LayerNorm
from formers.parts.positions import Positions
from formers.parts.states import Tree
from formers.parts.trunk import PostNorm

Heads: TypeAlias = Mapping[str, Callable[[Any], nn.Module]]
"""A head by its name, made of a config."""
MASK_DECODERS = ("none", "enhanced")
CURVES: dict[str, Callable[[Tensor], Tensor]] = {**ACTIVATIONS, "tanh": torch.tanh}
"""What poolers and convolutions may end in."""


# --- trunk ------------------------------------------------------------------------------------------------------------


class Convolution(nn.Module):
    """f(convolution over the tokens of a document). Padding counts as zeros, as what lies beyond the text does."""

    def __init__(self, d_model: int, width: int, *, activation: Callable[[Tensor], Tensor], dropout: float) -> None:
        super().__init__()
        self.conv = nn.Conv1d(d_model, d_model, width, padding=width // 2)
        self.activation, self.dropout = activation, dropout

    def forward(self, x: Hidden, positions: Positions) -> Hidden:
        if positions.start is None:
            x = x * positions.present[..., None]
        if positions.document is None:
            y = self.conv(x.transpose(1, 2)).transpose(1, 2)
        else:
            y = self._within(x, positions.document)
        return self.activation(F.dropout(y, self.dropout, self.training))

    def _within(self, x: Hidden, document: Tensor) -> Hidden:
        """Of packed rows: neighbours of another document count as zeros."""
        width, half = self.conv.kernel_size[0], self.conv.kernel_size[0] // 2
        around = F.pad(x, (0, 0, half, half)).unfold(1, width, 1)  # [b, t, d, width]
        same = F.pad(document, (half, half)).unfold(1, width, 1) == document[..., None]
        return F.linear((around * same[:, :, None]).flatten(2), self.conv.weight.flatten(1), self.conv.bias)


class DisentangledTrunk(PostNorm):
    """PostNorm, and what DeBERTa adds to the first block and to the last.

    convolution  behind the first block x = norm(x + convolution(what the block was given)), in versions 2
    places       of the enhanced mask decoder (section 3.2), None without it. In place of the last block,
                 z = h + places, then `steps` times z = norm(z + attention(z, h)), z = norm(z + feed_forward(z)),
                 with the last block's parameters, keys and values always of h
    """

    def __init__(
        self,
        blocks: Any,
        make_norm: Callable[[], nn.Module],
        *,
        convolution: Convolution | None = None,
        places: LearnedPositions | None = None,
        steps: int = 0,
        **settings: Any,
    ) -> None:
        super().__init__(blocks, make_norm, **settings)
        self.convolution, self.convolution_norm = convolution, None if convolution is None else make_norm()
        self.places, self.steps = places, steps

    def apply_block(
        self, i: int, x: Hidden, positions: Positions, nodes: tuple[Any, ...], source: Any
    ) -> tuple[Hidden, tuple[Any, ...]]:
        if self.places is not None and i == len(self.blocks) - 1:
            return self.decode(x, positions, self.places), nodes
        y, staged = super().apply_block(i, x, positions, nodes, source)
        if i == 0 and self.convolution is not None and self.convolution_norm is not None:
            y = self.convolution_norm(y + self.convolution(x, positions))
        return y, staged

    def decode(self, h: Hidden, positions: Positions, places: LearnedPositions) -> Hidden:
        last = len(self.blocks) - 1
        block, (after_attention, after_feed_forward) = self._block(last), self._norms(last)
        attention: Any = block["attention"]
        z = h + places(positions)
        for _ in range(self.steps):
            z = after_attention(z + self.drop(attention.between(z, h, positions)))
            z = after_feed_forward(z + self.drop(block["feed_forward"](z, positions)[0]))
        return z


# --- model ------------------------------------------------------------------------------------------------------------


class DisentangledEncoder(Encoder):
    """Base of the versions of DeBERTa. A version says its heads, and how queries, keys, values and distances are made."""

    heads: ClassVar[Heads]

    def project(self, config: Any) -> nn.Module:
        raise NotImplementedError

    def maps(self, config: Any) -> nn.Module:
        """Of distances to Kr and Qr; asked for each block."""
        raise NotImplementedError

    def distances(self, config: Any) -> Distances:
        raise NotImplementedError

    def convolution(self, config: Any) -> Convolution | None:
        return None

    def __init__(self, config: Any, *, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.inputs = frozenset({"positions", "token_types"} if config.num_types else {"positions"})  # type: ignore[misc]
        self.embedding = TextEmbedding(
            config.vocab_size,
            config.d_model,
            max_length=config.max_length if config.position_input else None,
            num_types=config.num_types,
            eps=config.eps,
            dropout=config.dropout,
        )
        distances = self.distances(config) if config.score_terms else None
        self.trunk = DisentangledTrunk(
            [self.block(config, distances) for _ in range(config.num_layers)],
            lambda: LayerNorm(config.d_model, config.eps),
            convolution=self.convolution(config),
            places=LearnedPositions(config.max_length, config.d_model) if decodes(config) else None,
            steps=config.decoder_steps,
            dropout=config.dropout,
        )
        self.complete(self.heads[config.head](config), seed)

    def block(self, config: Any, distances: Distances | None) -> dict[str, nn.Module]:
        d_model, heads, d_head = config.d_model, config.num_heads, config.d_model // config.num_heads
        scale = (d_head * (1 + len(config.score_terms))) ** -0.5
        terms = [] if distances is None else [DisentangledScore(distances, self.maps(config), scale=scale)]  # type: ignore[arg-type]
        attention = TwoStreamAttention(
            project=self.project(config),
            score=Score(Everything() & SameDocument(), scale, terms=terms, dropout=config.attention_dropout),
            mix=Mix(heads, d_head, d_model, bias=True),
        )
        feed_forward = FeedForward(d_model, config.d_ff, activation_name=config.activation)
        return {"attention": attention, "feed_forward": feed_forward}

    def run(
        self, input_ids: Ids, positions: Positions, state: None, token_types: Ids | None = None
    ) -> tuple[Hidden, Tree | None]:
        return self.trunk(self.embedding(input_ids, positions, token_types), positions)


def decodes(config: Any) -> bool:
    """Whether the enhanced mask decoder stands on top: it is of the head for masked tokens alone."""
    return config.mask_decoder == "enhanced" and config.head == "masked_token"


def problems_of(config: Any, heads: Collection[str]) -> list[str]:
    """What is wrong with the settings that all versions have."""
    sizes = ("vocab_size", "d_model", "num_layers", "num_heads", "d_ff", "max_length", "max_distance", "decoder_steps")
    problems = out_of_range(config) + below_one(config, sizes) + uneven_heads(config)
    if config.num_types < 0:
        problems.append(f"num_types is {config.num_types}, wanted 0 or more")
    if config.score_terms not in (TERMS, TERMS[:1], TERMS[1:], ()):
        problems.append(f"score_terms are {config.score_terms}, wanted {TERMS}, one of them, or none")
    for name, known in (("activation", ACTIVATIONS), ("pooler_activation", CURVES), ("mask_decoder", MASK_DECODERS)):
        if getattr(config, name) not in known:
            problems.append(f"{name} {getattr(config, name)!r} is none of {', '.join(known)}")
    if config.mask_decoder == "enhanced" and config.position_input:
        problems.append("mask_decoder 'enhanced' brings in the places that position_input brings in before: choose one")
    if config.mask_decoder == "enhanced" and config.num_layers < 2:
        problems.append(
            f"mask_decoder 'enhanced' replaces the last of at least 2 layers, num_layers is {config.num_layers}"
        )
    return problems + head_problems(config, list(heads))


# --- heads ------------------------------------------------------------------------------------------------------------


def masked_token(config: Any) -> MaskedTokenHead:
    curve = ACTIVATIONS[config.activation]
    return MaskedTokenHead(config.d_model, config.vocab_size, activation=curve, eps=config.eps)


def row(config: Any, num_labels: int) -> RowHead:
    dropout = config.dropout if config.classifier_dropout is None else config.classifier_dropout
    pool = Pooler(config.d_model, activation=CURVES[config.pooler_activation])
    return RowHead(pool, num_labels, dropout=dropout)


HEADS: Heads = {
    "masked_token": masked_token,
    "sequence": lambda c: row(c, c.num_labels),
    "token": lambda c: TokenHead(c.d_model, c.num_labels, dropout=c.dropout),
    "span": lambda c: TokenHead(c.d_model, 2),
    "none": lambda c: nn.Identity(),
}
