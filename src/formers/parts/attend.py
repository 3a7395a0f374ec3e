"""Attention itself: softmax(q k^T + terms) v over the keys that a mask lets a query see.

One meaning, several runners, and this file is the one place that chooses among them:

    dense       the slow twin and the reference; also the one that shows its pattern
    sdpa        torch's fused kernels
    biased      the same under score terms that depend on distances alone, with their gradients, and the pattern never held
    blocks      in blocks of queries and keys, skipping what the mask hides: linear in length for a window, with gradients
    flex        FlexAttention, for sparse masks on a GPU
    factorised  the Sparse Transformer's sets by reshaping; chosen by its attention (factorised_attention.py), which knows them

In every runner a query that sees nothing yields exactly 0 and passes a gradient of exactly 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from formers.axes import Keys, Queries, Values
from formers.errors import ConfigError, suggest
from formers.parts.biased import biased_attention
from formers.parts.blocks import blocks, plan_blocks, refusal, run_blocks, share
from formers.parts.extent import tells_heads_apart
from formers.parts.factorised import factorised
from formers.parts.factorised import refusal as refusal_of_factorised
from formers.parts.kernels import (
    Afresh,
    ByDistance,
    Case,
    Term,
    dense,
    expand_groups,
    may_write_over,
    needs_grad,
    safe_softmax,
    sdpa,
    softmax,
)
from formers.parts.masks import Mask
from formers.parts.positions import Place, Positions, in_step
from formers.parts.slots import BLOCK

__all__ = [
    "RUNNERS",
    "Afresh",
    "ByDistance",
    "Case",
    "Term",
    "attend",
    "biased",
    "blocks",
    "choose",
    "dense",
    "expand_groups",
    "flex",
    "plan_blocks",
    "run_blocks",
    "safe_softmax",
    "sdpa",
    "softmax",
]


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
    if not case.terms and (case.is_causal_triangle or case.is_strict_triangle):
        return "sdpa"
    if case.terms and case.q.device.type == "cpu" and case.q.shape[2] > 1 and not _refusal("biased", case):
        return "blocks" if _worth_blocks(case) else "biased"
    if case.terms and needs_grad(case):
        return "blocks" if _worth_blocks(case) else "dense"  # a bias with gradient would leave the fused kernels anyway
    if case.q.is_cuda and not _refusal("flex", case) and _worth_blocks(case):
        return "flex"
    if _worth_blocks(case):
        return "blocks"
    return "dense" if may_write_over(case) else "sdpa"


def _refusal(name: str, case: Case) -> str | None:
    """Why the runner cannot do the case; None if it can."""
    if case.show is not None and name != "dense":
        return "it never holds the attention pattern, which a tap wants"
    if name == "blocks":
        return refusal(case)
    if name == "factorised":
        return refusal_of_factorised(case)
    if name == "biased" and case.dropout:
        return "attention dropout is not implemented there"
    if name == "biased" and (in_step(case.q_positions, case.k_positions) is None or not case.in_lines):
        return "it wants score terms of distances alone, and distances that follow from the places of tokens"
    if name == "flex" and (case.terms or case.dropout or tells_heads_apart(case.mask)):
        return "score terms, attention dropout and masks of each head are not implemented there"
    if name == "flex" and not case.q.is_cuda and needs_grad(case):
        return "FlexAttention has no gradient on this device"
    return None


def _worth_blocks(case: Case) -> bool:
    """Blocks pay where the mask hides at least half of what a plain kernel would compute. Tensors are looked at last."""
    if case.q.shape[2] < 4 * BLOCK or case.show is not None or refusal(case, look=False):
        return False
    return 2 * share(case) <= 1 and refusal(case) is None


# --- biased ---------------------------------------------------------------------------------------------------------


def biased(case: Case) -> Tensor:
    """One operator, forward and backward (`biased.py`)."""
    line = case.line()
    assert line is not None
    k, v = expand_groups(case.k, case.q), expand_groups(case.v, case.q)
    return biased_attention(case.q, k, v, line, case.visible())


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


RUNNERS: dict[str, Callable[[Case], Tensor]] = {
    "dense": dense, "sdpa": sdpa, "biased": biased, "blocks": blocks, "flex": flex, "factorised": factorised,
}  # fmt: skip
