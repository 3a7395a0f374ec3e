"""From the batch of a step to the micro-batches of this process, and the states that are carried between them.

A step's batch is the same whatever number of processes and micro-batches it is worked in: its rows are dealt out to
lanes, `world x accumulate` of them, and each lane keeps its rows, and its state, for the whole run.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from formers.errors import ConfigError, DataError
from formers.training.settings import TrainSettings

FIELDS = ("input_ids", "targets", "index", "document", "fresh")


class View(Protocol):
    """What training needs of a view of data: batches by number, each a pure function of it."""

    def batch(self, step: int) -> Any:
        """Batch number `step`, from 0: input_ids, targets, index, document [rows, seq], fresh [rows], bytes."""
        ...


@dataclass(frozen=True)
class Micro:
    """The rows of one lane as tensors. index and document are None where positions are simply 0, 1, ..; `given` is what
    batches of some objectives hold beside: token_types, pair, source_ids, source_index; or what they promise: aligned."""

    input_ids: Tensor
    targets: Tensor
    index: Tensor | None
    document: Tensor | None
    fresh: Tensor
    given: dict[str, Any] = field(default_factory=dict)

    def arguments(self) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """As Objective takes them."""
        return self.input_ids, self.targets, self.index, self.document


def step_batch(view: View, step: int, settings: TrainSettings) -> Any:
    """The batch of update number `step` (the first is 1). Raises DataError where it is not of the size asked for."""
    number = step - 1
    batch = view.batch(number % settings.overfit_batches if settings.overfit_batches else number)
    found, wanted = _read(batch).shape, (settings.batch_size, settings.seq_len)
    if tuple(found) != wanted:
        raise DataError(
            f"the view gives batches of {found[0]} rows of {found[1]} tokens",
            f"{wanted[0]} rows of {wanted[1]}, as batch_size and seq_len say",
            "make the view with the training's batch_size and seq_len",
        )
    return batch


def _read(batch: Any) -> np.ndarray:
    """What `seq_len` counts the tokens of: the source, where a batch has one."""
    return getattr(batch, "source_ids", batch.input_ids)


def lane_rows(batch: Any, lane: int, lanes: int) -> Any:
    """The rows of one lane of a batch of numpy arrays."""
    share = len(batch.input_ids) // lanes
    rows = slice(lane * share, (lane + 1) * share)
    return dataclasses.replace(batch, **{name: getattr(batch, name)[rows] for name in (*FIELDS, *_given(batch))})


def _given(batch: Any) -> tuple[str, ...]:
    return getattr(batch, "GIVEN", ())


def to_tensors(batch: Any, device: str, *, apart: bool, carried: bool) -> Micro:
    """Rows as tensors.

    apart: tokens see their own document only. carried: rows go on from a state, so `index` is the true place in the
    document; else it counts from where the row takes the document up, which is all that the model sees of it. Whole texts
    (``TextBatch``) are padded, so their index is always told.
    """
    placed = apart or carried or hasattr(batch, "GIVEN")
    promised = {"aligned": batch.aligned} if carried and getattr(batch, "aligned", None) else {}
    place = batch.index if carried else batch.place
    return Micro(
        input_ids=_tensor(batch.input_ids, device),
        targets=_tensor(batch.targets, device),
        index=_tensor(place, device) if placed else None,
        document=_tensor(batch.document, device) if apart or carried else None,
        fresh=_tensor(batch.fresh, device),
        given={name: _tensor(getattr(batch, name), device) for name in _given(batch)} | promised,
    )


def _tensor(array: np.ndarray, device: str) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(device, non_blocking=True)


def number_scored(batch: Any) -> int:
    """Targets of a whole batch that have a loss."""
    return int(np.count_nonzero(batch.targets != -100))


def number_present(batch: Any) -> int:
    """Tokens of a whole batch that are not padding, those of its sources included."""
    read = np.count_nonzero(batch.source_index >= 0) if "source_index" in _given(batch) else 0
    return int(np.count_nonzero(batch.index >= 0) + read)


@dataclass
class CarriedStates:
    """A state for each lane of this process, or none at all where rows are not carried on.

    A step reads them with `before` and stages what they become; `commit` advances all of them once the step is known to
    be good, so that a step that went wrong can be run again from where it began.
    """

    model: nn.Module | None = None
    rows: int = 0
    length: int = 0
    states: dict[int, Any] = field(default_factory=dict)
    staged: dict[int, Any] = field(default_factory=dict)

    def before(self, lane: int, fresh: Tensor) -> Any:
        """The state that this step's micro-batch starts from, its fresh rows emptied; None where none is carried."""
        if self.model is None:
            return None
        if lane not in self.states:
            self.states[lane] = self._empty()
        else:
            self.states[lane] = self.states[lane].reset(fresh)
        return self.states[lane]

    def after(self, lane: int, staged: Any) -> None:
        """What the micro-batch would make of it."""
        if self.model is not None:
            self.staged[lane] = staged

    def commit(self) -> None:
        """Advance every lane."""
        for lane, staged in self.staged.items():
            self.states[lane] = staged.commit()
        self.staged.clear()

    def tensors(self) -> dict[str, Tensor]:
        """Every carried tensor by name, for a checkpoint."""
        return {
            f"lane{lane}.{name}": tensor.detach().to("cpu", copy=True).contiguous()
            for lane, state in self.states.items()
            for name, tensor in state.tensors().items()
        }

    def restore(self, tensors: dict[str, Tensor], device: str) -> None:
        """Put back what `tensors` gave."""
        by_lane: dict[int, dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            lane, dot, name = key.partition(".")
            if dot and lane.startswith("lane"):
                by_lane.setdefault(int(lane[4:]), {})[name] = tensor.to(device)
        self.states = {lane: self._empty().from_tensors(named) for lane, named in by_lane.items()}

    def _empty(self) -> Any:
        """Nothing is promised of its length, so that the first step has the shapes of all others."""
        assert self.model is not None
        return self.model.init_state(self.rows, self.length).dynamic()  # type: ignore[operator]


def state_length(model: Any, view: Any, settings: TrainSettings) -> int:
    """Tokens that a carried state needs room for: what was asked for, the model's limit, or the longest document."""
    limit = getattr(getattr(model, "config", None), "max_length", None)
    longest = int(view.lengths.max()) if hasattr(view, "lengths") else None
    length = settings.state_length or limit or longest
    if length is None:
        raise ConfigError(
            "carry_state is on, and neither the model nor the view says how long a text can be",
            "a number of tokens",
            "set state_length",
        )
    return length
