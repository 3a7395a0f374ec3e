"""What stands on top of a body: logits of the next token, of a masked one, or labels of a token, a span, a row.

Every head is called with hidden states [batch, seq, d_model]; those that read a row by its first token also take the
positions that say where it is. Heads of tokens that end in one matrix product `split` there, so that their loss is made in
chunks (training/loss.py).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from formers.axes import Hidden, Logits
from formers.errors import ConfigError
from formers.parts.norms import LayerNorm
from formers.parts.positions import Positions

Rows = Float[Tensor, "batch d_model"]
Split = tuple[Tensor, Tensor, Tensor | None]


class LanguageHead(nn.Module):
    """Logits of the vocabulary: one linear map. `tie` makes its weight the token embedding's; a bias stays its own.

    scale  of the hidden states before the map: d_model^-1/2 where it is tied to embeddings of standard deviation 1 (T5,
           1910.10683; meliad)
    """

    def __init__(self, d_model: int, vocab_size: int, *, bias: bool = False, scale: float = 1.0) -> None:
        super().__init__()
        self.linear, self.scale = nn.Linear(d_model, vocab_size, bias=bias), scale

    def tie(self, embedding: nn.Embedding) -> None:
        """Share one weight [vocab, d_model] with the embedding; gradients of both uses add up."""
        self.linear.weight = embedding.weight

    def forward(self, hidden: Hidden) -> Logits:
        return self.linear(self._scaled(hidden))

    def split(self, hidden: Hidden) -> Split:
        """Features, weight and bias, with `head(hidden) = features @ weight.T + bias`."""
        return self._scaled(hidden), self.linear.weight, self.linear.bias

    def _scaled(self, hidden: Hidden) -> Hidden:
        return hidden if self.scale == 1.0 else hidden * self.scale


class MaskedTokenHead(nn.Module):
    """Logits of the token that stood where one is masked: linear(norm(f(transform(hidden)))) (BERT, 1810.04805, A.1).

    `width` is that of the token embedding, whose weight `tie` makes the last map's; its bias [vocab] is its own.
    """

    def __init__(
        self,
        d_model: int,
        vocab_size: int,
        *,
        activation: Callable[[Tensor], Tensor],
        eps: float,
        width: int | None = None,
    ) -> None:
        super().__init__()
        width = width or d_model
        self.transform, self.activation = nn.Linear(d_model, width), activation
        self.norm = LayerNorm(width, eps)
        self.linear = nn.Linear(width, vocab_size)

    def tie(self, embedding: nn.Embedding) -> None:
        """Share one weight [vocab, width] with the embedding; gradients of both uses add up."""
        self.linear.weight = embedding.weight

    def forward(self, hidden: Hidden) -> Logits:
        return self.linear(self._features(hidden))

    def split(self, hidden: Hidden) -> Split:
        """Features, weight and bias, with `head(hidden) = features @ weight.T + bias`."""
        return self._features(hidden), self.linear.weight, self.linear.bias

    def _features(self, hidden: Hidden) -> Tensor:
        return self.norm(self.activation(self.transform(hidden)))


class TokenHead(nn.Module):
    """Logits of labels for every token: linear(dropout(hidden)). With two labels, of where a span starts and ends."""

    def __init__(self, d_model: int, num_labels: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.linear, self.dropout = nn.Linear(d_model, num_labels), dropout

    def forward(self, hidden: Hidden) -> Float[Tensor, "batch seq labels"]:
        return self.linear(F.dropout(hidden, self.dropout, self.training))

    def split(self, hidden: Hidden) -> Split:
        """Features, weight and bias, with `head(hidden) = features @ weight.T + bias`."""
        return F.dropout(hidden, self.dropout, self.training), self.linear.weight, self.linear.bias


class Pooler(nn.Module):
    """f(linear(first token of the row)): what stands for a row as a whole. f is tanh in BERT, ReLU in DistilBERT.

    width    of what it gives; d_model where None        dropout  of what it reads
    """

    def __init__(
        self,
        d_model: int,
        width: int | None = None,
        *,
        activation: Callable[[Tensor], Tensor] = torch.tanh,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.linear, self.activation, self.dropout = nn.Linear(d_model, width or d_model), activation, dropout

    def forward(self, hidden: Hidden, positions: Positions | None = None) -> Float[Tensor, "batch width"]:
        first = F.dropout(first_token(hidden, positions), self.dropout, self.training)
        return self.activation(self.linear(first))


class RowHead(nn.Module):
    """Logits [batch, labels] of a text, or of a pair of them: linear(dropout(pool(hidden)))."""

    def __init__(self, pool: Pooler, num_labels: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.pool, self.linear = pool, nn.Linear(pool.linear.out_features, num_labels)
        self.dropout = dropout

    def forward(self, hidden: Hidden, positions: Positions | None = None) -> Float[Tensor, "batch labels"]:
        return self.linear(F.dropout(self.pool(hidden, positions), self.dropout, self.training))


class PretrainingHead(nn.Module):
    """Two heads on one body: masked tokens, which are its logits, and a pair of sentences, which `pair` labels."""

    def __init__(self, tokens: MaskedTokenHead, pair: RowHead) -> None:
        super().__init__()
        self.tokens, self.pair = tokens, pair

    def tie(self, embedding: nn.Embedding) -> None:
        """Share one weight [vocab, width] with the embedding; gradients of both uses add up."""
        self.tokens.tie(embedding)

    def forward(self, hidden: Hidden) -> Logits:
        return self.tokens(hidden)

    def split(self, hidden: Hidden) -> Split:
        """Features, weight and bias, with `head(hidden) = features @ weight.T + bias`."""
        return self.tokens.split(hidden)


def first_token(hidden: Hidden, positions: Positions | None = None) -> Rows:
    """The hidden state of each row's first token, which padding on the left moves. None: no row is padded on the left.

    Raises ConfigError for rows of no tokens, and where rows are packed with documents: each has a first token of its own.
    """
    if not hidden.shape[1]:
        raise ConfigError("a row of no tokens, for a head that reads each row by its first", "at least one token a row")
    if positions is None or positions.start is not None:
        return hidden[:, 0]
    if positions.document is not None:
        raise ConfigError(
            "documents packed into rows, for a head that reads each row by its first token",
            "a text a row, and positions without documents",
        )
    at = positions.present.long().argmax(-1).expand(hidden.shape[0])
    return hidden[torch.arange(hidden.shape[0], device=hidden.device), at]
