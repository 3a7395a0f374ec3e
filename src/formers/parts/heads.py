"""What stands on top of a body."""

from __future__ import annotations

from torch import Tensor, nn

from formers.axes import Hidden, Logits


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

    def split(self, hidden: Hidden) -> tuple[Tensor, Tensor, Tensor | None]:
        """Features, weight and bias, with `head(hidden) = features @ weight.T + bias`."""
        return self._scaled(hidden), self.linear.weight, self.linear.bias

    def _scaled(self, hidden: Hidden) -> Hidden:
        return hidden if self.scale == 1.0 else hidden * self.scale
