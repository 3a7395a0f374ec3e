"""Running one model and keeping what it computed: every module's output, the logits, every parameter's gradient."""

from __future__ import annotations

import contextlib
import copy
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from formers.errors import FormersError, TargetError


@dataclass
class Trace:
    """outputs: what each module gave, in the order they finished. A module that runs again is ``name (call 2)``, the further
    tensors of one that gives several are ``name[1]``."""

    outputs: dict[str, Tensor] = field(default_factory=dict)
    logits: Tensor = field(default_factory=lambda: torch.empty(0))
    gradients: dict[str, Tensor] = field(default_factory=dict)


def in_float64(model: nn.Module) -> nn.Module:
    """A copy on the CPU, in evaluation mode; the model itself is left as it is."""
    return copy.deepcopy(model).to(device="cpu", dtype=torch.float64).eval()


def run(model: nn.Module, input_ids: Tensor, *, backward: bool = False, **inputs: Any) -> Trace:
    """One forward, and with `backward` one backward of the next-token loss. To an encoder-decoder the ids are source and text.

    Raises:
        TargetError: the model cannot be run on ids.
    """
    trace = Trace()
    with _recorded(model, trace), torch.set_grad_enabled(backward):
        try:
            trace.logits = logits_of(model(input_ids, **_source_of(model, input_ids), **inputs))
        except (RuntimeError, TypeError, ValueError, IndexError, AttributeError) as error:
            if isinstance(error, FormersError):
                raise
            raise TargetError(
                f"{type(model).__name__} cannot be run on input_ids {tuple(input_ids.shape)}: {error}",
                "forward(input_ids [batch, seq]) that gives logits, or something with .logits",
            ) from error
    if backward:
        trace.gradients = _gradients(model, trace.logits, input_ids)
    trace.logits = trace.logits.detach()
    return trace


def _source_of(model: nn.Module, input_ids: Tensor) -> dict[str, Tensor]:
    """What an encoder-decoder is given beside `input_ids`: transformers' takes the source first, and the text by name."""
    if "source" in getattr(model, "inputs", ()):
        return {"source": input_ids}
    both = getattr(getattr(model, "config", None), "is_encoder_decoder", False)
    return {"decoder_input_ids": input_ids} if both else {}


def logits_of(out: Any) -> Tensor:
    """Logits [batch, seq, vocab] of what a model returns: them, a tuple that begins with them, or something with .logits."""
    found = _tensors(out)
    if not found or found[0].ndim != 3:
        what = f"a tensor {tuple(found[0].shape)}" if found else type(out).__name__
        raise TargetError(f"the model returns {what}", "logits [batch, seq, vocab], or something with .logits")
    return found[0]


def _gradients(model: nn.Module, logits: Tensor, input_ids: Tensor) -> dict[str, Tensor]:
    """Of the mean cross-entropy of each next token; zeros where the loss does not depend on a parameter."""
    loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), input_ids[:, 1:].flatten())
    named = dict(model.named_parameters())
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    pairs = zip(named.items(), found, strict=True)
    return {name: torch.zeros_like(p) if g is None else g for (name, p), g in pairs}


@contextlib.contextmanager
def _recorded(model: nn.Module, trace: Trace) -> Iterator[None]:
    calls: Counter[str] = Counter()

    def keep(name: str) -> Any:
        def hook(module: nn.Module, arguments: Any, out: Any) -> None:
            calls[name] += 1
            again = f" (call {calls[name]})" if calls[name] > 1 else ""
            for i, tensor in enumerate(_tensors(out)):
                trace.outputs[f"{name}{f'[{i}]' if i else ''}{again}"] = tensor.detach().clone()

        return hook

    handles = [module.register_forward_hook(keep(name)) for name, module in model.named_modules() if name]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _tensors(out: Any) -> list[Tensor]:
    """The floating-point tensors of an output: itself, its logits, or those of a tuple."""
    if isinstance(out, Tensor):
        return [out] if out.is_floating_point() else []
    if isinstance(getattr(out, "logits", None), Tensor):
        return [out.logits]
    if isinstance(out, tuple | list):
        return [t for t in out if isinstance(t, Tensor) and t.is_floating_point()]
    return []
