"""What can be said of a mask as a whole: how far it reaches, in which steps, and whether it goes by distances alone.

Runners that skip what a mask hides ask this. A mask that is not named here gets the answer that is always safe. Written
without `match`, which torch.compile cannot trace.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from formers.parts.masks import (
    And,
    ByHead,
    Causal,
    Dilated,
    EarlierSegment,
    Everything,
    GlobalTokens,
    Mask,
    Not,
    Or,
    SameDocument,
    SameSegment,
    Segments,
    StrictlyPast,
    Window,
)

Reach = tuple[int | None, int | None]


def reach(mask: Mask) -> Reach:
    """How far before and behind a query the keys may lie that it sees, in indices of one document; None: any distance.

    Pairs with a global token are not counted.
    """
    if isinstance(mask, Causal | StrictlyPast):
        return None, 0
    if isinstance(mask, Window | SameSegment):
        return mask.size - 1, mask.size - 1
    if isinstance(mask, Segments):
        return mask.size - 1 + mask.remembered, mask.size - 1
    if isinstance(mask, EarlierSegment):
        return None if mask.reach is None else mask.size - 1 + mask.behind + mask.reach, 0
    if isinstance(mask, GlobalTokens):
        return 0, 0
    if isinstance(mask, And):
        (p, f), (r, g) = reach(mask.a), reach(mask.b)
        return _nearer(p, r), _nearer(f, g)
    return _widest([reach(part) for part in _any_of(mask)])


def step(mask: Mask) -> int:
    """A number that divides all distances at which keys are seen; 0: none but a query's own. Global tokens are not counted."""
    if isinstance(mask, Dilated):
        return mask.step
    if isinstance(mask, GlobalTokens) or mask == Window(1):
        return 0
    if isinstance(mask, And):
        return math.lcm(step(mask.a), step(mask.b))
    parts = _any_of(mask)
    return math.gcd(*(step(part) for part in parts)) if parts else 1


def goes_by_distance(mask: Mask) -> bool:
    """Whether it asks for the distance of two indices, documents and global tokens, and not for where indices lie."""
    if isinstance(mask, And | Or | ByHead | Not):
        return all(goes_by_distance(part) for part in parts_of(mask))
    return isinstance(mask, Causal | StrictlyPast | Window | Dilated | Everything | SameDocument | GlobalTokens)


def keeps_documents_apart(mask: Mask) -> bool:
    """Whether it hides every pair of two documents."""
    if isinstance(mask, And):
        return keeps_documents_apart(mask.a) or keeps_documents_apart(mask.b)
    parts = _any_of(mask)
    return isinstance(mask, SameDocument) or (bool(parts) and all(keeps_documents_apart(part) for part in parts))


def of_heads(mask: Mask, num_heads: int) -> tuple[Mask, ...]:
    """The mask of each head; where heads have masks of their own, there must be `num_heads` of them."""
    if isinstance(mask, ByHead):
        assert len(mask.masks) == num_heads, f"{len(mask.masks)} masks for {num_heads} heads"
        return mask.masks
    if not tells_heads_apart(mask):
        return (mask,) * num_heads
    if isinstance(mask, Not):
        return tuple(Not(one) for one in of_heads(mask.a, num_heads))
    assert isinstance(mask, And | Or)
    pairs = zip(of_heads(mask.a, num_heads), of_heads(mask.b, num_heads), strict=True)
    return tuple(type(mask)(a, b) for a, b in pairs)


def tells_heads_apart(mask: Mask) -> bool:
    """Whether heads have masks of their own."""
    return isinstance(mask, ByHead) or any(tells_heads_apart(part) for part in parts_of(mask))


def parts_of(mask: Mask) -> tuple[Mask, ...]:
    """The masks that it is made of."""
    if isinstance(mask, And | Or):
        return mask.a, mask.b
    if isinstance(mask, Not):
        return (mask.a,)
    return mask.masks if isinstance(mask, ByHead) else ()


def _any_of(mask: Mask) -> tuple[Mask, ...]:
    """The masks of a union."""
    return parts_of(mask) if isinstance(mask, Or | ByHead) else ()


def _nearer(a: int | None, b: int | None) -> int | None:
    if a is None or b is None:
        return a if b is None else b
    return min(a, b)


def _widest(reaches: Sequence[Reach]) -> Reach:
    """Any distance where nothing is known."""
    past, future = [p for p, _ in reaches], [f for _, f in reaches]
    if not reaches:
        return None, None
    return None if None in past else max(past), None if None in future else max(future)  # type: ignore[type-var]
