"""AdamW or Adafactor with decay groups, and its state by parameter name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from formers.errors import RunError
from formers.training.settings import TrainSettings


def decays(name: str, parameter: nn.Parameter) -> bool:
    """Whether weight decay pulls on a parameter: those with two or more axes, unless ``parameter.no_decay`` is True.

    Embeddings and tied heads decay too, as GPT-2's and nanoGPT's do (they are matrices that the loss sees through a norm);
    norms, biases, gains and temperatures do not.
    """
    return parameter.ndim >= 2 and not getattr(parameter, "no_decay", False)


def decay_names(model: nn.Module) -> frozenset[str]:
    """Names of the parameters that decay. Ask before wrapping: sharded parameters keep no attributes."""
    return frozenset(name for name, parameter in model.named_parameters() if decays(name, parameter))


def make_optimizer(
    parameters: Iterable[tuple[str, nn.Parameter]],
    decaying: frozenset[str],
    settings: TrainSettings,
    factors: Mapping[str, float] | None = None,
) -> torch.optim.Optimizer:
    """`settings.optimizer` over the named parameters that train, the decaying ones first, those that learn at another multiple
    of the rate (`factors`, by name) in groups of their own. AdamW is fused where torch can. Adafactor (1804.04235), with which
    T5 was trained, steps in proportion to the size of a weight; it keeps no momentum, and of a matrix's squares the means of
    rows and columns."""
    found: dict[tuple[bool, float], list[nn.Parameter]] = {(True, 1.0): [], (False, 1.0): []}
    for name, parameter in parameters:
        if parameter.requires_grad:
            found.setdefault((name in decaying, (factors or {}).get(name, 1.0)), []).append(parameter)
    groups = [
        {"params": members, "weight_decay": settings.weight_decay * decay, "factor": factor}
        for (decay, factor), members in found.items()
        if members
    ]
    if settings.optimizer == "adafactor":
        return torch.optim.Adafactor(groups, lr=settings.lr)
    return torch.optim.AdamW(
        groups,
        lr=settings.lr,
        betas=settings.betas,
        eps=settings.adam_eps,
        fused=all(p.device.type in ("cpu", "cuda") for group in groups for p in group["params"]),
    )


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Apply a learning rate to every group, at the group's multiple."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("factor", 1.0)


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: Mapping[Tensor, str]) -> dict[str, Tensor]:
    """The state as ``{kind}.{parameter name}``: exp_avg, exp_avg_sq and step of every parameter, whole and on the CPU.

    Where parameters are sharded, every process must call this.
    """
    return {
        f"{kind}.{names[parameter]}": whole(tensor)
        for parameter, kinds in optimizer.state.items()
        for kind, tensor in sorted(kinds.items())
    }


def load_optimizer_tensors(
    optimizer: torch.optim.Optimizer, names: Mapping[Tensor, str], tensors: Mapping[str, Tensor]
) -> None:
    """Put back what `optimizer_tensors` gave. Raises RunError that lists what is missing or left over."""
    by_name: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        kind, _, name = key.partition(".")
        by_name.setdefault(name, {})[kind] = tensor
    wanted = {names[parameter] for group in optimizer.param_groups for parameter in group["params"]}
    wrong = sorted(by_name.keys() - wanted) if by_name.keys() - wanted else []
    if wrong:
        raise RunError(f"the optimizer's state names parameters that do not train here: {', '.join(wrong)}")
    for parameter, name in names.items():
        if name in by_name:
            optimizer.state[parameter] = {
                kind: tensor.clone() if kind == "step" else like(parameter, tensor).clone()
                for kind, tensor in by_name[name].items()
            }


def whole(tensor: Any) -> Tensor:
    """A tensor whole and on the CPU. One that is so already is not copied: a checkpoint costs no memory there."""
    full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return full.detach().cpu().contiguous()


def like(parameter: Tensor, tensor: Tensor) -> Tensor:
    """`tensor` on the device of `parameter`, and sharded as it is."""
    if isinstance(parameter, DTensor):
        return distribute_tensor(tensor.to(parameter.device), parameter.device_mesh, parameter.placements)
    return tensor.to(parameter.device)
