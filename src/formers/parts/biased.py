"""Attention with score terms that depend on the distance alone, trained without holding its pattern.

Where pairs of places as far apart are as far apart in their document (`positions.in_step`), what such terms add to the scores
is windows of one line, each a place further: no index for each pair is needed, and its gradient is the sum along diagonals.
torch's fused kernel does the forward pass; it has no gradient of what is added to the scores, so the backward pass makes the
pattern anew, a few heads at a time, while it stays in the cache of a CPU. All of it is one operator, to a compiler too.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from formers.parts.distance_scores import diagonals

PAIRS_AT_A_TIME = 1 << 20
"""Pairs of a query and a key whose pattern is made at once: 2 MB in bf16."""


def spread(line: Float[Tensor, "heads places"], queries: int) -> Float[Tensor, "heads queries keys"]:
    """matrix[i, j] = line[queries - 1 - i + j], with as many keys as there are places beyond queries - 1. To be read only."""
    rows = line[:, None].expand(-1, queries, -1).contiguous()
    return diagonals(rows, line.shape[1] - queries + 1)


@torch.library.custom_op(
    "formers::biased_attention",
    mutates_args=(),
    schema="(Tensor q, Tensor k, Tensor v, Tensor line, Tensor visible) -> Tensor",
)
def biased_attention(q: Tensor, k: Tensor, v: Tensor, line: Tensor, visible: Tensor) -> Tensor:
    """softmax(q k^T + spread(line)) v over the visible keys; a query that sees none yields 0.

    q, k, v [b, h, t or s, d] -> [b, h, t, d_value]; line [h, t + s - 1]; visible Bool [1 or b, 1 or h, t, s].
    """
    hidden, seeing = _hidden(visible, q.dtype)
    out = q.new_empty(*q.shape[:3], v.shape[3])
    with torch.autocast(q.device.type, enabled=False):
        for heads in _chunks(q, k):
            lines = spread(line[heads].to(q.dtype), q.shape[2])
            for rows, added in _added(lines, hidden, heads):
                here = rows, heads
                out[here] = F.scaled_dot_product_attention(q[here], k[here], v[here], attn_mask=added, scale=1.0)
    return out.masked_fill_(~seeing, 0.0)


@torch.library.custom_op(
    "formers::biased_attention_backward",
    mutates_args=(),
    schema="(Tensor gradient, Tensor q, Tensor k, Tensor v, Tensor line, Tensor visible) -> (Tensor, Tensor, Tensor, Tensor)",
)
def _gradients(
    gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, line: Tensor, visible: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of q, k, v and line."""
    hidden, seeing = _hidden(visible, q.dtype)
    gradient = gradient.masked_fill(~seeing, 0.0)
    dq, dk, dv, dline = (x.new_empty(x.shape) for x in (q, k, v, line))
    with torch.autocast(q.device.type, enabled=False):
        for heads in _chunks(q, k):
            lines = spread(line[heads].to(q.dtype), q.shape[2])
            sums = line.new_zeros(len(lines), q.shape[2], line.shape[1])
            for rows, added in _added(lines, hidden, heads):
                for row in range(len(q))[rows]:
                    here = row, heads
                    pattern = torch.baddbmm(added[0], q[here], k[here].transpose(1, 2)).softmax(-1)
                    dpattern = torch.bmm(gradient[here], v[here].transpose(1, 2))
                    dscores = torch.ops.aten._softmax_backward_data(dpattern, pattern, -1, pattern.dtype)
                    torch.bmm(dscores, k[here], out=dq[here])
                    torch.bmm(dscores.transpose(1, 2), q[here], out=dk[here])
                    torch.bmm(pattern.transpose(1, 2), gradient[here], out=dv[here])
                    diagonals(sums, k.shape[2]).add_(dscores)
            dline[heads] = sums.sum(1)
    return dq, dk, dv, dline


def _hidden(visible: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """What hides keys, to be added to scores: 0, or so low that a weight is exactly 0. And which queries see anything.

    Nothing is hidden from a query that sees nothing: its result and its gradient are set to 0 by the caller. One row stands
    for all where they are alike (on a CPU, where asking does not make it wait). Bytes, not booleans: with these `any` and
    filling by a mask take fifty times as long.
    """
    seen = visible.contiguous().view(torch.uint8)
    if len(seen) > 1 and seen.device.type == "cpu" and all(torch.equal(seen[0], row) for row in seen[1:]):
        seen = seen[:1]
    seeing = seen.amax(-1, keepdim=True)
    return (seen - seeing).view(torch.int8).to(dtype).mul_(torch.finfo(dtype).max / 2), seeing.bool()


def _added(lines: Tensor, hidden: Tensor, heads: slice) -> Iterator[tuple[slice, Tensor]]:
    """Rows of the batch, and what is added to their scores [1, heads, t, s]."""
    for row, of_row in enumerate(hidden):
        rows = slice(None) if len(hidden) == 1 else slice(row, row + 1)
        yield rows, (lines + (of_row if len(of_row) == 1 else of_row[heads]))[None]


def _chunks(q: Tensor, k: Tensor) -> Iterator[slice]:
    """Runs of heads of which so many pairs are held."""
    many = max(1, PAIRS_AT_A_TIME // max(1, q.shape[2] * k.shape[2]))
    for first in range(0, q.shape[1], many):
        yield slice(first, min(first + many, q.shape[1]))


@biased_attention.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, line: Tensor, visible: Tensor) -> Tensor:
    return q.new_empty(*q.shape[:3], v.shape[3])


@_gradients.register_fake
def _(
    gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, line: Tensor, visible: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    a, b, c, d = (x.new_empty(x.shape) for x in (q, k, v, line))
    return a, b, c, d


def _keep(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    return *_gradients(gradient, *ctx.saved_tensors), None


biased_attention.register_autograd(_backward, setup_context=_keep)
