"""What a runner is given, and the two runners that hold every pair of a query and a key: the slow twin and torch's kernels.

`attend.py` chooses among these and the others; those build on what stands here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from formers.axes import Keys, Queries, Scores, Values
from formers.parts.masks import And, Block, Causal, Mask, SameDocument, Span, StrictlyPast
from formers.parts.positions import Layout, Positions, in_step

Term: TypeAlias = Callable[[Tensor, Tensor, Positions, Positions], Tensor]
"""A score term, ready for one forward: (q, k, q_positions, k_positions) -> what it adds to the scaled logits.

q [batch, heads, queries, d_head] arrives scaled; the result is [1 or batch, heads, queries, keys].
"""


@dataclass(frozen=True)
class ByDistance:
    """A term that reads nothing but the distances of indices: blocks that stand to their keys alike are given it once.

    line  distances (key minus query) [n] -> [heads, n]: the same where distances follow from places; None: not known
    """

    add: Term
    line: Callable[[Tensor], Tensor] | None = None

    def __call__(self, q: Tensor, k: Tensor, q_positions: Positions, k_positions: Positions) -> Tensor:
        return self.add(q, k, q_positions, k_positions)


@dataclass(frozen=True)
class Afresh:
    """A term that gives a tensor of its own, [batch, heads, queries, keys], at every call: whoever asked may write over it."""

    add: Term

    def __call__(self, q: Tensor, k: Tensor, q_positions: Positions, k_positions: Positions) -> Tensor:
        return self.add(q, k, q_positions, k_positions)


@dataclass(frozen=True)
class Case:
    """All that a runner needs. q [b, h, t, d] scaled; k, v [b, g, s, d] with g dividing h (grouped heads)."""

    q: Queries
    k: Keys
    v: Values
    q_positions: Positions
    k_positions: Positions
    mask: Mask
    terms: Sequence[Term] = ()
    dropout: float = 0.0
    show: Callable[[Tensor], Tensor] | None = field(default=None)

    @property
    def static(self) -> bool:
        """What the mask says of these queries and keys is known without looking at tensors."""
        return all(p.start is not None and p.is_global is None for p in (self.q_positions, self.k_positions))

    @property
    def sees(self) -> Block:
        """What the mask says of all queries and all keys together."""
        if not self.static:
            return Block.SOME
        return self.mask.block(span_of(self.q_positions), span_of(self.k_positions))

    @property
    def is_causal_triangle(self) -> bool:
        whole = self.q_positions.layout is Layout.WHOLE and self.k_positions.layout is Layout.WHOLE
        return self.static and whole and self.q.shape[2] == self.k.shape[2] and drop_documents(self.mask) == Causal()

    @property
    def is_strict_triangle(self) -> bool:
        """Every query sees just the keys before it, from the first on."""
        in_step = self.q_positions.start is not None and self.q_positions.start == self.k_positions.start
        enough = self.k.shape[2] in (self.q.shape[2], self.q.shape[2] - 1)
        return self.static and in_step and enough and drop_documents(self.mask) == StrictlyPast()

    def visible(self) -> Tensor:
        """Bool [1 or b, 1 or h, t, s]: the mask, and validity, which is not the mask's business."""
        q, k = self.q_positions, self.k_positions
        return self.mask.allows(q.as_queries(), k.as_keys()) & q.present[:, None, :, None] & k.present[:, None, None, :]

    def bias(self) -> Tensor | None:
        """The sum of the score terms, or None."""
        total = None
        for term in self.terms:
            added = term(self.q, self.k, self.q_positions, self.k_positions)
            total = added if total is None else total + added
        return total

    def line(self) -> Tensor | None:
        """The terms [h, t + s - 1] by the distance of a key from a query, the most negative first; None where one reads more
        than distances, or these do not follow from places."""
        behind = in_step(self.q_positions, self.k_positions)
        if behind is None or not self.in_lines:
            return None
        first = 1 - self.q.shape[2] - behind  # of the last query and the first key
        places = torch.arange(first, self.k.shape[2] - behind, device=self.q.device)
        lines = [term.line(places) for term in self.terms if isinstance(term, ByDistance) and term.line is not None]
        return functools.reduce(torch.add, lines)

    @property
    def in_lines(self) -> bool:
        """Whether there are score terms, and each can be had as a line of distances."""
        return bool(self.terms) and all(isinstance(term, ByDistance) and term.line is not None for term in self.terms)


def needs_grad(case: Case) -> bool:
    """Whether a backward pass will follow."""
    return torch.is_grad_enabled() and any(t.requires_grad for t in (case.q, case.k, case.v))


# --- dense: the reference -------------------------------------------------------------------------------------------


def dense(case: Case, visible: Tensor | None = None) -> Tensor:
    """softmax(q k^T + terms) v, written out. Softmax in at least float32. `visible`: where it is known already."""
    if may_write_over(case):
        return _written_over(case, visible)
    k, v = expand_groups(case.k, case.q), expand_groups(case.v, case.q)
    scores = case.q @ k.transpose(-1, -2)
    bias = case.bias()
    if bias is not None:  # in place where types allow: a fresh tensor of this size costs three times the adding
        scores = scores.add_(bias) if bias.dtype == scores.dtype else scores + bias
    if visible is None and case.sees is Block.ALL:
        return _weighed(case, softmax(scores), v)
    visible = case.visible() if visible is None else visible
    if case.show is not None:
        return _weighed(case, safe_softmax(scores, visible), v)
    # set to 0 here, not in the pattern: a backward pass then keeps one tensor of that size, not two
    out = _weighed(case, _even_if_blind(scores, visible), v)
    return out.masked_fill(~visible.any(-1, keepdim=True), 0.0)


def may_write_over(case: Case) -> bool:
    """Whether everything may be made in the tensor that the term gives: no backward pass and nobody else reads it."""
    if len(case.terms) != 1 or not isinstance(case.terms[0], Afresh) or torch.is_grad_enabled():
        return False
    alike = case.q.dtype == case.k.dtype == case.v.dtype and case.k.shape[1] == case.q.shape[1]
    return alike and case.show is None and not case.dropout and not torch.compiler.is_compiling()


def _written_over(case: Case, visible: Tensor | None) -> Tensor:
    """Scores, then the pattern, in place of the term; a row of the batch at a time, since its heads need no copy of q, k, v."""
    scores, out = case.bias(), case.v.new_empty(*case.q.shape[:3], case.v.shape[3])
    assert scores is not None
    if visible is None and case.sees is not Block.ALL:
        visible = case.visible()
    hidden = None if visible is None else (~visible).expand(len(out), -1, -1, -1)
    for row, pattern in enumerate(scores):
        pattern.baddbmm_(case.q[row], case.k[row].mT)
        if hidden is not None:
            pattern.masked_fill_(hidden[row], torch.finfo(pattern.dtype).min)
        torch.softmax(pattern, -1, out=pattern)  # in float32 within, whatever the type
        torch.bmm(pattern, case.v[row], out=out[row])
    return out if visible is None else out.masked_fill_(~visible.any(-1, keepdim=True), 0.0)


def _weighed(case: Case, pattern: Tensor, v: Values) -> Tensor:
    pattern = F.dropout(pattern, case.dropout).to(v.dtype)
    return (pattern if case.show is None else case.show(pattern)) @ v


def softmax(scores: Scores) -> Tensor:
    """Softmax over all keys, in at least float32."""
    return scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32))


def safe_softmax(scores: Scores, visible: Tensor) -> Tensor:
    """Softmax over the visible keys, in at least float32; a row with none is exactly 0, and so is its gradient."""
    return _even_if_blind(scores, visible).masked_fill(~visible.any(-1, keepdim=True), 0.0)


def _even_if_blind(scores: Scores, visible: Tensor) -> Tensor:
    """The same, but for a row that sees nothing, which is even.

    Beside a visible key the smallest number is as good as -inf: its weight is exactly 0. A row of it alone is even, so that
    torch's kernel has a gradient there, and is set to 0 afterwards.
    """
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    return scores.masked_fill(~visible, torch.finfo(scores.dtype).min).softmax(-1)


def expand_groups(kv: Tensor, q: Tensor) -> Tensor:
    """Each key/value head repeated for the query heads that share it."""
    return kv if kv.shape[1] == q.shape[1] else kv.repeat_interleave(q.shape[1] // kv.shape[1], dim=1)


# --- sdpa -----------------------------------------------------------------------------------------------------------


def sdpa(case: Case) -> Tensor:
    """torch's fused kernels; no mask is built where positions alone say that none, or a triangle, is needed."""
    if case.terms:
        bias = case.bias() if case.sees is Block.ALL else None
        return kernel_with_bias(case, case.visible()) if bias is None else kernel(case, bias.to(case.q.dtype))
    if case.is_causal_triangle and case.q.shape[2] > 1:
        return kernel(case, is_causal=True)
    if case.is_strict_triangle:
        return _strict(case)
    return kernel(case, None if case.sees is Block.ALL else case.visible())


def kernel(case: Case, visible: Tensor | None = None, is_causal: bool = False) -> Tensor:
    return F.scaled_dot_product_attention(
        case.q,
        case.k,
        case.v,
        attn_mask=visible,
        dropout_p=case.dropout,
        is_causal=is_causal,
        scale=1.0,
        enable_gqa=case.k.shape[1] != case.q.shape[1],
    )


def _strict(case: Case) -> Tensor:
    """The first query sees nothing and yields 0; the others are a triangle with the keys before the last."""
    pairs = case.q.shape[2] - 1
    if not pairs:
        return case.q.new_zeros(*case.q.shape[:3], case.v.shape[3])
    later = replace(case, q=case.q[:, :, 1:], k=case.k[:, :, :pairs], v=case.v[:, :, :pairs])
    return F.pad(kernel(later, is_causal=pairs > 1), (0, 0, 1, 0))


def kernel_with_bias(case: Case, visible: Tensor) -> Tensor:
    """A float mask: rows that see nothing get a finite one, and 0 afterwards."""
    bias = case.bias()
    assert bias is not None
    sees_any = visible.any(-1, keepdim=True)
    bias = torch.where(visible, bias, torch.where(sees_any, -torch.inf, 0.0).to(bias.dtype)).to(case.q.dtype)
    return torch.where(sees_any, kernel(case, bias), 0.0)


def span_of(positions: Positions) -> Span:
    assert positions.start is not None
    return Span(positions.start, positions.start + positions.length - 1)


def drop_documents(mask: Mask) -> Mask:
    """The mask for rows of one document each, which static positions promise."""
    if isinstance(mask, And):
        a, b = drop_documents(mask.a), drop_documents(mask.b)
        if isinstance(a, SameDocument):
            return b
        return a if isinstance(b, SameDocument) else And(a, b)
    return mask
