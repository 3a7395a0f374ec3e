"""Texts through an encoder: rows sorted by length, in batches with little padding, results in the order of the rows."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from formers.generation.readers import device_of, evaluating, takes_source
from formers.parts.model import Model, Output
from formers.parts.positions import Positions
from formers.parts.sources import Source
from formers.tasks.base import Item
from formers.text import Encodings, Tokenizer

T = TypeVar("T")


@dataclass(frozen=True)
class Rows:
    """A batch on the model's device.

    places     [batch], which rows of the encodings these are
    input_ids  Int [batch, seq]
    given      positions where rows differ in length, types of tokens where the model takes them, and which tokens are global
               where it takes that and answers questions
    """

    places: np.ndarray
    input_ids: Tensor
    present: Tensor
    given: dict[str, Any]

    @classmethod
    def of(cls, model: Model, encodings: Encodings, places: np.ndarray) -> Rows:
        """Rows `places` of the encodings, as long as the longest of them."""
        device, mask = device_of(model), encodings.mask[places]
        length = int(mask.sum(1).max())

        def tensor(array: np.ndarray) -> Tensor:
            return torch.from_numpy(array[places, :length]).to(device)

        given: dict[str, Any] = {}
        if not mask[:, :length].all():
            given["positions"] = Positions(tensor(encodings.index))
        if "token_types" in model.inputs and getattr(model.config, "num_types", 2) > 1:
            given["token_types"] = tensor(encodings.token_types)
        if "is_global" in model.inputs and getattr(model.config, "head", None) == "span":
            given["is_global"] = tensor(_up_to_the_question(encodings))
        return cls(places, tensor(encodings.input_ids), tensor(encodings.mask), given)

    @property
    def lengths(self) -> list[int]:
        """Tokens of each row."""
        return self.present.sum(1).tolist()


def _up_to_the_question(encodings: Encodings) -> np.ndarray:
    """Bool [rows, length]: all before the separator behind the first text, which Longformer makes global for questions."""
    length = encodings.which.shape[1]
    last = np.where(encodings.which == 0, np.arange(length), -1).max(1, keepdims=True)
    return np.arange(length) <= last


def outputs(model: Model, rows: Rows) -> Output:
    """What a model says of the texts of its rows. The decoder of an encoder-decoder reads the text that is its source once
    more, behind its start token, as T5's heads that label were trained."""
    if not takes_source(model):
        return model(rows.input_ids, **rows.given)
    starts = torch.full_like(rows.input_ids[:, :1], model.config.start_token)
    source = Source(rows.input_ids, rows.given.get("positions"))
    return model(torch.cat([starts, rows.input_ids[:, :-1]], 1), source=source, **rows.given)


def each_row(model: Model, encodings: Encodings, batch_size: int, read: Callable[[Rows], Sequence[T]]) -> list[T]:
    """What `read` gives for every row, a value a row, in the order of the rows.

    The longest rows come first: if memory runs out, it does so at once. Runs in evaluation mode without gradients.
    """
    order = np.argsort(-encodings.mask.sum(1), kind="stable")
    found: dict[int, T] = {}
    with torch.inference_mode(), evaluating(model.modules()):
        for start in range(0, len(order), batch_size):
            rows = Rows.of(model, encodings, order[start : start + batch_size])
            found.update(zip(rows.places.tolist(), read(rows), strict=True))
    return [found[place] for place in range(len(order))]


def probabilities(logits: Tensor, *, sigmoid: bool = False) -> Tensor:
    """Of the last axis, on the CPU, in float32 or finer."""
    fine = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return (fine.sigmoid() if sigmoid else fine.softmax(-1)).cpu()


def warn_of_cuts(tokenizer: Tokenizer, items: Sequence[Item], encodings: Encodings, limit: int | None) -> None:
    """Warn where texts (of pairs: both together) have more tokens than the `limit` that is read; a row an item."""
    present = encodings.mask
    specials = (present & (encodings.which < 0)).sum(1).tolist()
    cut = 0
    for item, length, special in zip(items, present.sum(1).tolist(), specials, strict=True):
        if length == limit:  # only a row that is full can have been cut
            whole = tokenizer.encode_batch([text for text in (item.text, item.second) if text is not None])
            cut += sum(map(len, whole)) + special > length
    if cut:
        these = f"{cut} of {len(items)} texts are" if len(items) > 1 else "the text is"
        warnings.warn(f"{these} longer than the {limit} tokens that are read; the rest was left out", stacklevel=2)
