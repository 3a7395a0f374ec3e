"""What stands on top of a body."""

from __future__ import annotations

from torch import nn

from formers.axes import Hidden, Logits


class LanguageHead(nn.Module):
    """Logits of the vocabulary: one linear map. `tie` makes its weight the token embedding's; a bias stays its own."""

    def __init__(self, d_model: int, vocab_size: int, *, bias: bool = False) -> None:
        super().__init__()
        self.linear = nn.Linear(d_model, vocab_size, bias=bias)

    def tie(self, embedding: nn.Embedding) -> None:
        """Share one weight [vocab, d_model] with the embedding; gradients of both uses add up."""
        self.linear.weight = embedding.weight

    def forward(self, hidden: Hidden) -> Logits:
        return self.linear(hidden)
