"""The loss of a label a text: a head that reads a row as one, on rows that may hold several texts.

Heads that label every token need nothing of this: labels are their targets (`Objective`).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from formers.parts.positions import Positions
from formers.training.loss import IGNORE
from formers.training.objective import Objective, body_and_head
from formers.training.precision import autocast


class LabelObjective(Objective):
    """Cross-entropy of the label of each text, which stands among the targets at the text's first token."""

    def forward(
        self,
        input_ids: Tensor,
        targets: Tensor,
        index: Tensor | None = None,
        document: Tensor | None = None,
        state: Any = None,
        *,
        scores: bool = False,
    ) -> tuple[Any, ...]:
        """As `Objective`; the loss counts texts, not tokens."""
        with autocast(input_ids.device.type, self.precision):
            positions = None if index is None else Positions(index, document)
            hidden, head, _ = body_and_head(self.model, input_ids, positions)
            logits, labels = at_labels(hidden, head, targets), targets[targets != IGNORE]
        if not scores:
            return F.cross_entropy(logits, labels, reduction="sum"), (targets != IGNORE).sum(), None
        losses = torch.zeros(targets.shape, dtype=logits.dtype, device=targets.device)
        right = torch.zeros(targets.shape, dtype=torch.bool, device=targets.device)
        losses[targets != IGNORE] = F.cross_entropy(logits, labels, reduction="none")
        right[targets != IGNORE] = logits.argmax(-1) == labels
        return losses, right, None


def at_labels(hidden: Tensor, head: Any, targets: Tensor) -> Tensor:
    """Logits [labelled tokens, labels], in float32 or finer, of a head of tokens or of rows: each such token is handed to
    it as the first of a row of its own."""
    logits = head(hidden[targets != IGNORE][:, None]).flatten(1)
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
