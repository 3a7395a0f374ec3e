"""Sentence embeddings: one vector for a text, the mean of its tokens' hidden states (Reimers and Gurevych 2019, 1908.10084)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from formers.errors import ConfigError, DataError, TargetError
from formers.generation.readers import takes_source
from formers.parts.sources import Source
from formers.tasks.base import Given, Item, Pipeline
from formers.tasks.options import EmbeddingOptions
from formers.tasks.rows import Rows, each_row, warn_of_cuts
from formers.text import encode_texts


class SentenceEmbedding(Pipeline[EmbeddingOptions, Tensor]):
    """A text gives a vector [d_model], many give [texts, d_model], in float32 or finer, on the CPU.

    Special tokens count among the tokens of a text, padding never does. Encoders under any head serve, and encoder-decoders, by
    their encoder. A folder of sentence-transformers says itself how its vectors are made (pooling, length).
    """

    def check_model(self) -> None:
        super().check_model()
        if getattr(self.model, "causal", True) and not takes_source(self.model):
            raise TargetError(
                f"{type(self.model).__name__} reads a text from the left only",
                "an encoder (BERT, ALBERT, DistilBERT, ..), or an encoder-decoder",
                "name the folder of one",
            )

    def __call__(self, texts: Given | Sequence[Given], **changes: Any) -> Tensor:
        found = super().__call__(texts, **changes)
        return torch.stack(found) if isinstance(found, list) else found

    def similarity(self, texts: str | Sequence[str], others: str | Sequence[str], **changes: Any) -> Tensor:
        """Cosines [texts, others]; a lone text is a row, or a column, of one."""
        ours, theirs = (self([t] if isinstance(t, str) else t, normalise=True, **changes) for t in (texts, others))
        return ours @ theirs.T

    def answer(self, items: Sequence[Item], options: EmbeddingOptions) -> list[Tensor]:
        limit = self.limit(options.max_length, self._stored_length)
        cut: dict[str, Any] = {} if limit is None else {"max_length": limit, "truncation": "longest_first"}
        encodings = encode_texts(self.tokenizer, [item.text for item in items], **cut)
        warn_of_cuts(self.tokenizer, items, encodings, limit)
        pooling = self._pooling(options)
        for item, length in zip(items, encodings.mask.sum(1).tolist(), strict=True):
            if not length:
                raise DataError(f"text {item.place} has no token", "some text", "leave it out")

        def read(rows: Rows) -> list[Tensor]:
            hidden = self._hidden(rows)
            hidden = hidden.to(torch.promote_types(hidden.dtype, torch.float32))
            vectors = hidden[:, 0] if pooling == "first" else mean_of_present(hidden, rows.present)
            return list((F.normalize(vectors, dim=-1) if options.normalise else vectors).cpu())

        return each_row(self.model, encodings, self.batch_size, read)

    def _hidden(self, rows: Rows) -> Tensor:
        if takes_source(self.model):
            return self.model.encode(Source(rows.input_ids, rows.given.get("positions"))).hidden
        return self.model.body(rows.input_ids, **rows.given)[0]

    @property
    def _stored_length(self) -> int | None:
        length = self.stored.get("max_seq_length")
        return length if isinstance(length, int) else None

    def _pooling(self, options: EmbeddingOptions) -> str:
        """ "mean" or "first". Raises ConfigError where the folder asks for another."""
        if options.pooling != "auto":
            return options.pooling
        asked = [name for name, on in self.stored.items() if name.startswith("pooling_mode_") and on is True]
        known = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "first"}
        if not asked:
            return "mean"
        if len(asked) > 1 or asked[0] not in known:
            raise ConfigError(f"the folder asks for {', '.join(asked)}", " or ".join(known), "say pooling='mean'")
        return known[asked[0]]


def mean_of_present(hidden: Tensor, present: Tensor) -> Tensor:
    """The mean [batch, d_model] of the hidden states [batch, seq, d_model] where a token is present [batch, seq]."""
    there = present[..., None]
    return hidden.where(there, 0).sum(1) / there.sum(1)
