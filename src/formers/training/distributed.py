"""One process or many: torchrun starts them, this joins, wraps, adds up, and leaves.

Gradients. torch averages them over the processes, so each loss sum is divided by (targets of all processes) / world
beforehand; what arrives is the gradient of the mean over all targets, as if one process had seen them all.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel

from formers.errors import ConfigError
from formers.parts.reversible import Reversible
from formers.parts.trunk import Trunk
from formers.training.precision import compile_module

_KEPT: list[Any] = []
"""Groups that were left. If DDP's reducer were the last to hold one, its destructor would wait for a gloo thread while
holding the interpreter's lock, which that thread may need to let go of its last tensors: both then wait for ever (torch
2.13, seen in one of twenty runs)."""


@dataclass(frozen=True)
class Team:
    """The processes of a training. `writer` is the first one's process id."""

    rank: int = 0
    world: int = 1
    parallel: str = "ddp"
    writer: int = 0

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.world > 1:
            dist.barrier()

    def total(self, tensor: Tensor) -> Tensor:
        """The sum over all processes."""
        if self.world > 1:
            dist.all_reduce(tensor)
        return tensor

    def wrap(self, objective: nn.Module, *, compiled: bool) -> nn.Module:
        """Compile if asked, then wrap for many processes. The result is called in place of `objective`."""
        if self.world > 1 and self.parallel == "fsdp":
            return _shard(objective, compiled)
        if compiled:
            compile_module(objective)
        if self.world > 1:
            return DistributedDataParallel(objective, gradient_as_bucket_view=True)
        return objective

    @contextlib.contextmanager
    def synchronising(self, wrapped: nn.Module, on: bool) -> Iterator[None]:
        """Within, a backward pass adds up gradients across processes, or (off) leaves that to a later one."""
        if isinstance(wrapped, DistributedDataParallel) and not on:
            with wrapped.no_sync():
                yield
            return
        if isinstance(wrapped, FSDPModule):
            wrapped.set_requires_gradient_sync(on)
        yield


@contextlib.contextmanager
def join(parallel: str, device: str) -> Iterator[Team]:
    """The team of this process: alone, or as torchrun's variables say. Leaves the group that it joined."""
    if "WORLD_SIZE" not in os.environ or int(os.environ["WORLD_SIZE"]) == 1:
        yield Team(writer=os.getpid())
        return
    joined_here = not dist.is_initialized()
    if joined_here:
        if device.startswith("cuda"):
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    try:
        writer = torch.tensor([os.getpid()], device=device)
        dist.broadcast(writer, 0)
        yield Team(dist.get_rank(), dist.get_world_size(), parallel, int(writer))
    finally:
        if joined_here:
            _KEPT.append(dist.group.WORLD)
            dist.destroy_process_group()


def _shard(objective: nn.Module, compiled: bool) -> nn.Module:
    """Every sublayer of every trunk is a unit whose weights come and go; embeddings, head and norms stay for the step.

    Inputs are not cast: positions and states go through as they are, and autocast sees to the products.
    """
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view")  # nothing here writes in place
    policy: dict[str, Any] = {"mp_policy": MixedPrecisionPolicy(cast_forward_inputs=False)}
    for trunk in (module for module in objective.modules() if isinstance(module, Trunk)):
        if isinstance(trunk, Reversible):
            found = "a reversible trunk with its weights shared out: rebuilding reads them in the middle of the backward pass"
            raise ConfigError(found, "whole weights in every process", "--train.parallel ddp")
        for sublayer in (layer for block in trunk.blocks for layer in block.children()):
            if compiled:
                compile_module(sublayer)
            fully_shard(sublayer, **policy)
    fully_shard(objective, **policy)  # in place
    return objective
