"""Replay: what a forward drew and chose, it draws and chooses again when its activations are recomputed.

A recomputation that drops other neurons, or sorts a token into another bucket because a rounding fell the other way, gives
wrong gradients without any error. So a forward whose activations will be made again runs under a `Record`, and a part
that chooses (hash buckets, the k nearest, an expert) says so:

    buckets = chosen(lambda: hash_of(q))      # computed once; the recomputation is given the same tensor

Who recomputes writes

    record = Record(x.device)
    with record.recording(), torch.no_grad():
        y = sublayer(x)
    ...
    with record.replaying(), torch.enable_grad():
        y = sublayer(x)                       # dropout as before, choices as before, autocast as before

and with torch's checkpoint ``checkpoint(function, x, **recomputing(x.device))``. Records may stand in one another: a
choice of an inner forward that an outer recomputation runs is the outer record's.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import create_selective_checkpoint_contexts


def chosen(make: Callable[[], Tensor]) -> Tensor:
    """What `make` gives: a discrete choice, which has no gradient. In a recomputation, what it gave in the forward.

    `make` may draw random numbers: those that follow it are the forward's in the recomputation, too.
    """
    if torch.compiler.is_compiling():
        return _kept(make())
    frame = getattr(_active, "frame", None)
    with torch.no_grad():
        return make() if frame is None else frame.chosen(make)


def recomputing(device: torch.device) -> dict[str, Any]:
    """Arguments of ``torch.utils.checkpoint.checkpoint`` with which it recomputes as this module promises."""
    if torch.compiler.is_compiling():  # a compiler replays random numbers by itself, and keeps what the operator gave
        return {"use_reentrant": False, "context_fn": _keep_choices}
    record = Record(device)
    contexts = record.recording(), record.replaying()
    return {"use_reentrant": False, "preserve_rng_state": False, "context_fn": lambda: contexts}


class Record:
    """The random numbers, the choices and the autocast of one forward on `device`."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.random: list[Tensor] = []
        self.choices: list[tuple[Tensor, list[Tensor]]] = []  # each with the random state behind it
        self.autocast: dict[str, Any] = {}

    def recording(self) -> Recording:
        """A context for the forward."""
        return Recording(self)

    def replaying(self) -> Replaying:
        """A context for a recomputation; it can be entered any number of times. Outside, random numbers go on as if there
        had been no recomputation."""
        return Replaying(self)


class _Frame:
    """A record that is being written or read in this thread, and the one around it."""

    def __init__(self, record: Record) -> None:
        self.record = record

    def __enter__(self) -> None:
        self.outer: _Frame | None = getattr(_active, "frame", None)
        self.begin()
        _active.frame = self

    def __exit__(self, *_: object) -> None:
        _active.frame = self.outer
        self.end()

    def begin(self) -> None:
        raise NotImplementedError

    def end(self) -> None:
        pass

    def chosen(self, make: Callable[[], Tensor]) -> Tensor:
        raise NotImplementedError


class Recording(_Frame):
    """Notes choices as they are made."""

    def begin(self) -> None:
        record = self.record
        kind = record.device.type if torch.amp.is_autocast_available(record.device.type) else "cpu"
        record.random, record.choices = random_state(record.device), []
        record.autocast = {"device_type": kind, "enabled": torch.is_autocast_enabled(kind)}
        record.autocast |= {"dtype": torch.get_autocast_dtype(kind), "cache_enabled": torch.is_autocast_cache_enabled()}

    def chosen(self, make: Callable[[], Tensor]) -> Tensor:
        choice = make() if self.outer is None else self.outer.chosen(make)
        self.record.choices.append((choice, random_state(self.record.device)))
        return choice


class Replaying(_Frame):
    """Gives the choices that were noted, in their order."""

    def begin(self) -> None:
        record = self.record
        self.left: Iterator[tuple[Tensor, list[Tensor]]] = iter(record.choices)
        self.before = random_state(record.device)
        set_random_state(record.device, record.random)
        self.within = contextlib.ExitStack()
        self.within.enter_context(torch.autocast(**record.autocast))

    def end(self) -> None:
        self.within.close()
        set_random_state(self.record.device, self.before)

    def chosen(self, make: Callable[[], Tensor]) -> Tensor:
        found = next(self.left, None)
        assert found is not None, "a recomputation made more choices than its forward"
        choice, random = found
        set_random_state(self.record.device, random)
        return choice


_active = threading.local()
"""The innermost frame of this thread, if any: autograd runs the recomputations of other devices in threads of their own."""


def random_state(device: torch.device) -> list[Tensor]:
    """States of torch's generators of the CPU and of `device`."""
    if device.type in ("cpu", "meta"):
        return [torch.get_rng_state()]
    module = torch.get_device_module(device)
    state = module.get_rng_state(device) if device.type == "cuda" else module.get_rng_state()
    return [torch.get_rng_state(), state]


def set_random_state(device: torch.device, state: list[Tensor]) -> None:
    """Put back what `random_state` gave."""
    torch.set_rng_state(state[0])
    if len(state) > 1:
        module = torch.get_device_module(device)
        module.set_rng_state(state[1], device) if device.type == "cuda" else module.set_rng_state(state[1])


@torch.library.custom_op("formers::choice", mutates_args=(), schema="(Tensor choice) -> Tensor")
def _kept(choice: Tensor) -> Tensor:
    return choice.clone()


@_kept.register_fake
def _like_choice(choice: Tensor) -> Tensor:
    return torch.empty_like(choice)


_keep_choices = functools.partial(create_selective_checkpoint_contexts, [torch.ops.formers.choice.default])
"""Compiled code recomputes what it likes but keeps what the operator gave."""

logging.getLogger("torch._higher_order_ops.wrap").addFilter(
    lambda record: "context_fn is passed to torch.utils.checkpoint" not in record.getMessage()
)  # a warning that blocks may not work in place, which none does while it is compiled
