"""What a memory forgets when it is full.

Free slots are filled first. Only then a policy names victims, among the entries that were there before the call: those
of the lowest rank go first. A call with more tokens than the memory has slots keeps the newest of them, whatever the policy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Int
from torch import Tensor

OFTEN = 1 << 31
"""Hits and numbers are counted up to here where a rank holds both."""


@dataclass(frozen=True)
class Held:
    """The entries of some rows, as a policy sees them; each Int [rows, slots].

    number    in the order they were written; -1: the slot is free
    document  of the token they came from
    hits      how often they were found; last_hit: entries the row had been written when last they were (or since they were
              written); both None where the policy does not count
    """

    number: Int[Tensor, "rows slots"]
    document: Int[Tensor, "rows slots"]
    hits: Int[Tensor, "rows slots"] | None = None
    last_hit: Int[Tensor, "rows slots"] | None = None


@runtime_checkable
class Policy(Protocol):
    """`counts`: whether hits are kept for it, 16 bytes an entry."""

    @property
    def counts(self) -> bool: ...

    def rank(self, held: Held) -> Int[Tensor, "rows slots"]:
        """Distinct non-negative numbers; the lowest go first. What it says of free slots is not looked at."""
        ...

    def also(
        self, held: Held, gone: Bool[Tensor, "rows slots"], coming: Int[Tensor, "rows seq"]
    ) -> Bool[Tensor, "rows slots"]:
        """Which others go with those that are `gone` for tokens of the documents `coming`."""
        ...


class _Alone:
    counts = False

    def also(self, held: Held, gone: Tensor, coming: Tensor) -> Tensor:
        return torch.zeros_like(gone)


@dataclass(frozen=True)
class Oldest(_Alone):
    """First in, first out. The only policy under which what is kept does not depend on how a text is cut into calls."""

    def rank(self, held: Held) -> Tensor:
        return held.number


@dataclass(frozen=True)
class LeastUsed(_Alone):
    """Those found least often go first, among equals the oldest.

    grace  the newest so many entries of a row are spared while there are others: an entry that was just written had no
           chance to be found yet, and would be the first to go
    """

    grace: int = 0
    counts = True

    def rank(self, held: Held) -> Tensor:
        assert held.hits is not None
        newest = held.number.amax(-1, keepdim=True)
        spared = held.number > newest - self.grace
        return torch.where(spared, OFTEN - 1, held.hits.clamp(max=OFTEN - 2)) * OFTEN + held.number.clamp(min=0)


@dataclass(frozen=True)
class LeastRecentlyUsed(_Alone):
    """Those that were found (or written) longest ago go first, among equals the oldest."""

    counts = True

    def rank(self, held: Held) -> Tensor:
        assert held.last_hit is not None
        return held.last_hit.clamp(max=OFTEN - 1) * OFTEN + held.number.clamp(min=0)


@dataclass(frozen=True)
class OldestDocument(_Alone):
    """Whole documents go, first the one that was written to longest ago: half a document is worse than none. Only where a
    document that is being written needs room of its own does it lose its oldest entries alone."""

    def rank(self, held: Held) -> Tensor:
        _, key = _keys(held.document)
        latest = torch.full((int(key.max()) + 1,), -1, dtype=torch.long, device=key.device)
        latest.scatter_reduce_(0, key.flatten(), held.number.flatten(), "amax")
        return latest[key].clamp(min=0) * OFTEN + held.number.clamp(min=0)

    def also(self, held: Held, gone: Tensor, coming: Tensor) -> Tensor:
        here = held.document.shape[1]
        _, key = _keys(torch.cat([held.document, coming], 1))
        marked = torch.zeros(int(key.max()) + 1, dtype=torch.bool, device=key.device)
        marked[key[:, :here][gone]] = True
        marked[key[:, here:].flatten()] = False
        return marked[key[:, :here]] & (held.number >= 0) & ~gone


def _keys(document: Int[Tensor, "rows n"]) -> tuple[Tensor, Int[Tensor, "rows n"]]:
    """A number for each pair of row and document, from 0."""
    row = torch.arange(len(document), device=document.device)[:, None].expand_as(document)
    pairs, key = torch.stack([row, document], -1).flatten(0, 1).unique(dim=0, return_inverse=True)
    return pairs, key.view(document.shape)
