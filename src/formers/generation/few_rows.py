"""Linear maps for steps, which read every weight of a model for one row of activations a text.

``F.linear`` is made for many rows. For few of them on a CPU the same products come faster in other ways, measured with the
weights of GPT-2 124M on one core of a Xeon with AVX-512 and AMX, milliseconds for all of them:

    rows  type      F.linear   addmv   oneDNN   oneDNN, weights packed   (packing them, once)
       1  float32         32      32       35              34                    230
       1  bfloat16        28      20       28              19                    100
       8  float32         91               56              46                    230
       8  bfloat16        30               29              19                    100

`stepper_of` makes a copy of a model in which the fastest stand; it shares every parameter, buffer and hook with the model.
"""

from __future__ import annotations

import functools

import psutil
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from formers.parts.norms import RMSNorm
from formers.processors import onednn_multiplies

MOST_ROWS = 64
"""Beyond so many rows ``F.linear`` is as good."""

PACK_FROM = 32
"""New tokens from which packing pays: 230 ms once against 10 ms a token."""


class FewRows(nn.Module):
    """The map of a linear layer, x -> x W^T + b, fast for few rows. It holds the layer's own parameters.

    pack   keep a second copy of the weight in the layout of oneDNN
    """

    def __init__(self, linear: nn.Linear, *, pack: bool) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias
        self._onednn = onednn_multiplies(linear.weight.dtype)
        self._layout: Tensor | None = None if pack and self._onednn else linear.weight  # packed when it is first needed

    def forward(self, x: Tensor) -> Tensor:
        *batch, width = x.shape
        if x.numel() == width:
            row = x.reshape(width)
            y = torch.mv(self.weight, row) if self.bias is None else torch.addmv(self.bias, self.weight, row)
        elif self._onednn and x.numel() <= MOST_ROWS * width:
            if self._layout is None:
                self._layout = torch.ops.mkldnn._reorder_linear_weight(self.weight.detach())
            y = torch.ops.mkldnn._linear_pointwise(x, self._layout, self.bias, "none", [], "")
        else:
            y = F.linear(x, self.weight, self.bias)
        return y.view(*batch, -1)


class OneCallNorm(nn.Module):
    """What an RMSNorm gives, bit for bit, by one call of torch in place of seven. It holds the norm's own weight."""

    def __init__(self, norm: RMSNorm) -> None:
        super().__init__()
        self.weight, self.eps = norm.weight, norm.eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


def stepper_of(model: nn.Module, batch: int, steps: int, pack: bool | None = None) -> nn.Module:
    """A copy of `model` that steps `batch` rows faster: in evaluation mode, and with the model's own tensors.

    pack   None: where `steps` are enough to earn it back, and memory for a second copy of the weights is plenty
    """
    weight = next(model.parameters(), None)
    # autocast knows F.linear, and not what would stand for it
    few = weight is not None and weight.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
    fits = weight is not None and few and 1 < batch <= MOST_ROWS and onednn_multiplies(weight.dtype)
    if fits and pack is None:
        pack = steps >= PACK_FROM and 2 * _bytes_of(model) < psutil.virtual_memory().available
    return _twin(model, few, fits and bool(pack), {})


def _bytes_of(model: nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in model.parameters())


def _twin(module: nn.Module, few: bool, pack: bool, done: dict[nn.Module, nn.Module]) -> nn.Module:
    """The module tree anew, with other linear maps, and with less of what nn.Module does at every call and look-up.

    Nobody else holds a twin, so it needs no hooks but the module's, and never to be set to evaluation and back.
    """
    if module not in done and _is_made_by_others(module):
        done[module] = module
    if module not in done:
        original = _faster(module, pack) if few and not _is_hooked(module) else module
        children = {name: None if m is None else _twin(m, few, pack, done) for name, m in module._modules.items()}
        kind = type(original) if _is_hooked(module) else _direct(type(original))
        twin = done[module] = kind.__new__(kind)
        twin.__dict__.update(original.__dict__ | {"_modules": children, "training": False})
        if not _is_hooked(module):
            twin.__dict__.update({n: m for n, m in (children | original._parameters).items() if m is not None})
    return done[module]


@functools.cache
def _direct(kind: type[nn.Module]) -> type[nn.Module]:
    """The same class, but calling a module is calling its forward: hooks are not looked for at every call."""
    return type(kind.__name__, (kind,), {"__call__": kind.forward, "__module__": kind.__module__})


def _faster(module: nn.Module, pack: bool) -> nn.Module:
    """What stands for the module in steps, the module itself where nothing is faster."""
    if type(module) is nn.Linear and type(module.weight) is nn.Parameter:
        return FewRows(module, pack=pack)
    if type(module) is RMSNorm and type(module.weight) is nn.Parameter:
        return OneCallNorm(module)
    return module


def _is_hooked(module: nn.Module) -> bool:
    own_call = type(module).__call__ is not nn.Module.__call__
    return bool(own_call or module._forward_hooks or module._forward_pre_hooks)


def _is_made_by_others(module: nn.Module) -> bool:
    """Compiled and scripted modules know themselves by other ways than their attributes."""
    return "forward" in module.__dict__ or isinstance(module, torch.jit.ScriptModule)
