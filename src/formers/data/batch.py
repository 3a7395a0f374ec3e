"""A batch: what a model reads, what it is to predict, and where each token stands."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from formers.data.shards import LENGTH, START, Shards

if TYPE_CHECKING:
    import torch

NO_TARGET = -100
PADDING = -1


@dataclass(frozen=True)
class Batch:
    """Numpy arrays, int64 [batch, seq] where nothing else is said.

    Attributes:
        input_ids: tokens; 0 at padding.
        targets: the next token of the same document, end_of_text included; -100 where nothing is scored.
        index: the place of the token in its document, from 0; -1 is padding. What counts as the document is for each
            view to say.
        document: which document (row of ``shards.documents``), so distinct documents differ; -1 is padding.
        fresh: bool [batch], False where the row goes on from the same row of the step before, so that a state carries
            over.
        bytes: the bytes of UTF-8 that all scored targets stand for. end_of_text stands for none, the first token of a
            document (which nothing predicts) is not among the targets. Divide nats by ``bytes * ln 2`` for bits per
            byte.
        aligned: every row goes on one by one from a multiple of this, with padding behind at most; None: not so.
    """

    input_ids: np.ndarray
    targets: np.ndarray
    index: np.ndarray
    document: np.ndarray
    fresh: np.ndarray
    bytes: int
    aligned: int | None = field(default=None, kw_only=True)

    @cached_property
    def place(self) -> np.ndarray:
        """`index` counted from where the row takes the document up: for position tables shorter than a document, with
        models that see nothing but the row. -1 is padding."""
        column = np.broadcast_to(np.arange(self.index.shape[1]), self.index.shape)
        begins = np.ones_like(self.index, dtype=bool)
        begins[:, 1:] = self.document[:, 1:] != self.document[:, :-1]
        start = np.maximum.accumulate(np.where(begins, column, 0), axis=1)
        return np.where(self.index < 0, PADDING, column - start)

    @property
    def scored(self) -> int:
        """How many targets are scored."""
        return int(np.count_nonzero(self.targets != NO_TARGET))

    def torch(self, device: torch.device | str | None = None) -> TorchBatch:
        """The same as tensors on `device`."""
        import torch

        def tensor(array: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(array).to(device)

        return TorchBatch(
            input_ids=tensor(self.input_ids),
            targets=tensor(self.targets),
            index=tensor(self.index),
            document=tensor(self.document),
            fresh=tensor(self.fresh),
            place=tensor(self.place),
            bytes=self.bytes,
            scored=self.scored,
        )


@dataclass(frozen=True)
class TorchBatch:
    """A :class:`Batch` as tensors."""

    input_ids: torch.Tensor
    targets: torch.Tensor
    index: torch.Tensor
    document: torch.Tensor
    fresh: torch.Tensor
    place: torch.Tensor
    bytes: int
    scored: int


@dataclass(frozen=True)
class Spans:
    """Stretches of documents and where they lie in a batch: int64 arrays with one entry a stretch.

    Attributes:
        row, column: where the stretch begins in the batch.
        document, first, count: inputs first..first+count-1 of this document.
        index: the index that its first token is given.
        scored_from: how many of its first inputs have their targets scored elsewhere.
    """

    row: np.ndarray
    column: np.ndarray
    document: np.ndarray
    first: np.ndarray
    count: np.ndarray
    index: np.ndarray
    scored_from: np.ndarray

    @classmethod
    def of(cls, **arrays: np.ndarray) -> Spans:
        """Spans whose unnamed arrays are zero."""
        zeros = np.zeros_like(arrays["document"])
        return cls(**{name: arrays.get(name, zeros) for name in cls.__dataclass_fields__})


def assemble(shards: Shards, spans: Spans, fresh: np.ndarray, seq_len: int) -> Batch:
    """The batch that `spans` describe: inputs, and as target of each the next token of its document, if there is one.

    Args:
        fresh: bool [batch].
    """
    shape = (len(fresh), seq_len)
    along = np.arange(spans.count.sum()) - np.repeat(np.cumsum(spans.count) - spans.count, spans.count)

    def spread(values: np.ndarray) -> np.ndarray:
        return np.repeat(values, spans.count)

    place = spread(spans.first) + along
    address = spread(shards.documents[spans.document, START]) + place
    is_scored = place + 1 < spread(shards.documents[spans.document, LENGTH])
    is_scored &= along >= spread(spans.scored_from)
    next_ids = shards.tokens[address[is_scored] + 1].astype(np.int64)
    cells = spread(spans.row * seq_len + spans.column) + along
    return Batch(
        input_ids=_filled(shape, 0, cells, shards.tokens[address]),
        targets=_filled(shape, NO_TARGET, cells[is_scored], next_ids),
        index=_filled(shape, PADDING, cells, spread(spans.index) + along),
        document=_filled(shape, PADDING, cells, spread(spans.document)),
        fresh=fresh,
        bytes=int(shards.token_bytes[next_ids].sum()),
    )


def _filled(shape: tuple[int, int], default: int, cells: np.ndarray, values: np.ndarray) -> np.ndarray:
    array = np.full(shape, default, dtype=np.int64)
    array.reshape(-1)[cells] = values
    return array
