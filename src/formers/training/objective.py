"""The one module that training compiles, wraps and calls: body, head and chunked loss in a single forward.

Calling `model.body` past a wrapper that synchronises gradients leaves them unsynchronised without a word, and calling
`model` makes logits that nobody needs; so whatever is wrapped is wrapped around this.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from formers.parts.positions import Positions
from formers.training.loss import cross_entropy, score
from formers.training.precision import autocast

Loss = Callable[[Tensor, Callable[[Tensor], Tensor], Tensor], tuple[Tensor, Tensor]]


class Objective(nn.Module):
    """Loss sum, number of targets, and what the state would become.

    model      a model of this library, or any module whose `forward(input_ids)` returns something with `.logits`
    loss       (hidden, head, targets) -> (loss sum, number of targets)
    precision  "bf16" runs the forward under autocast; weights stay as they are
    """

    def __init__(self, model: nn.Module, loss: Loss = cross_entropy, *, precision: str = "float32") -> None:
        super().__init__()
        self.model, self.loss, self.precision = model, loss, precision

    def forward(
        self,
        input_ids: Tensor,
        targets: Tensor,
        index: Tensor | None = None,
        document: Tensor | None = None,
        state: Any = None,
        *,
        scores: bool = False,
        aligned: int | None = None,
    ) -> tuple[Any, ...]:
        """All tensors Int [batch, seq]; targets of -100 have no loss. `index` None: rows are 0, 1, .. of one document;
        `aligned` as `Positions` have it.

        Returns (loss sum, targets counted, staged state or None); with `scores`, (loss of each token [batch, seq],
        whether the likeliest token was the target [batch, seq], staged state or None). Objectives with a second loss
        (objectives.py) give a dict of what they measure of it behind that.
        """
        with autocast(input_ids.device.type, self.precision):
            positions = None if index is None else Positions(index, document, aligned=aligned)
            hidden, head, staged = body_and_head(self.model, input_ids, positions, state)
            return *self.answer(hidden, head, targets, scores=scores), staged

    def answer(self, hidden: Tensor, head: Any, targets: Tensor, *, scores: bool) -> tuple[Tensor, Tensor]:
        """Loss sum and targets counted, or with `scores` the loss of each token and whether the likeliest was right."""
        return (score if scores else self.loss)(hidden, head, targets)

    second_loss: float = 0.0
    """What a second loss adds to ln V before anything is learnt."""

    def weights(self, batch: Any, device: str) -> dict[str, Tensor]:
        """What the loss of one micro-batch has to know of the whole `batch`, as arguments of `forward`."""
        return {}


def body_and_head(
    model: Any, input_ids: Tensor, positions: Positions | None, state: Any = None, **given: Any
) -> tuple[Tensor, Callable[[Tensor], Tensor], Any]:
    """Hidden states and what makes logits of them. A foreign module gives its logits, and nothing is left to do."""
    if hasattr(model, "body") and hasattr(model, "head"):
        hidden, staged = model.body(input_ids, positions, state, **given)
        return hidden, model.head, staged
    if positions is None and state is None:
        return model(input_ids).logits, nn.Identity(), None
    out = model(input_ids, positions=positions, state=state)
    return out.logits, nn.Identity(), getattr(out, "state", None)


def accepts(model: nn.Module, name: str) -> bool:
    """Whether a model takes ``positions`` or ``state``. A foreign module that does not say so takes neither."""
    return name in getattr(model, "inputs", frozenset())


def parameter_count(model: nn.Module, *, frozen: bool = False) -> int:
    """Numbers that training changes, each shared one counted once; with `frozen` those too that it holds still."""
    return sum(parameter.numel() for parameter in model.parameters() if frozen or parameter.requires_grad)


def is_float64(model: nn.Module) -> bool:
    """Whether the weights are float64, which autocast would spoil."""
    return any(parameter.dtype == torch.float64 for parameter in model.parameters())
