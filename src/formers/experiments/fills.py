"""What a model that fills gaps writes into a few texts of validation, always the same ones."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from torch import nn

from formers.data import MaskedTokens, SentencePairs, Shards, SourceBatch, SourceToTarget, SpanCorruption, View
from formers.data.corruption import restore
from formers.parts.positions import Positions
from formers.recipes import TrainSettings

NUM_FILLS, MOST = 3, 128
"""How many texts, and tokens of each."""


def fill(model: nn.Module, shards: Shards, train: TrainSettings) -> list[tuple[str, str]]:
    """(a text with gaps, the same with what the model says stood there) pairs; of sources, what it writes."""
    sizes = {"split": "validation", "batch_size": NUM_FILLS, "seq_len": min(train.seq_len, MOST)}
    if train.objective == "span_corruption":
        return _write(model, SpanCorruption(shards, share=train.masked_share, mean_span=train.mean_span, **sizes))
    if train.objective == "source_to_target":
        with warnings.catch_warnings(action="ignore"):  # of texts that are cut the training's own view has spoken
            return _write(model, SourceToTarget(shards, rows="every", **sizes))
    masked = {"masking": train.masking, "share": train.masked_share}
    if train.objective in ("next_sentence", "sentence_order"):
        return _guess(model, SentencePairs(shards, pairs="order", **masked, **sizes))
    return _guess(model, MaskedTokens(shards, **masked, **sizes))


def _guess(model: Any, view: View) -> list[tuple[str, str]]:
    """The likeliest token wherever one was chosen, each by itself."""
    batch, device = view.batch(0), next(model.parameters()).device
    given = {
        name: torch.from_numpy(getattr(batch, name)).to(device) for name in ("token_types",) if hasattr(batch, name)
    }
    ids, index = (torch.from_numpy(array).to(device) for array in (batch.input_ids, batch.index))
    with torch.no_grad():
        likeliest = model(ids, positions=Positions(index), **given).logits.argmax(-1).cpu().numpy()
    filled = np.where(batch.targets >= 0, likeliest, batch.input_ids)
    rows = zip(batch.input_ids, filled, batch.index >= 0, strict=True)
    return [(_text(view, ids[place]), _text(view, said[place])) for ids, said, place in rows]


def _write(model: Any, view: SpanCorruption | SourceToTarget) -> list[tuple[str, str]]:
    """The likeliest token after the likeliest token, from the source alone; of span corruption, put into the gaps."""
    from formers.generation.loop import complete
    from formers.generation.settings import GenerateSettings

    batch = view.batch(0)
    assert isinstance(batch, SourceBatch)
    sources = [ids[index >= 0] for ids, index in zip(batch.source_ids, batch.source_index, strict=True)]
    sources = [source for source in sources if len(source)]
    end = view.shards.tokenizer.end_of_text
    settings = GenerateSettings(max_new_tokens=MOST, temperature=0.0, stop_tokens=() if end is None else (end,))
    written = complete(model, [source.tolist() for source in sources], settings=settings).new
    said = [np.array(ids, dtype=np.int64) for ids in written]
    if isinstance(view, SpanCorruption):
        said = [restore(*pair, view.sentinels, view.end) for pair in zip(sources, said, strict=True)]
    return [(_text(view, source), _text(view, ids)) for source, ids in zip(sources, said, strict=True)]


def _text(view: View, ids: np.ndarray) -> str:
    tokenizer = view.shards.tokenizer
    frame = {tokenizer.role("start"), tokenizer.role("separator"), tokenizer.end_of_text} - {None}
    return tokenizer.decode([i for i in ids.tolist() if i not in frame], show_special=True)
