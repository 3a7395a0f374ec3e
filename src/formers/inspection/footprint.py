"""What one training step takes, before anything is allocated: the step is run on tensors that have shapes and no numbers.

Every operator of forward and backward says what it would give; a storage counts from the operator that makes it to the moment
that nothing holds it any more, as on the machine. So recomputation, reversible trunks, chunks, tied weights and carried
states need no formula of their own. Added to it is what operators take and give back within themselves.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
    unset_fake_temporarily,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from formers.errors import ConfigError

Within = Callable[..., int]
"""The arguments of an operator -> the bytes that it takes for itself while it runs."""


@dataclass
class Traffic:
    """What a step computes and moves, by kind of operator.

    products  operations of matrix products and attention (a multiplication and an addition are two)
    moved     bytes that all other operators read and write
    calls     operators called
    """

    products: float = 0.0
    moved: float = 0.0
    calls: int = 0


@dataclass(frozen=True)
class Footprint:
    """Bytes of one training step on one process.

    weights      parameters and buffers          gradients    of what learns
    optimizer    what it keeps of what learns    state        carried from step to step
    activations  what a step's largest moment holds beyond all of these, temporary tensors included
    """

    weights: int
    gradients: int
    optimizer: int
    state: int
    activations: int
    parameters: int
    traffic: Traffic

    @property
    def step(self) -> int:
        """The most that is held at once while steps are made, the program itself aside."""
        return self.weights + self.gradients + self.optimizer + self.state + self.activations

    @property
    def checkpoint(self) -> int:
        """The most that is held while a checkpoint is written: the optimizer's file is made whole in memory."""
        return self.weights + self.state + 2 * self.optimizer

    @property
    def peak(self) -> int:
        """The larger of both."""
        return max(self.step, self.checkpoint)


class Ledger(TorchDispatchMode):
    """Counts the storages that are alive, and the most that ever were.

    within  operator -> what it takes for itself
    """

    def __init__(self, within: Mapping[Any, Within]) -> None:
        super().__init__()
        self.within, self.traffic = within, Traffic()
        self.sizes: dict[int, int] = {}
        self.live, self.most = 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in _tensors(out):
            self._see(tensor.untyped_storage())
        extra = self.within.get(func) or self.within.get(func.overloadpacket)
        self.most = max(self.most, self.live + (extra(*args) if extra else 0))
        self._count(func, args, kwargs or {}, out)
        return out

    def forget_the_most(self) -> None:
        """Count the most from here on."""
        self.most = self.live

    def _see(self, storage: Any) -> None:
        key = storage._cdata
        if key not in self.sizes:
            self.sizes[key] = storage.nbytes()
            self.live += self.sizes[key]
            weakref.finalize(storage, self._gone, key)

    def _gone(self, key: int) -> None:
        self.live -= self.sizes.pop(key)

    def _count(self, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        traffic = self.traffic
        if func.overloadpacket in flop_registry:
            traffic.products += flop_registry[func.overloadpacket](*args, **kwargs, out_val=out)
        elif not _is_view(func):
            traffic.moved += sum(t.numel() * t.element_size() for t in (*_tensors(args), *_tensors(out)))
        traffic.calls += 1


def _tensors(tree: Any) -> Iterator[Tensor]:
    return (leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))


def _is_view(func: Any) -> bool:
    return any(ret.alias_info is not None and not ret.alias_info.is_write for ret in func._schema.returns)


@dataclass
class Step:
    """One micro-batch of a step.

    module    what is trained, made in the mode in which tensors have no numbers
    run       its forward -> the loss
    state     bytes that are carried
    """

    module: nn.Module
    run: Callable[[], Tensor]
    state: int = 0


@dataclass(frozen=True)
class Settings:
    """How a step is computed, as far as it matters here."""

    accumulate: int = 1
    optimizer: str = "adamw"
    within: Mapping[Any, Within] = field(default_factory=dict)


def footprint(make: Callable[[], Step], settings: Settings) -> Footprint:
    """Run a step of what `make` gives, a second micro-batch where there are several: it meets the gradients of the first.

    What has no fake tensor among its inputs is computed as it is: positions are numbers, since they decide the runner.
    """
    with Ledger(settings.within) as ledger:
        with FakeTensorMode(allow_non_fake_inputs=True):
            made = make()
        learning = [p for p in made.module.parameters() if p.requires_grad]
        weights = sum(_size(tensor) for tensor in (*made.module.parameters(), *made.module.buffers()))
        gradients = sum(_size(p) for p in learning)
        resting = ledger.live
        ledger.forget_the_most()
        for _ in range(min(2, settings.accumulate)):
            ledger.traffic = Traffic()
            _run(made)
        activations = ledger.most - resting - gradients
    return Footprint(
        weights=weights,
        gradients=gradients,
        optimizer=sum(_kept_of(p, settings.optimizer) for p in learning),
        state=made.state,
        activations=max(0, activations),
        parameters=sum(p.numel() for p in made.module.parameters()),
        traffic=ledger.traffic,
    )


def _kept_of(parameter: Tensor, optimizer: str) -> int:
    """Bytes: AdamW's two averages; of a matrix Adafactor's means of rows and of columns, of a vector one average."""
    if optimizer == "adamw":
        return 2 * _size(parameter)
    if parameter.ndim < 2:
        return _size(parameter)
    rows, columns = parameter.shape[-2:]
    return _size(parameter) // columns + _size(parameter) // rows


def _run(made: Step) -> None:
    """Forward and backward. Raises ConfigError where what they compute depends on more than shapes."""
    try:
        made.run().backward()
    except (DataDependentOutputException, DynamicOutputShapeException) as error:
        raise ConfigError(
            f"a step whose course depends on numbers, at {error.func}",
            "one that shapes decide",
            "train it for a few steps: environment.json of the run says what it took",
        ) from None


def without_numbers(build: Callable[[], nn.Module]) -> nn.Module:
    """What `build` gives, with weights that have shapes alone. Within the mode of `footprint`; what a model counts while it
    is built (tables of distances) it counts in numbers."""
    with unset_fake_temporarily(), torch.device("meta"):
        model = build()
    made: dict[int, Tensor] = {}
    for module in model.modules():
        for held in (module._parameters, module._buffers):
            for name, tensor in held.items():
                if tensor is not None and tensor.is_meta:
                    held[name] = made.setdefault(id(tensor), _fake(tensor))  # type: ignore[assignment]
    return model


def _fake(tensor: Tensor) -> Tensor:
    empty = torch.empty(tensor.shape, dtype=tensor.dtype)
    return nn.Parameter(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
