"""Which rows an objective is trained and evaluated on: the views of ``formers.data`` by the names of settings."""

from __future__ import annotations

from typing import Any

import numpy as np

from formers.data import MaskedTokens, SentencePairs, Shards, SourceToTarget, SpanCorruption, View, unigram_counts
from formers.data.masking import Letters
from formers.errors import ConfigError
from formers.recipes import TrainSettings

MASKED = ("masked_token", "next_sentence", "sentence_order", "replaced_token")


def text_view(shards: Shards, train: TrainSettings, rows: str, **settings: Any) -> View:
    """The view of an objective other than next_token. rows: windows, packed or every; `settings` as every view takes them.

    Raises ConfigError for rows that the objective does not have, DataError for shards that it cannot be made of.
    """
    masked = {"masking": train.masking, "share": train.masked_share}
    if rows == "streams":
        raise ConfigError(
            f"objective {train.objective!r} with rows that carry documents on",
            "view windows or packed: whole texts have no state",
            "--text.view windows",
        )
    if train.objective in ("masked_token", "replaced_token"):
        return MaskedTokens(shards, rows=rows, **masked, **settings)
    if train.objective in ("next_sentence", "sentence_order"):
        pairs = "next" if train.objective == "next_sentence" else "order"
        return SentencePairs(shards, rows=rows, pairs=pairs, **masked, **settings)
    if train.objective == "span_corruption":
        return SpanCorruption(shards, rows=rows, share=train.masked_share, mean_span=train.mean_span, **settings)
    return SourceToTarget(shards, rows=rows, target_len=train.target_len, **settings)


def unigram_loss(shards: Shards) -> float:
    """Nats a masked validation token costs a model that knows nothing but how often each token stands in training (add one).

    Of all tokens that may be masked, since each of them is masked as often as any other.
    """
    text = Letters(shards.tokenizer).text
    counts = np.where(text, unigram_counts(shards) + 1, 0)
    there = np.where(text, unigram_counts(shards, "validation"), 0)
    chances = counts / counts.sum()
    seen = there > 0
    return float(-(there[seen] * np.log(chances[seen])).sum() / max(1, there.sum()))


def text_baselines(shards: Shards, objective: str) -> dict[str, float]:
    """What needs no training, by name, as evaluation rows hold it."""
    return {"unigram_loss": unigram_loss(shards)} if objective in MASKED else {}
