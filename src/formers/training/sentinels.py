"""Sentinels: what silently ruins a training, said aloud with its likely cause.

Each returns a sentence (a warning), or raises where going on makes no sense.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from formers.errors import ConfigError, DataError, RunError
from formers.parts.recollection import memory_attentions
from formers.training.distributed import Team
from formers.training.settings import TrainSettings

LN_VOCAB_MARGIN = 0.1
"""How far, as a share of ln V, the first loss may be from ln V. GPT-2's initialisation is within 1%."""

OVERLAP = 0.1
"""Share of long validation lines that may also stand in training. Licence headers alone make a few hundredths."""

WATCHED_STEPS = 10
"""Steps after which a parameter that has had no gradient is called dead. Gates that start at zero wake in the second."""


def first_loss(loss: float, vocab_size: int, more: float = 0.0) -> str | None:
    """A fresh model knows nothing, so its first loss is near ln V, and `more` where it answers a second question."""
    expected = math.log(vocab_size) + more
    if abs(loss - expected) <= LN_VOCAB_MARGIN * expected:
        return None
    sum_of = f"ln({vocab_size})" + (f" + {more:.2f}" if more else "")
    found = f"The first loss is {loss:.2f} where {sum_of} = {expected:.2f} is expected of fresh weights"
    if loss > expected:
        spread = math.sqrt(2 * (loss - expected))
        return (
            f"{found}: that of logits with a standard deviation of {spread:.1f}. Look at the scale of the initial weights, "
            "the norm before the head, and the head."
        )
    return (
        f"{found}: the targets can be guessed before anything was learnt. Look for a mask that leaks, targets that are not "
        "shifted, a vocabulary larger than the text uses, or weights that are trained already."
    )


def overlap(train_view: Any, validation_view: Any) -> str | None:
    """Validation that stands in training measures memory."""
    train, validation = getattr(train_view, "shards", None), getattr(validation_view, "shards", None)
    if train is None or validation is None:
        return None
    if train.folder == validation.folder and train_view.split == validation_view.split:
        return f"Validation is the {train_view.split} split that is trained on: its loss measures memory."
    share = validation.meta.get("overlap")
    if share is None or share <= OVERLAP:
        return None
    return (
        f"{share:.0%} of the validation lines over 40 characters also stand in training: a model that learns them by heart "
        "looks better than it is."
    )


def short_memory(model: nn.Module, settings: TrainSettings) -> str | None:
    """A memory needs documents that go on."""
    if settings.carry_state or not memory_attentions(model):
        return None
    return (
        f"The model has a memory, and every row of {settings.seq_len} tokens begins anew: it will hold no more than the row. "
        "Rows that carry documents on: data.view streams, train.carry_state on."
    )


def check_tokenizers(model: Any, *views: Any, fingerprint: str | None = None) -> str | None:
    """Refuse shards of another tokenizer (than `fingerprint`, or than each other) or with ids beyond the model's.

    Returns the fingerprint, None where the views know none. Raises DataError.
    """
    vocab_size = getattr(getattr(model, "config", None), "vocab_size", None)
    for shards in (view.shards for view in views if hasattr(view, "shards")):
        fingerprint = fingerprint or shards.meta["tokenizer_fingerprint"]
        shards.check_tokenizer(fingerprint)
        if vocab_size is not None and shards.vocab_size > vocab_size:
            raise DataError(
                f"the shards in {shards.folder} have ids up to {shards.vocab_size - 1:,}, the model a vocabulary of "
                f"{vocab_size:,}",
                "a model whose vocab_size is the tokenizer's",
                f"build the model with vocab_size={shards.vocab_size}",
            )
    return fingerprint


def check_length(model: Any, seq_len: int) -> None:
    """Refuse rows longer than the model has positions for. Raises ConfigError."""
    limit = getattr(getattr(model, "config", None), "max_length", None)
    if limit is not None and seq_len > limit:
        raise ConfigError(
            f"seq_len is {seq_len}, but the model has positions for {limit}",
            f"at most {limit}",
            "set seq_len lower or the model's max_length higher",
        )


def check_rows(settings: TrainSettings, world: int) -> None:
    """Refuse a batch that cannot be dealt out evenly. Raises ConfigError."""
    lanes = world * settings.accumulate
    if settings.batch_size % lanes:
        raise ConfigError(
            f"a batch of {settings.batch_size} rows for {world} processes x {settings.accumulate} micro-batches",
            f"a multiple of {lanes}",
            f"set batch_size to {-(-settings.batch_size // lanes) * lanes}",
        )


def check_evaluation(module: nn.Module, score: Callable[[], Tensor]) -> None:
    """Refuse an evaluation that is not the same twice: dropout that runs whatever the mode. Raises RunError.

    `score` gives the losses of one batch in evaluation mode.
    """
    training = [name or "the model" for name, child in module.named_modules() if child.training]
    first, second = score(), score()
    if training or not torch.equal(first, second):
        where = f"in training mode: {', '.join(training)}" if training else "scoring one batch twice gave two results"
        raise RunError(
            f"dropout is active in evaluation ({where})",
            "evaluation without randomness",
            "pass `self.training` to F.dropout, use nn.Dropout, and change `training` by train() and eval() alone",
        )


class GradientWatch:
    """Names the parameters that got no gradient in the first steps."""

    def __init__(self, parameters: Iterable[tuple[str, nn.Parameter]], team: Team, *, last: int) -> None:
        self.waiting = {name: p for name, p in parameters if p.requires_grad}
        self.team, self.last = team, min(last, WATCHED_STEPS)

    def look(self, step: int) -> None:
        """Call after the backward pass of each step, on every process.

        Raises RunError where DDP is at work and a parameter was left out of the first backward pass: DDP adds up gradients
        by the bucket, and would leave those that share its bucket as they are.
        """
        if not self.waiting or step > self.last:
            return
        left_out = [name for name, p in self.waiting.items() if p.grad is None]
        if left_out and self.team.world > 1 and self.team.parallel == "ddp":
            raise RunError(
                f"the loss does not use these parameters: {', '.join(left_out)}",
                "every parameter in use, which DDP relies on",
                "remove them, freeze them with requires_grad_(False), or set parallel to fsdp",
            )
        flags = torch.tensor([float(_has_gradient(p)) for p in self.waiting.values()])
        flags = self.team.total(flags.to(next(iter(self.waiting.values())).device)).tolist()
        self.waiting = {name: p for (name, p), seen in zip(self.waiting.items(), flags, strict=True) if not seen}

    def verdict(self, step: int) -> str | None:
        """A sentence at the end of the watch, if some are still waiting."""
        if not self.waiting or step != self.last:
            return None
        return (
            f"No gradient reached these parameters in {step} steps: {', '.join(self.waiting)}. They are not used by the "
            "loss, cut off by detach() or no_grad(), or multiplied by zero."
        )


def _has_gradient(parameter: nn.Parameter) -> bool:
    gradient = parameter.grad
    if isinstance(gradient, DTensor):
        gradient = gradient.to_local()
    return gradient is not None and bool(gradient.any())


def find_non_finite(module: nn.Module, run: Callable[[], Tensor], *, backward: bool = True) -> str | None:
    """Where the first number that is not finite appears when `run` (forward, returning the loss) is run again.

    Weights are looked at first, then outputs in the order they are made, then (`backward`) gradients in the order of the
    backward pass. None where all is finite.
    """
    spoilt = [name for name, p in module.named_parameters() if not _finite(p)]
    if spoilt:
        return f"the weights {', '.join(spoilt)} are not finite before the step begins"
    found: list[str] = []

    def watch(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            for tensor in output if isinstance(output, tuple | list) else (output,):
                if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
                    continue
                if not _finite(tensor):
                    found.append(f"the output of {name}")
                elif tensor.requires_grad:
                    tensor.register_hook(
                        lambda grad: found.append(f"the gradient of {name}") if not _finite(grad) else None
                    )

        return hook

    handles = [child.register_forward_hook(watch(name)) for name, child in module.named_modules() if name]
    try:
        with torch.compiler.set_stance("force_eager"):
            loss = run()
            if not found and not _finite(loss):
                found.append("the loss, though every module's output is finite: the logits are too large")
            if backward and not found:
                loss.backward()
    finally:
        for handle in handles:
            handle.remove()
        module.zero_grad(set_to_none=True)
    return found[0] if found else None


def _finite(tensor: Tensor) -> bool:
    local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    return bool(torch.isfinite(local).all())
