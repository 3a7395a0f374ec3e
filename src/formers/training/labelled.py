"""The loss of a label a text: a head that reads a row as one, on rows that may hold several texts.

Heads that label every token need nothing of this: labels are their targets (`Objective`).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from formers.training.loss import IGNORE
from formers.training.objective import Objective


class LabelObjective(Objective):
    """Cross-entropy of the label of each text, which stands among the targets at the text's first token."""

    def answer(self, hidden: Tensor, head: Any, targets: Tensor, *, scores: bool) -> tuple[Tensor, Tensor]:
        """As `Objective`'s; the loss counts texts, not tokens."""
        there = targets != IGNORE
        logits, labels = at_labels(hidden, head, targets), targets[there]
        if not scores:
            return F.cross_entropy(logits, labels, reduction="sum"), there.sum()
        losses = torch.zeros(targets.shape, dtype=logits.dtype, device=targets.device)
        right = torch.zeros(targets.shape, dtype=torch.bool, device=targets.device)
        losses[there] = F.cross_entropy(logits, labels, reduction="none")
        right[there] = logits.argmax(-1) == labels
        return losses, right


def at_labels(hidden: Tensor, head: Any, targets: Tensor) -> Tensor:
    """Logits [labelled tokens, labels], in float32 or finer, of a head of tokens or of rows: each such token is handed to
    it as the first of a row of its own."""
    logits = head(hidden[targets != IGNORE][:, None]).flatten(1)
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
