"""Attention within chunks of sorted tokens and the chunks around them: the fast path of LSH and of local attention.

Tokens stand in some order (sorted by bucket, or as they come), several orders side by side. The order is cut into chunks, a
chunk sees itself, `before` chunks before it and `after` behind it, and what the orders give is put together by one softmax
over all of it. Time and memory are rounds x length x window; nothing of size length^2 exists, forward or backward.

How it is computed: a few chunks at a time, so that their scores stay in the processor's cache. The backward pass makes the
scores again, and needs of the forward only the output and what share each round had in it: a softmax over the rounds of
softmaxes is one softmax, in which a weight is its weight within the round, times the round's share.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from formers.parts.chunk_plan import SELF as SELF
from formers.parts.chunk_plan import Plan
from formers.parts.chunk_plan import Window as Window

Vectors = Float[Tensor, "batch seq heads d"]


def attend_chunks(
    q: Vectors,
    k: Vectors,
    v: Vectors,
    order: Int[Tensor, "batch heads rounds seq"],
    index: Int[Tensor, "#batch seq"],
    document: Int[Tensor, "#batch seq"] | None,
    window: Window,
    dropout: float = 0.0,
) -> Vectors:
    """Attention outputs. q arrives scaled; `order` holds sorted codes ``bucket * seq + place`` (see hashing.py).

    index, document  where tokens stand; index -1 is padding, which is not seen, and whose own outputs mean nothing
    dropout          of attention weights
    """
    settings, flags = window.packed()
    return _attend(q, k, v, order, index, document, settings, flags, dropout_p=dropout)[0]


_PLAN = "Tensor order, Tensor index, Tensor? document, int[] settings, bool[] flags, float dropout_p"
"""How tokens are sorted and seen, as torch's operators take it: schemas are written out, since annotations may be strings."""


@torch.library.custom_op(
    "formers::attend_chunks",
    mutates_args=(),
    schema=f"(Tensor q, Tensor k, Tensor v, {_PLAN}) -> (Tensor, Tensor, Tensor)",
)
def _attend(
    q: Tensor, k: Tensor, v: Tensor, order: Tensor, index: Tensor, document: Tensor | None,
    settings: list[int], flags: list[bool], dropout_p: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Outputs [batch, seq, heads, d]; each round's share in them [batch, seq, heads, rounds]; and the seed of what dropout
    drew."""
    noise = torch.randint(2**31, ()) if dropout_p else torch.zeros((), dtype=torch.long)
    plan = Plan.of(order, index, document, Window.unpacked(settings, flags), q)
    queries, keys, values = (_flat(t) for t in (q, k, v))
    out = queries.new_empty(*plan.shape, v.shape[-1])
    sums = torch.empty(*plan.shape, 2, dtype=plan.dtype, device=q.device) if plan.count > 1 else None
    for tile in plan.tiles():
        scores = tile.scores(queries, keys)
        weights = scores.softmax(-1)
        if sums is not None:  # the largest weight is exp(0) by the sum: softmax tells the sum
            tile.put(sums, torch.cat([scores.amax(-1, keepdim=True), weights.amax(-1, keepdim=True).reciprocal_()], -1))
        if dropout_p:
            weights = weights * tile.kept(weights, dropout_p, int(noise))
        tile.put(out, torch.bmm(weights.to(v.dtype), tile.around(values)))
    return *plan.merged(out, sums), noise


@torch.library.custom_op(
    "formers::attend_chunks_backward",
    mutates_args=(),
    schema=f"(Tensor grad, Tensor q, Tensor k, Tensor v, Tensor out, Tensor shares, Tensor noise, {_PLAN})"
    " -> (Tensor, Tensor, Tensor)",
)
def _attend_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, shares: Tensor, noise: Tensor, order: Tensor, index: Tensor,
    document: Tensor | None, settings: list[int], flags: list[bool], dropout_p: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    plan = Plan.of(order, index, document, Window.unpacked(settings, flags), q)
    queries, keys, values, grads = (_flat(t) for t in (q, k, v, grad))
    shift = (grad * out).to(plan.dtype).sum(-1).view(-1, 1)  # what every score's gradient is measured against
    dq = queries.new_empty(*plan.shape, q.shape[-1])
    dk, dv = (t.new_zeros(*plan.shape, t.shape[-1]) for t in (keys, values))
    for tile in plan.tiles():
        around_k, own_grad = tile.around(keys), tile.own(grads)
        weights = tile.scores(queries, keys).softmax(-1)
        if not plan.is_even:
            weights.mul_(tile.shares(shares))
        change = torch.bmm(own_grad, tile.around(values).transpose(1, 2)).to(plan.dtype)
        dropped = weights
        if dropout_p:
            kept = tile.kept(weights, dropout_p, int(noise))
            change, dropped = change * kept, weights * kept
        tile.add_around(dv, torch.bmm(dropped.to(v.dtype).transpose(1, 2), own_grad))
        change = change.sub_(tile.own(shift)).mul_(weights).to(q.dtype)
        if plan.window.shared:
            change = tile.without_self(change)
        tile.put(dq, torch.bmm(change, around_k))
        tile.add_around(dk, torch.bmm(change.transpose(1, 2), tile.own(queries)))
    return tuple(plan.summed(t).view(like.shape) for t, like in ((dq, q), (dk, k), (dv, v)))  # type: ignore[return-value]


@_attend.register_fake
def _(q, k, v, order, *_):  # type: ignore[no-untyped-def]
    shares = q.new_empty((*q.shape[:3], order.shape[2]), dtype=_wide(q.dtype))
    return q.new_empty(v.shape), shares, torch.empty((), dtype=torch.long)


@_attend_backward.register_fake
def _(grad, q, k, v, *_):  # type: ignore[no-untyped-def]
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    q, k, v, order, index, document, *ctx.settings = inputs
    ctx.save_for_backward(q, k, v, *output, order, index, document)


def _backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    return *_attend_backward(grad.contiguous(), *ctx.saved_tensors, *ctx.settings), *(None,) * 6


_attend.register_autograd(_backward, setup_context=_save)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _flat(t: Tensor) -> Tensor:
    """[batch, seq, heads, d] -> one row for every token of every head."""
    return t.reshape(-1, t.shape[-1])
