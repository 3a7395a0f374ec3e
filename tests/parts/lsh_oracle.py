"""LSH attention by loops over tokens and keys: the authors' rules and the paper's, written out as they are told."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from formers.parts.lsh import HashedAttention
from formers.parts.positions import Positions


def attend(
    q: Tensor,
    v: Tensor,
    buckets: Tensor,
    *,
    chunk: int,
    before: int = 1,
    after: int = 0,
    causal: bool = False,
    paper: bool = False,
    present: Tensor | None = None,
) -> Tensor:
    """One head: q, v [n, d], buckets [rounds, n] with n a multiple of `chunk`. Rows of padding are not computed (zeros)."""
    n, d = q.shape
    rounds = len(buckets)
    here = [True] * n if present is None else present.tolist()
    k = q * (q.square().mean(-1, keepdim=True) + 1e-6).rsqrt() / d**0.5
    order = [(r, i) for r in range(rounds) for _, i in sorted((int(buckets[r, i]), i) for i in range(n))]
    chunks = [order[a : a + chunk] for a in range(0, len(order), chunk)]
    seen: dict[int, list[list[int]]] = {i: [] for i in range(n)}
    for c, members in enumerate(chunks):
        around = [item for o in range(-before, after + 1) for item in chunks[(c + o) % len(chunks)]]
        for r, i in members:
            if paper:  # the same round and bucket; the ring shows nothing that these rules let through
                near = [item for o in range(-before, after + 1) if 0 <= c + o < len(chunks) for item in chunks[c + o]]
                found = [j for r2, j in near if r2 == r and buckets[r, j] == buckets[r, i]]
            else:
                found = [j for _, j in around]
            seen[i].append([j for j in found if here[j] and not (causal and j > i)])
    out = torch.zeros_like(v)
    for i in (i for i in range(n) if here[i]):
        parts, sums = [], []
        for found in seen[i]:
            logits = [_logit(q, k, i, j, seen[i], paper) for j in found]
            s = torch.stack(logits)
            sums.append(s.logsumexp(0))
            parts.append((s - sums[-1]).exp() @ v[found])
        z = torch.stack(sums)
        out[i] = ((z - z.logsumexp(0)).exp()[:, None] * torch.stack(parts)).sum(0)
    return out


def _logit(q: Tensor, k: Tensor, i: int, j: int, seen: list[list[int]], paper: bool) -> Tensor:
    """The logit, less 1e5 for the token itself, less log N for a key that N rounds find (equation 6)."""
    if i == j:
        return q.new_tensor(-1e5)
    times = sum(j in found for found in seen) if paper else 1
    return q[i] @ k[j] - math.log(times)


@torch.no_grad()
def stepwise(made: HashedAttention, x: Tensor, cuts: list[int], room: int | None = None) -> Tensor:
    """Outputs of x in calls of so many tokens, by a state with room for `room` (all of x)."""
    node, found, start = made.init_state(x.shape[0], room or x.shape[1], dtype=x.dtype), [], 0
    for length in cuts:
        y, staged = made(x[:, start : start + length], Positions.offset(start, length), node)
        node, start = staged.commit(), start + length
        found.append(y)
    return torch.cat(found, 1)
