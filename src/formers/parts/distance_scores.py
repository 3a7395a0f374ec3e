"""Scores of vectors of contents with vectors of distances, q_i.K[i - j] + k_j.Q[i - j], where distances go by place.

A product of all queries with all distances holds each score once, on a diagonal, and next to as many numbers that no pair of
tokens asks for. So it is made for a block of queries (of keys) at a time, with those distances alone that the block has, and
read off through a view: nothing is gathered, no gradient is scattered, and what is held beside the scores themselves is one
block. The same products in the backward pass give the gradients; only the vectors are kept for it.

A compiler is given both passes as operators that it leaves as they are: written out, the view's gradient is a division of
indices for every number of a product.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

Rows: TypeAlias = Float[Tensor, "heads distances d_head"]

BLOCK = 64
"""Queries in a block, at most. Fewer waste less, (BLOCK - 1) / keys of the products, and make smaller ones."""


def distance_scores(
    q: Float[Tensor, "b h t d_head"], k: Float[Tensor, "b h s d_head"], keys: Rows | None, queries: Rows | None
) -> Float[Tensor, "b h t s"]:
    """out[b, h, i, j] = q[b, h, i].keys[h, i - j + s - 1] + k[b, h, j].queries[h, i - j + s - 1].

    keys, queries  [heads, t + s - 1, d_head], a row for each distance, the least first; None: without that product
    """
    given = [tensor for tensor in (q, k, keys, queries) if tensor is not None]
    if torch.compiler.is_compiling() or (torch.is_grad_enabled() and any(t.requires_grad for t in given)):
        return _with_gradient(q, k, keys, queries)
    return _scores(q, k, keys, queries)


def _scores(q: Tensor, k: Tensor, keys: Rows | None, queries: Rows | None) -> Tensor:
    (b, _, t, _), s = q.shape, k.shape[2]
    out = q.new_empty(*q.shape[:3], s)
    if keys is not None:
        backwards = keys.flip(1)
        for block, window in _blocks(t, s):
            product = _by_head(q[:, :, block]) @ backwards[:, window].mT
            out[:, :, block] = diagonals(product.unflatten(1, (b, -1)), s).transpose(0, 1)
    if queries is not None:
        for block, window in _blocks(s, t):
            product = _by_head(k[:, :, block]) @ queries[:, window].mT
            added = diagonals(product.unflatten(1, (b, -1)), t).transpose(0, 1).mT
            if keys is None:
                out[..., block] = added
            else:
                out[..., block].add_(added)
    return out


def _blocks(length: int, others: int) -> Iterator[tuple[slice, slice]]:
    """Blocks of `length` tokens, and which of the length + others - 1 distances to `others` each has.

    Distances are ordered so that those of the first token come last.
    """
    size = min(BLOCK, -(-length // 2))
    for start in range(0, length, size):
        stop = min(start + size, length)
        yield slice(start, stop), slice(length - stop, length + others - 1 - start)


def _by_head(x: Float[Tensor, "b h n d_head"]) -> Float[Tensor, "h bn d_head"]:
    """Rows of the batch one after another, so that a head is one product."""
    return x.transpose(0, 1).flatten(1, 2)


def diagonals(x: Float[Tensor, "*rows n columns"], length: int) -> Float[Tensor, "*rows n {length}"]:
    """out[i, j] = x[i, n-1-i+j], a view: in rows that are one number shorter, what stood on a diagonal is a column."""
    n, columns = x.shape[-2:]
    if n == 1:
        return x[..., :length]
    shorter = x.flatten(-2).narrow(-1, n - 1, n * (columns - 1))
    return shorter.unflatten(-1, (n, columns - 1)).narrow(-1, 0, length)


# --- gradients --------------------------------------------------------------------------------------------------------


def _gradients(
    of: Tensor, x: Float[Tensor, "b h t d_head"], rows: Rows
) -> tuple[Float[Tensor, "b h t d_head"], Float[Tensor, "heads distances d_head"]]:
    """Of x and of rows, where a [b, h, t, s] = x_i.rows[t - 1 - i + j] has the gradient `of`."""
    (b, h, t, _), s = x.shape, of.shape[-1]
    d_x = x.new_empty(x.shape)
    d_rows = torch.zeros_like(rows, dtype=torch.promote_types(rows.dtype, torch.float32))
    product = None
    for block, window in _blocks(t, s):
        shape = (h, b, block.stop - block.start, window.stop - window.start)
        if product is None or product.shape != shape:  # what no diagonal reads stays 0 from block to block
            product = of.new_zeros(shape)
        diagonals(product, s).copy_(of[:, :, block].transpose(0, 1))
        flat = product.flatten(1, 2)
        d_x[:, :, block] = (flat @ rows[:, window]).unflatten(1, (b, -1)).transpose(0, 1)
        d_rows[:, window].add_(flat.mT @ _by_head(x[:, :, block]))
    return d_x, d_rows.to(rows.dtype)


_GIVEN = "Tensor q, Tensor k, Tensor? keys, Tensor? queries"
"""As torch's operators take it: schemas are written out, since annotations may be strings."""


@torch.library.custom_op("formers::distance_scores", mutates_args=(), schema=f"({_GIVEN}) -> Tensor")
def _with_gradient(q: Tensor, k: Tensor, keys: Tensor | None, queries: Tensor | None) -> Tensor:
    with torch.autocast(q.device.type, enabled=False):
        return _scores(q, k, keys, queries)


@_with_gradient.register_fake
def _shape(q: Tensor, k: Tensor, keys: Tensor | None, queries: Tensor | None) -> Tensor:
    return q.new_empty(*q.shape[:3], k.shape[2])


@torch.library.custom_op(
    "formers::distance_scores_backward",
    mutates_args=(),
    schema=f"(Tensor of, {_GIVEN}) -> (Tensor, Tensor, Tensor, Tensor)",
)
def _backwards(
    of: Tensor, q: Tensor, k: Tensor, keys: Tensor | None, queries: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q, keys, k and queries; empty where there is no such product."""
    d_q, d_keys, d_k, d_queries = (q.new_empty(0) for _ in range(4))
    with torch.autocast(q.device.type, enabled=False):
        if keys is not None:
            d_q, d_backwards = _gradients(of, q, keys.flip(1))
            d_keys = d_backwards.flip(1)
        if queries is not None:
            d_k, d_queries = _gradients(of.mT, k, queries)
    return d_q, d_keys, d_k, d_queries


@_backwards.register_fake
def _shapes(
    of: Tensor, q: Tensor, k: Tensor, keys: Tensor | None, queries: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    def like(x: Tensor, rows: Tensor | None) -> tuple[Tensor, Tensor]:
        return (x.new_empty(0), x.new_empty(0)) if rows is None else (x.new_empty(x.shape), rows.new_empty(rows.shape))

    return *like(q, keys), *like(k, queries)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, of: Tensor) -> tuple[Tensor | None, ...]:
    q, k, keys, queries = ctx.saved_tensors
    d_q, d_keys, d_k, d_queries = _backwards(of, q, k, keys, queries)
    first = (None, None) if keys is None else (d_q, d_keys)
    second = (None, None) if queries is None else (d_k, d_queries)
    return first[0], second[0], first[1], second[1]


_with_gradient.register_autograd(_backward, setup_context=_remember)
