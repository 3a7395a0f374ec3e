"""What encoders that read a text from both sides share: the base of their models, and their block."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import nn

from formers.axes import Hidden
from formers.parts.attention import Attention, Mix, Project, Score, initialise_normal, scale_of
from formers.parts.embeddings import TextEmbedding
from formers.parts.feed_forward import FeedForward
from formers.parts.heads import Pooler, PretrainingHead, RowHead
from formers.parts.masks import Everything, SameDocument
from formers.parts.model import Model, Output
from formers.parts.positions import Positions
from formers.parts.states import StagedState


class Encoder(Model):
    """A model whose every token sees the whole text. It keeps no state.

    What its head is, its config says: `head` names one of the model's `HEADS`, `num_labels` and `labels` belong to heads
    that label. `body` gives hidden states [batch, seq, d_model] under every head, and ``head(hidden)`` logits of them;
    heads that read a row by its first token take ``head(hidden, positions)``, and without positions read token 0.
    """

    inputs: ClassVar[frozenset[str]] = frozenset({"positions"})
    causal: ClassVar[bool] = False
    embedding: TextEmbedding

    def complete(self, head: nn.Module, seed: int) -> None:
        """The head, tied to the tokens where it can be, and first weights: N(0, init_std), biases 0 (BERT, A.2)."""
        self.head = head
        if hasattr(head, "tie"):
            head.tie(self.embedding.tokens)  # type: ignore[operator]
        self.law_exceptions = law_exceptions(head)
        if not self.embedding.tokens.weight.is_meta:
            with torch.no_grad():
                initialise_normal(self, self.config.init_std, torch.Generator().manual_seed(seed))

    def answer(self, hidden: Hidden, positions: Positions | None, staged: StagedState | None) -> Output:
        if isinstance(self.head, RowHead | Pooler):
            return Output(self.head(hidden, positions))
        if isinstance(self.head, PretrainingHead):
            return Output(self.head(hidden), pair=self.head.pair(hidden, positions))
        return Output(self.head(hidden))


def law_exceptions(head: nn.Module) -> dict[str, str]:
    """The laws that say nothing of a model with this head, and why."""
    exceptions = {}
    if isinstance(head, RowHead | Pooler | PretrainingHead):
        exceptions["documents stay apart"] = "its head reads a row by its first token, so a row is one text"
    if isinstance(head, Pooler | nn.Identity):
        exceptions["first loss near ln V"] = "it is a body without a head, and gives no logits"
    return exceptions


def encoder_block(config: Any) -> dict[str, nn.Module]:
    """Attention to the whole text, then a feed-forward, both with biases (Vaswani et al., 1706.03762, section 3.1).

    config  has d_model, num_heads, d_ff, activation and attention_dropout
    """
    d_model, heads, d_head = config.d_model, config.num_heads, config.d_model // config.num_heads
    attention = Attention(
        project=Project(d_model, heads, d_head, bias=True),
        score=Score(Everything() & SameDocument(), scale_of(d_head), dropout=config.attention_dropout),
        mix=Mix(heads, d_head, d_model, bias=True),
    )
    feed_forward = FeedForward(d_model, config.d_ff, activation_name=config.activation)
    return {"attention": attention, "feed_forward": feed_forward}
