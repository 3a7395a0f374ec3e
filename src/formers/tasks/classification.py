"""Labels of a text, or of a pair of texts, with their probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from formers.tasks.base import Item, Pipeline
from formers.tasks.options import LabelOptions
from formers.tasks.results import Label
from formers.tasks.rows import Rows, each_row, outputs, probabilities, warn_of_cuts
from formers.text import encode_texts

PROBLEMS = {
    "single_label_classification": "softmax",
    "multi_label_classification": "sigmoid",
    "regression": "none",
}
"""What the `problem_type` of a Hugging Face folder means for logits."""

FOLLOWS = ("follows", "does not follow")
"""What heads that were trained on pairs of sentences say of the second one: BERT's next sentence, ALBERT's order."""


class TextClassification(Pipeline[LabelOptions, list[Label]]):
    """A text, or a pair of texts, gives its labels, the most probable first.

    What has more tokens than the model has positions is cut at its end, of a pair the longer one, with a warning.
    """

    def answer(self, items: Sequence[Item], options: LabelOptions) -> list[list[Label]]:
        paired = [place for place, item in enumerate(items) if item.second is not None]
        alone = [place for place, item in enumerate(items) if item.second is None]
        found: dict[int, list[Label]] = {}
        for places in filter(None, (paired, alone)):  # the two are framed differently
            found |= dict(zip(places, self._labels([items[place] for place in places], options), strict=True))
        return [found[place] for place in range(len(items))]

    def _labels(self, items: Sequence[Item], options: LabelOptions) -> list[list[Label]]:
        limit = self.limit(options.max_length)
        seconds = [item.second for item in items if item.second is not None] or None
        cut: dict[str, Any] = {} if limit is None else {"max_length": limit, "truncation": "longest_first"}
        encodings = encode_texts(self.tokenizer, [item.text for item in items], seconds, **cut)
        warn_of_cuts(self.tokenizer, items, encodings, limit)

        def read(rows: Rows) -> list[list[float]]:
            return self._scores(self.logits(rows), options).tolist()

        scores = each_row(self.model, encodings, self.batch_size, read)
        return [self._ranked(row)[: options.top_k] for row in scores]

    def logits(self, rows: Rows) -> Tensor:
        """[batch, labels]."""
        return outputs(self.model, rows).logits

    def _scores(self, logits: Tensor, options: LabelOptions) -> Tensor:
        scoring = options.scoring
        if scoring == "auto":
            alone = "sigmoid" if logits.shape[-1] == 1 else "softmax"
            scoring = PROBLEMS.get(str(self.stored.get("problem_type")), alone)
        if scoring == "none":
            return logits.to(torch.promote_types(logits.dtype, torch.float32)).cpu()
        return probabilities(logits, sigmoid=scoring == "sigmoid")

    def _ranked(self, scores: Sequence[float]) -> list[Label]:
        labels = [Label(name, score) for name, score in zip(self.labels, scores, strict=True)]
        return sorted(labels, key=lambda label: -label.score)


class PairClassification(TextClassification):
    """The same for pairs alone. Heads that were pretrained on pairs of sentences say whether the second follows the first."""

    @property
    def labels(self) -> tuple[str, ...]:
        trained = self.model.config.head == "sequence" or self.model.config.labels
        return super().labels if trained else FOLLOWS

    def logits(self, rows: Rows) -> Tensor:
        out = outputs(self.model, rows)
        return out.logits if out.pair is None else out.pair
