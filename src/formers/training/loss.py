"""Next-token cross-entropy that never holds [batch x seq x vocab] in float32.

Where the head is linear (`logits = features @ weight.T + bias`, which covers tied heads and heads that transform first),
loss and gradients come from one pass over chunks of tokens: the logits of one chunk are turned into their own gradient in
place, `softmax(logits) - onehot(target)`, and multiplied into the gradients of features and weight at once. Nothing is
computed twice, and one chunk of logits is alive at a time. Any other head goes through `torch.utils.checkpoint`, a chunk
at a time. `full_cross_entropy` is the slow twin of both.

Measured on one busy core with AMX (4,096 tokens, d_model 384, vocabulary 8,192, bf16, forward and backward; CPU time and
memory above that of inputs and weights): 175 ms and 40 MB; `F.cross_entropy` of the whole compiled 200 ms and 80 MB, as it
comes 450 ms and 400 MB. The matrix products alone take about 100 ms. The chunks run in a custom operator that a compiler
leaves as it is: tracing through them is no faster and compiles for longer the more tokens there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

IGNORE = -100
"""Target of a token without loss (padding, the prompt of an instruction, a row without labels)."""

Head = Callable[[Tensor], Tensor]


@runtime_checkable
class LinearHead(Protocol):
    """A head that ends in one matrix product says so, and its loss is computed in one pass."""

    def split(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Features [..., d], weight [vocab, d], bias [vocab] or None, with `head(hidden) = features @ weight.T + bias`."""
        ...


def full_cross_entropy(
    hidden: Float[Tensor, "batch seq d_model"], head: Head, targets: Int[Tensor, "batch seq"]
) -> tuple[Float[Tensor, ""], Int[Tensor, ""]]:
    """The slow twin: all logits at once, in float32 or float64. Returns (sum of the losses, number of targets)."""
    logits = head(hidden)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    loss = F.cross_entropy(logits.flatten(0, -2), targets.flatten(), ignore_index=IGNORE, reduction="sum")
    return loss, (targets != IGNORE).sum()


def cross_entropy(
    hidden: Float[Tensor, "batch seq d_model"], head: Head, targets: Int[Tensor, "batch seq"]
) -> tuple[Float[Tensor, ""], Int[Tensor, ""]]:
    """Sum of the losses in nats (float32, or float64 where the weights are) and the number of targets that are not -100.

    Under autocast the products run in its dtype, softmax and sums in float32.
    """
    count = (targets != IGNORE).sum()
    split = split_head(head, hidden)
    if split is None:
        return _checkpointed(hidden.flatten(0, -2), head, targets.flatten()), count
    features, weight, bias = split[0].flatten(0, -2), split[1], split[2]
    dtype = _compute_dtype(features, weight)
    needs = torch.is_grad_enabled()
    loss, *_ = _linear_cross_entropy(
        features,
        weight,
        bias,
        targets.flatten(),
        dtype,
        needs and features.requires_grad,
        needs and weight.requires_grad,
    )
    return loss, count


@torch.no_grad()
def score(
    hidden: Float[Tensor, "batch seq d_model"], head: Head, targets: Int[Tensor, "batch seq"]
) -> tuple[Float[Tensor, "batch seq"], Bool[Tensor, "batch seq"]]:
    """Loss of each token in nats (0 where the target is -100) and whether the likeliest token is the target."""
    flat, flat_targets = hidden.flatten(0, -2), targets.flatten()
    scored = (flat_targets != IGNORE).nonzero()[:, 0]
    one = head(flat[None, :1])
    losses = flat.new_zeros(len(flat), dtype=torch.promote_types(one.dtype, torch.float32))
    correct = torch.zeros_like(flat_targets, dtype=torch.bool)
    for rows in scored.split(_chunk_rows(one.shape[-1], torch.float32)):
        logits = head(flat[None, rows])[0]
        losses[rows] = _losses(logits, flat_targets[rows])[0]
        correct[rows] = logits.argmax(-1) == flat_targets[rows]
    return losses.view(targets.shape), correct.view(targets.shape)


def split_head(head: Head, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor | None] | None:
    """Features, weight and bias of a head that ends in one matrix product; None for any other."""
    if isinstance(head, nn.Linear):
        return hidden, head.weight, head.bias
    if isinstance(head, LinearHead):
        return head.split(hidden)
    return None


def _checkpointed(flat: Tensor, head: Head, targets: Tensor) -> Tensor:
    """The same sum through any head: each chunk's logits are dropped and made again in the backward pass."""

    def chunk_loss(hidden: Tensor, chunk_targets: Tensor) -> Tensor:
        logits = head(hidden[None])[0]
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return F.cross_entropy(logits, chunk_targets, ignore_index=IGNORE, reduction="sum")

    parts = []
    for rows in _slices(len(flat), GENERAL_ROWS):
        if torch.is_grad_enabled():
            parts.append(checkpoint(chunk_loss, flat[rows], targets[rows], use_reentrant=False))
        else:
            parts.append(chunk_loss(flat[rows], targets[rows]))
    return torch.stack(parts).sum()  # type: ignore[arg-type]


# --- the one-pass operator -------------------------------------------------------------------------------------------

GENERAL_ROWS = 512
"""Tokens in a chunk where the head is not linear and its vocabulary is not known beforehand."""


def _chunk_rows(vocab_size: int, dtype: torch.dtype) -> int:
    """Tokens in a chunk. In bf16 each chunk adds a [vocab, d] product to a float32 sum, which 1,024 tokens outweigh
    ten to one; float32 and float64 add inside the product, so a chunk need only be large enough for that to be fast."""
    largest, wanted = (1 << 26, 1024) if dtype.itemsize == 2 else (1 << 23, 512)
    return max(64, min(wanted, largest // vocab_size))


def _block_rows(logits: Tensor) -> int:
    """Rows whose float32 softmax takes 2 MB, a core's cache; elsewhere than on a CPU all of them, for fewer kernels."""
    return max(1, (1 << 19) // logits.shape[-1]) if logits.device.type == "cpu" else max(1, len(logits))


def _slices(length: int, rows: int) -> Iterator[slice]:
    for start in range(0, length, rows):
        yield slice(start, min(start + rows, length))


def _halves(weight: Tensor) -> Iterator[slice]:
    """Columns of [vocab, d]. On a CPU the product of a chunk's gradient with each half takes 2.1 ms, with the whole 6.3 ms:
    1,024 tokens, vocabulary 8,192, d 384, two cores."""
    width = weight.shape[1]
    return _slices(width, -(-width // 2) if weight.device.type == "cpu" else width)


def _compute_dtype(features: Tensor, weight: Tensor) -> torch.dtype:
    device = features.device.type
    if torch.is_autocast_enabled(device) and weight.dtype != torch.float64:
        return torch.get_autocast_dtype(device)
    return torch.promote_types(features.dtype, weight.dtype)


def _safe(targets: Tensor) -> Tensor:
    return targets.clamp(min=0)


def _losses(logits: Tensor, targets: Tensor, workspace: _Workspace | None = None) -> tuple[Tensor, Tensor]:
    """Losses [rows] and probabilities [rows, vocab] in float32 or better.

    log-sum-exp is read off the softmax where it is largest, `max - log(max p)`: at least 1/vocab, so nothing underflows,
    and the softmax kernel's own sum is used once more instead of a second pass of exponentials.
    """
    wide, probabilities = (workspace or _Workspace(logits, len(logits))).softmax(logits)
    log_sum = wide.amax(-1) - probabilities.amax(-1).log()
    return log_sum - wide.gather(-1, targets[:, None]).squeeze(-1), probabilities


class _Workspace:
    """Two float32 (or float64) blocks that every block of rows is worked in: on a CPU a fresh block for each would
    cost more in page faults than the arithmetic in it (4,096 x 8,192: 39 ms against 4 ms for the cast alone)."""

    def __init__(self, logits: Tensor, rows: int) -> None:
        dtype = torch.promote_types(logits.dtype, torch.float32)
        self.wide = logits.new_empty(rows, logits.shape[-1], dtype=dtype)
        self.probabilities = torch.empty_like(self.wide)

    def softmax(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """The logits in float32 and their softmax, both overwritten by the next call."""
        wide = self.wide[: len(logits)].copy_(logits)
        return wide, torch.softmax(wide, -1, out=self.probabilities[: len(logits)])


def _into_gradient(logits: Tensor, targets: Tensor, workspace: _Workspace) -> Tensor:
    """Writes the gradient of the summed loss over `logits`, block by block; returns that sum."""
    total = workspace.wide.new_zeros(())
    for block in _slices(len(logits), len(workspace.wide)):
        scored = targets[block] != IGNORE
        index = _safe(targets[block])
        losses, probabilities = _losses(logits[block], index, workspace)
        total += (losses * scored).sum()
        probabilities.scatter_add_(1, index[:, None], -torch.ones_like(losses)[:, None])
        if logits.device.type != "cpu" or not bool(scored.all()):  # asking another device would make it wait
            probabilities *= scored[:, None]
        logits[block].copy_(probabilities)
    return total


@torch.library.custom_op("formers::linear_cross_entropy", mutates_args=())
def _linear_cross_entropy(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    dtype: torch.dtype,
    features_grad: bool,
    weight_grad: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Loss sum and its gradients with respect to features [tokens, d], weight [vocab, d] and bias [vocab]."""
    with torch.autocast(features.device.type, enabled=False):
        few = _few_scored(targets)
        if few is None:
            return _one_pass(features, weight, bias, targets, dtype, features_grad, weight_grad)
        loss, d_few, d_weight, d_bias = _one_pass(
            features[few], weight, bias, targets[few], dtype, features_grad, weight_grad
        )
        d_features = torch.zeros_like(features) if features_grad else d_few
        if features_grad:
            d_features[few] = d_few
        return loss, d_features, d_weight, d_bias


def _few_scored(targets: Tensor) -> Tensor | None:
    """Which tokens have a target, where that is less than half of them (15% of masked text): the head reads these alone.
    None where it is more, and elsewhere than on a CPU, which would wait for the answer."""
    if targets.device.type != "cpu":
        return None
    scored = (targets != IGNORE).nonzero()[:, 0]
    return scored if 2 * len(scored) < len(targets) else None


def _one_pass(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    dtype: torch.dtype,
    features_grad: bool,
    weight_grad: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    low, low_weight = features.to(dtype), weight.to(dtype)
    loss, d_features, d_weight, d_bias = _empty_results(features, weight, bias, features_grad, weight_grad)
    for total in (loss, d_weight, d_bias):
        total.zero_()
    rows = _chunk_rows(len(weight), dtype)
    buffer = low.new_empty(min(rows, len(low)), len(weight))
    workspace = _Workspace(buffer, min(_block_rows(buffer), len(buffer)))
    product = torch.empty_like(low_weight) if weight_grad and dtype != weight.dtype else None
    for chunk in _slices(len(low), rows):
        logits = torch.mm(low[chunk], low_weight.t(), out=buffer[: chunk.stop - chunk.start])
        if bias is not None:
            logits += bias.to(dtype)
        if not (features_grad or weight_grad):
            losses, _ = _losses(logits, _safe(targets[chunk]))
            loss += (losses * (targets[chunk] != IGNORE)).sum()
            continue
        loss += _into_gradient(logits, targets[chunk], workspace)
        if features_grad and dtype == features.dtype:
            torch.mm(logits, low_weight, out=d_features[chunk])
        elif features_grad:
            for columns in _halves(low_weight):
                d_features[chunk, columns] = logits @ low_weight[:, columns]
        if weight_grad and product is not None:
            d_weight += torch.mm(logits.t(), low[chunk], out=product)
        elif weight_grad:
            d_weight.addmm_(logits.t(), low[chunk])
        if weight_grad and bias is not None:
            d_bias += logits.sum(0, dtype=d_bias.dtype)
    return loss, d_features, d_weight, d_bias


def bytes_within(dtype: torch.dtype, features: Tensor, weight: Tensor, *rest: object) -> int:
    """What the operator takes for itself beside its results: a chunk of logits and its softmax, and in bf16 copies of features
    and weight, and a product. `dtype` is the one that it computes in."""
    tokens, (vocab, width) = features.shape[0], weight.shape
    rows = min(_chunk_rows(vocab, dtype), tokens)
    wide = 2 * min(max(1, (1 << 19) // vocab), rows) * vocab * 4
    if features.device.type != "cpu":
        wide = 2 * rows * vocab * 4
    copies = 0 if dtype == weight.dtype else (tokens * width + 2 * vocab * width) * dtype.itemsize
    return rows * vocab * dtype.itemsize + wide + copies


@_linear_cross_entropy.register_fake
def _shapes(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    dtype: torch.dtype,
    features_grad: bool,
    weight_grad: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _empty_results(features, weight, bias, features_grad, weight_grad)


def _empty_results(
    features: Tensor, weight: Tensor, bias: Tensor | None, features_grad: bool, weight_grad: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    loss = weight.new_empty((), dtype=torch.promote_types(weight.dtype, torch.float32))
    biased = weight_grad and bias is not None
    return (
        loss,
        features.new_empty(features.shape if features_grad else 0),
        weight.new_empty(weight.shape if weight_grad else 0),
        weight.new_empty(len(weight) if biased else 0),
    )


def _remember(ctx, inputs, output) -> None:
    _, _, bias, _, _, features_grad, weight_grad = inputs
    _, d_features, d_weight, d_bias = output
    ctx.mark_non_differentiable(d_features, d_weight, d_bias)
    ctx.set_materialize_grads(False)
    ctx.needs = features_grad, weight_grad, weight_grad and bias is not None
    ctx.save_for_backward(d_features, d_weight, d_bias)


def _backward(ctx, d_loss, *_unused):
    gradients = [
        gradient * d_loss.to(gradient.dtype) if needed else None
        for gradient, needed in zip(ctx.saved_tensors, ctx.needs, strict=True)
    ]
    return *gradients, None, None, None, None


_linear_cross_entropy.register_autograd(_backward, setup_context=_remember)
