"""A model as the laws see it: one way to call it, whatever it is, and what it lacks.

Laws are checked on a copy in float64, in evaluation mode, its parameters shaken so that none is zero: a fresh model whose
last map is all zeros would pass every law without saying anything. The model that was given is never changed.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from formers.errors import FormersError, TargetError
from formers.parts.positions import Positions


class ModelRaised(FormersError):
    """The model itself raised, where a law only called it as it says it may be called."""


@dataclass(frozen=True)
class Answer:
    """What a call gave: logits [batch, seq, vocab], and the state to commit, if one was given."""

    logits: Tensor
    state: Any = None


@dataclass(frozen=True)
class Subject:
    """A model, and how to call it. Subclasses say how (see `adapters`).

    model       the copy that the laws work on
    original    the model that was given: read, never changed
    tolerance   for comparisons across shapes; where shapes are equal the laws ask for equality, bit for bit
    """

    model: nn.Module
    original: nn.Module
    vocab_size: int
    max_length: int | None = None
    is_fresh: bool = False
    tokenizer: Any = None
    tolerance: float = 1e-9
    notes: tuple[str, ...] = ()

    # -- what subclasses say

    def forward(self, input_ids: Tensor, positions: Positions | None, state: Any) -> Answer:
        raise NotImplementedError

    def init_state(self, batch_size: int, max_length: int) -> Any:
        raise NotImplementedError

    def commit(self, state: Any) -> Any:
        raise NotImplementedError

    def rebuild(self, seed: int) -> nn.Module | None:
        """A new model of the same configuration with fresh weights, in its own type; None where nothing tells how."""
        return None

    def anew(self, seed: int) -> nn.Module | None:
        """`rebuild`, if that gives the same modules and tensors: None where somebody changed the model after it was built."""
        with seeded(seed, self.device):
            built = self.rebuild(seed)
        return built if built is not None and _anatomy(built) == _anatomy(self.original) else None

    def set_recompute(self, on: bool) -> None:
        """Recompute activations in the backward pass."""
        raise NotImplementedError

    def set_rebuild(self, on: bool) -> None:
        """Let reversible trunks rebuild their activations in the backward pass, as they do by themselves, or keep them."""

    @property
    def rebuilds(self) -> bool:
        """Whether there are any."""
        return False

    def capabilities(self) -> dict[str, str | None]:
        """For each thing that a law may need: None where the model has it, else the reason why not."""
        raise NotImplementedError

    # -- what laws use

    def lacks(self, need: str) -> str | None:
        """Why the model lacks what a law needs; None where it does not."""
        return self._common()[need] if need in self._common() else self.capabilities()[need]

    def _common(self) -> dict[str, str | None]:
        causal = getattr(self.model, "causal", True)
        return {
            "causal": None if causal else "the model says that it is bidirectional (causal = False)",
            "tokenizer": "no tokenizer was given" if self.tokenizer is None else None,
        }

    def __call__(
        self, input_ids: Tensor, positions: Positions | None = None, state: Any = None, *, seed: int = 0
    ) -> Answer:
        """Call the model. Random numbers it draws come from `seed`; what it raises becomes ModelRaised."""
        with seeded(seed, self.device):
            try:
                return self.forward(input_ids, positions, state)
            except Exception as error:
                raise ModelRaised(f"the model raised {type(error).__name__}: {error}") from error

    def gradients(self, total: Tensor, inputs: Sequence[Tensor] | None = None) -> list[Tensor]:
        """Gradients of the scalar `total`, by default of every parameter that wants one; zeros where there is none."""
        inputs = self.parameters if inputs is None else inputs
        try:
            found = torch.autograd.grad(total, inputs, retain_graph=True, allow_unused=True)
        except RuntimeError as error:
            raise ModelRaised(f"the backward pass raised {type(error).__name__}: {error}") from error
        return [torch.zeros_like(i) if g is None else g for i, g in zip(inputs, found, strict=True)]

    @property
    def parameters(self) -> list[nn.Parameter]:
        return [p for p in self.model.parameters() if p.requires_grad]

    @property
    def device(self) -> torch.device:
        return device_of(self.model)

    def on(self, model: nn.Module) -> Subject:
        """The same, of another model of the same kind."""
        return dataclasses.replace(self, model=model)


def _anatomy(model: nn.Module) -> tuple[list[Any], list[Any]]:
    modules = [(name, type(module)) for name, module in model.named_modules()]
    return modules, [(name, tensor.shape) for name, tensor in model.state_dict().items()]


def device_of(model: nn.Module) -> torch.device:
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return torch.device("cpu")


def dtype_of(model: nn.Module) -> torch.dtype:
    """The floating type of the first parameter that has one."""
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.get_default_dtype())


# --- conditions ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def precision(dtype: torch.dtype) -> Iterator[None]:
    """Tensors that a model makes anew are of this type too, so that no law measures the rounding of a stray float32."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextlib.contextmanager
def threads(count: int | None) -> Iterator[None]:
    """That many threads, or as many as before where None: small tensors only wait for a second thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Draw from `seed`, and leave the generators as they were."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


@contextlib.contextmanager
def mode(model: nn.Module, training: bool) -> Iterator[None]:
    """Training or evaluation mode, with every module's mode and every buffer as before afterwards."""
    modes = {module: module.training for module in model.modules()}
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    model.train(training)
    try:
        yield
    finally:
        for module, was in modes.items():
            module.training = was
        with torch.no_grad():
            for buffer, was in buffers:
                buffer.copy_(was)


class NoDropout(TorchFunctionMode):
    """Every dropout of torch passes its input through, however the model calls it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if getattr(func, "__name__", "") in _DROPOUTS:
            return args[0] if args else kwargs["input"]
        place = _DROPOUT_PLACE.get(getattr(func, "__name__", ""))
        if place is not None and len(args) > place and isinstance(args[place], float):
            args = (*args[:place], 0.0, *args[place + 1 :])
        if "dropout_p" in kwargs:
            kwargs["dropout_p"] = 0.0
        return func(*args, **kwargs)


_DROPOUTS = frozenset(
    prefix + name + suffix
    for prefix in ("", "alpha_", "feature_", "feature_alpha_")
    for name in ("dropout", "dropout1d", "dropout2d", "dropout3d")
    for suffix in ("", "_")
)
_DROPOUT_PLACE = {
    "scaled_dot_product_attention": 4,
    "multi_head_attention_forward": 10,
    **dict.fromkeys(("gru", "lstm", "rnn_tanh", "rnn_relu"), 5),
}
"""Functions that drop inside, and where among their arguments the probability stands."""


class Narrowest(TorchFunctionMode):
    """Notes the narrowest floating type that any operation gave."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        narrower = (
            isinstance(result, Tensor) and result.is_floating_point() and result.dtype.itemsize < self.dtype.itemsize
        )
        if narrower:
            self.dtype = result.dtype
        return result


# --- copies ----------------------------------------------------------------------------------------------------------


def copied(model: nn.Module, dtype: torch.dtype | None = None) -> nn.Module:
    """A copy in evaluation mode, of another floating type if one is given (on the CPU where the device has no float64)."""
    try:
        twin = copy.deepcopy(model)
    except RuntimeError as error:
        raise TargetError(
            f"{type(model).__name__} cannot be copied: {error}",
            "a module that copy.deepcopy can copy",
            "keep no tensors that carry gradient history on the module; detach what it stores",
        ) from error
    if dtype is torch.float64 and device_of(model).type == "mps":
        twin = twin.to("cpu")
    return twin.eval() if dtype is None else twin.to(dtype).eval()


@torch.no_grad()
def shake(model: nn.Module, seed: int) -> None:
    """Move every parameter by about a tenth of its size; those that are all zeros by 0.3 / sqrt(their width)."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if not parameter.is_floating_point():
            continue
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float32).to(parameter)
        size = parameter.pow(2).mean().sqrt()
        width = parameter.shape[-1] if parameter.ndim > 1 else 1
        parameter.add_(noise * torch.where(size > 0, 0.1 * size, 0.3 / width**0.5))
