"""Attention itself: softmax(q k^T + terms) v over the keys that a mask lets a query see.

One meaning, several runners, and this file is the one place that chooses among them:

    dense    the slow twin and the reference; also the one that shows its pattern
    sdpa     torch's fused kernels
    blocks   in blocks of queries and keys, skipping what the mask hides: linear in length for a window, with gradients
    flex     FlexAttention, for sparse masks on a GPU

In every runner a query that sees nothing yields exactly 0 and passes a gradient of exactly 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from formers.axes import Keys, Queries, Scores, Values
from formers.errors import ConfigError, suggest
from formers.parts.masks import And, Block, Causal, Mask, SameDocument, Span, StrictlyPast
from formers.parts.positions import Layout, Place, Positions

BLOCK = 128
"""Queries and keys in a block. Smaller skips more and costs more calls."""


Term: TypeAlias = Callable[[Tensor, Tensor, Positions, Positions], Tensor]
"""A score term, ready for one forward: (q, k, q_positions, k_positions) -> what it adds to the scaled logits.

q [batch, heads, queries, d_head] arrives scaled; the result is [1 or batch, heads, queries, keys].
"""


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
        return self.mask.block(_span(self.q_positions), _span(self.k_positions))

    @property
    def is_causal_triangle(self) -> bool:
        whole = self.q_positions.layout is Layout.WHOLE and self.k_positions.layout is Layout.WHOLE
        return self.static and whole and self.q.shape[2] == self.k.shape[2] and _drop_documents(self.mask) == Causal()

    @property
    def is_strict_triangle(self) -> bool:
        """Every query sees just the keys before it, from the first on."""
        in_step = self.q_positions.start is not None and self.q_positions.start == self.k_positions.start
        enough = self.k.shape[2] in (self.q.shape[2], self.q.shape[2] - 1)
        return self.static and in_step and enough and _drop_documents(self.mask) == StrictlyPast()

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


def attend(
    q: Queries,
    k: Keys,
    v: Values,
    q_positions: Positions,
    k_positions: Positions,
    *,
    mask: Mask,
    terms: Sequence[Term] = (),
    dropout: float = 0.0,
    runner: str = "auto",
    show: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Attention outputs [batch, heads, queries, d_value].

    q arrives scaled. `terms` are added to the logits. `dropout` is the probability of dropping an attention weight.
    `runner` is ``auto`` or a name; a named runner that cannot do the job raises ConfigError. `show` is given the
    attention pattern [batch, heads, queries, keys] and may replace it; it makes the dense runner the automatic choice.
    """
    case = Case(q, k, v, q_positions, k_positions, mask, terms, dropout, show)
    name = choose(case) if runner == "auto" else runner
    if name not in RUNNERS:
        raise ConfigError(f"runner {name!r}", "auto, " + ", ".join(RUNNERS), suggest(name, RUNNERS))
    reason = _refusal(name, case)
    if reason:
        raise ConfigError(f"runner {name!r} cannot do this: {reason}", do="use runner='auto', or another one")
    return RUNNERS[name](case)


def choose(case: Case) -> str:
    """The runner that is fastest for the case. The only place where this is decided."""
    if case.show is not None:
        return "dense"
    if (case.is_causal_triangle or case.is_strict_triangle) and not case.terms:
        return "sdpa"
    if case.terms and _needs_grad(case):
        return "blocks" if _worth_blocks(case) else "dense"  # a bias with gradient would leave the fused kernels anyway
    if case.q.is_cuda and not _refusal("flex", case) and _worth_blocks(case):
        return "flex"
    return "blocks" if _worth_blocks(case) else "sdpa"


def _refusal(name: str, case: Case) -> str | None:
    """Why the runner cannot do the case; None if it can."""
    if case.show is not None and name != "dense":
        return "it never holds the attention pattern, which a tap wants"
    if name == "blocks" and not case.static:
        return "positions are ragged (padding, packed documents, global tokens or rows at different places)"
    if name == "flex" and (case.terms or case.dropout):
        return "score terms and attention dropout are not implemented there"
    if name == "flex" and not case.q.is_cuda and _needs_grad(case):
        return "FlexAttention has no gradient on this device"
    return None


def _needs_grad(case: Case) -> bool:
    return torch.is_grad_enabled() and any(t.requires_grad for t in (case.q, case.k, case.v))


def _worth_blocks(case: Case) -> bool:
    """Blocks pay where the mask hides at least half of what a plain kernel would compute."""
    if _refusal("blocks", case) or case.q.shape[2] < 4 * BLOCK:
        return False
    plan = plan_blocks(case, BLOCK)
    computed = sum(len(queries) * len(keys[0]) for queries, keys in plan)
    return 2 * computed <= -(-case.q.shape[2] // BLOCK) * -(-case.k.shape[2] // BLOCK)


# --- dense: the reference -------------------------------------------------------------------------------------------


def dense(case: Case) -> Tensor:
    """softmax(q k^T + terms) v, written out. Softmax in at least float32."""
    k, v = expand_groups(case.k, case.q), expand_groups(case.v, case.q)
    scores = case.q @ k.transpose(-1, -2)
    bias = case.bias()
    if bias is not None:  # in place where types allow: a fresh tensor of this size costs three times the adding
        scores = scores.add_(bias) if bias.dtype == scores.dtype else scores + bias
    pattern = softmax(scores) if case.sees is Block.ALL else safe_softmax(scores, case.visible())
    pattern = F.dropout(pattern, case.dropout).to(v.dtype)
    if case.show is not None:
        pattern = case.show(pattern)
    return pattern @ v


def softmax(scores: Scores) -> Tensor:
    """Softmax over all keys, in at least float32."""
    return scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32))


def safe_softmax(scores: Scores, visible: Tensor) -> Tensor:
    """Softmax over the visible keys, in at least float32; a row with none is exactly 0, and so is its gradient.

    Beside a visible key the smallest number is as good as -inf: its weight is exactly 0. A row of it alone is even, so that
    torch's kernel has a gradient there, and is set to 0 afterwards.
    """
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    weights = scores.masked_fill(~visible, torch.finfo(scores.dtype).min).softmax(-1)
    return weights.masked_fill(~visible.any(-1, keepdim=True), 0.0)


def expand_groups(kv: Tensor, q: Tensor) -> Tensor:
    """Each key/value head repeated for the query heads that share it."""
    return kv if kv.shape[1] == q.shape[1] else kv.repeat_interleave(q.shape[1] // kv.shape[1], dim=1)


# --- sdpa -----------------------------------------------------------------------------------------------------------


def sdpa(case: Case) -> Tensor:
    """torch's fused kernels; no mask is built where positions alone say that none, or a triangle, is needed."""
    if case.terms:
        return _kernel_with_bias(case, case.visible())
    if case.is_causal_triangle and case.q.shape[2] > 1:
        return _kernel(case, is_causal=True)
    if case.is_strict_triangle:
        return _strict(case)
    return _kernel(case, None if case.sees is Block.ALL else case.visible())


def _kernel(case: Case, visible: Tensor | None = None, is_causal: bool = False) -> Tensor:
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
    return F.pad(_kernel(later, is_causal=pairs > 1), (0, 0, 1, 0))


def _kernel_with_bias(case: Case, visible: Tensor) -> Tensor:
    """A float mask: rows that see nothing get a finite one, and 0 afterwards."""
    bias = case.bias()
    assert bias is not None
    sees_any = visible.any(-1, keepdim=True)
    bias = torch.where(visible, bias, torch.where(sees_any, -torch.inf, 0.0).to(bias.dtype)).to(case.q.dtype)
    return torch.where(sees_any, _kernel(case, bias), 0.0)


# --- blocks ---------------------------------------------------------------------------------------------------------


def plan_blocks(case: Case, size: int) -> list[tuple[list[int], list[list[int]]]]:
    """Query blocks grouped by how many key blocks they need: [(query blocks, for each its key blocks)].

    Only for static positions. Key blocks that the mask hides wholly are left out.
    """
    q_spans, k_spans = _spans(case.q_positions, size), _spans(case.k_positions, size)
    groups: dict[int, tuple[list[int], list[list[int]]]] = {}
    for i, q_span in enumerate(q_spans):
        needed = [j for j, k_span in enumerate(k_spans) if case.mask.block(q_span, k_span) is not Block.NONE]
        needed = needed or [0]  # wholly hidden, and so exactly 0, but still part of the graph
        queries, keys = groups.setdefault(len(needed), ([], []))
        queries.append(i)
        keys.append(needed)
    return list(groups.values())


def blocks(case: Case) -> Tensor:
    """Block by block: each group of query blocks gathers just the key blocks it can see. Linear for a window.

    Gathering is by whole blocks, so the backward pass is a scatter of whole blocks: no T x T tensor in either.
    """
    return run_blocks(case, BLOCK)


def run_blocks(case: Case, size: int) -> Tensor:
    """`blocks` with a block size of one's own (the tests use small ones)."""
    q, k, v = (_to_blocks(t, size) for t in (case.q, case.k, case.v))  # [b, blocks, size, heads, d]
    q_positions, k_positions = _pad(case.q_positions, size), _pad(case.k_positions, size)
    outputs, order = [], []
    for query_blocks, key_blocks in plan_blocks(case, size):
        order += query_blocks
        outputs.append(_run_group(case, size, q, k, v, q_positions, k_positions, query_blocks, key_blocks))
    back = torch.tensor(order, device=q.device).argsort()
    joined = torch.cat(outputs, 1)[:, back].flatten(1, 2)  # [b, t, h, d]
    return joined[:, : case.q.shape[2]].transpose(1, 2)


def _run_group(
    case: Case,
    size: int,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_positions: Positions,
    k_positions: Positions,
    query_blocks: list[int],
    key_blocks: list[list[int]],
) -> Tensor:
    """Query blocks that all need the same number of key blocks, as one batch. Returns [b, blocks, size, h, d_value]."""
    b, _, _, heads, _ = q.shape
    n = len(query_blocks)
    rows = torch.tensor(query_blocks, device=q.device)
    columns = torch.tensor(key_blocks, device=q.device).flatten()

    def gather(t: Tensor, which: Tensor) -> Tensor:  # -> [b * n, h, length, d]
        return t.index_select(1, which).reshape(b * n, -1, *t.shape[3:]).transpose(1, 2)

    def gather_positions(p: Positions, which: Tensor) -> Positions:  # one row: static positions are the same in all
        return p.map(lambda t: t[0].view(-1, size)[which].reshape(n, -1).repeat(b, 1))

    part = Case(
        gather(q, rows),
        gather(k, columns),
        gather(v, columns),
        gather_positions(q_positions, rows),
        gather_positions(k_positions, columns),
        case.mask,
        case.terms,
        case.dropout,
    )
    if not case.terms:
        out = _kernel(part, part.visible())
    else:
        out = dense(part) if _needs_grad(case) else _kernel_with_bias(part, part.visible())
    return out.transpose(1, 2).reshape(b, n, size, heads, -1)


def _to_blocks(t: Tensor, size: int) -> Tensor:
    """[b, h, t, d] -> [b, blocks, size, h, d], padded with zeros at the end."""
    t = t.transpose(1, 2)
    return F.pad(t, (0, 0, 0, 0, 0, -t.shape[1] % size)).unflatten(1, (-1, size))


def _pad(positions: Positions, size: int) -> Positions:
    short = -positions.length % size
    return positions.map(lambda t: F.pad(t, (0, short), value=-1 if t.dtype != torch.bool else 0))


def _spans(positions: Positions, size: int) -> list[Span]:
    assert positions.start is not None
    first, last = positions.start, positions.start + positions.length - 1
    return [Span(i, min(i + size - 1, last)) for i in range(first, last + 1, size)]


def _span(positions: Positions) -> Span:
    assert positions.start is not None
    return Span(positions.start, positions.start + positions.length - 1)


# --- flex -----------------------------------------------------------------------------------------------------------


def flex(case: Case) -> Tensor:
    """FlexAttention with the same mask, block by block, on a GPU (on a CPU forward only, for the tests)."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    q_place = _scalar_places(case.q_positions, case.q.shape[0])
    k_place = _scalar_places(case.k_positions, case.q.shape[0])

    def sees(b: Tensor, i: Tensor, j: Tensor) -> Tensor:
        q, k = q_place(b, i), k_place(b, j)
        return case.mask.allows(q, k) & (q.index >= 0) & (k.index >= 0)

    lengths = case.q.shape[2], case.k.shape[2]
    block_mask = create_block_mask(
        lambda b, h, i, j: sees(b, i, j), case.q.shape[0], None, *lengths, device=str(case.q.device)
    )
    run = torch.compile(flex_attention, dynamic=False) if case.q.is_cuda else flex_attention
    grouped = case.k.shape[1] != case.q.shape[1]
    return run(case.q, case.k, case.v, block_mask=block_mask, scale=1.0, enable_gqa=grouped)  # type: ignore[return-value]


def _scalar_places(positions: Positions, batch: int) -> Callable[[Tensor, Tensor], Place]:
    """Positions looked up by batch row and place in the sequence, as FlexAttention asks for them."""
    rows = positions.rows(batch)

    def at(b: Tensor, i: Tensor) -> Place:
        return Place.of(rows, lambda t: t[b, i])

    return at


RUNNERS: dict[str, Callable[[Case], Tensor]] = {"dense": dense, "sdpa": sdpa, "blocks": blocks, "flex": flex}


def _drop_documents(mask: Mask) -> Mask:
    """The mask for rows of one document each, which static positions promise."""
    if isinstance(mask, And):
        a, b = _drop_documents(mask.a), _drop_documents(mask.b)
        if isinstance(a, SameDocument):
            return b
        return a if isinstance(b, SameDocument) else And(a, b)
    return mask
