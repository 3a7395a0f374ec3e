"""What look-ups in a memory are, as data: shares of attention, entries with their text, and what they bought."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from formers.errors import TargetError

SHARES: tuple[str, ...] = ("window", "cache", "memory", "nothing")
"""Where attention went: tokens of the query's own segment, tokens before it that are still near, the memory; and nothing,
where a query could see no token at all."""

AROUND = 40
"""Characters of text shown on either side of an entry."""


@dataclass(frozen=True)
class Entry:
    """An entry that a query was given. index: its token's place; text: that token, with what stands before and after.

    score   inner product of the scaled query and the stored key
    weight  its share of all the attention of the query; all entries that were given sum to the share of the memory
    """

    index: int
    token: int
    before: str
    text: str
    after: str
    score: float
    weight: float


@dataclass(frozen=True)
class Looked:
    """Where one token looked. shares sum to 1; gate: weight of the memory in this head, None where the merge has none."""

    index: int
    token: int
    text: str
    layer: int
    head: int
    shares: dict[str, float]
    gate: float | None
    entries: tuple[Entry, ...]


@dataclass(frozen=True)
class LayerLookups:
    """One memory layer. T tokens, H heads, n entries kept.

    layer   which application of a block, counted from 0         name  of the module
    gates   [H] weight of the memory in each head, by its sign; None where the merge has no gate
    shares  [T, H, 4] in the order of SHARES, summing to 1. Weights that a gate makes negative count by their size
    index   [T, H, n] places of the best entries, best first, -1 for none;  score, weight  [T, H, n] (see `Entry`)
    """

    layer: int
    name: str
    gates: np.ndarray | None
    shares: np.ndarray
    index: np.ndarray
    score: np.ndarray
    weight: np.ndarray

    @property
    def heads(self) -> int:
        return self.shares.shape[1]


@dataclass(frozen=True)
class Lookups:
    """What a document's tokens looked at.

    ids           [T] tokens                 pieces  their text, one a token; joined they are the document. [] without tokenizer
    loss          [T] nats, of each token given those before it; NaN for the first
    loss_without  the same of a reading in which no layer has its memory; None where it was not asked for
    segment_length  tokens of a segment: what a query finds in memory stands in earlier ones
    """

    ids: np.ndarray
    pieces: tuple[str, ...]
    loss: np.ndarray
    loss_without: np.ndarray | None
    segment_length: int
    layers: tuple[LayerLookups, ...] = field(repr=False)

    def __len__(self) -> int:
        return len(self.ids)

    def text(self, start: int, stop: int) -> str:
        """The document's text from token `start` to before `stop`."""
        return "".join(self.pieces[max(start, 0) : max(stop, 0)])

    def of(self, layer: int) -> LayerLookups:
        """The look-ups of a layer. Raises TargetError where it has no memory."""
        for each in self.layers:
            if each.layer == layer:
                return each
        known = ", ".join(str(each.layer) for each in self.layers)
        raise TargetError(f"layer {layer} has no memory", f"one of {known}")

    def at(self, token: int, *, layer: int, head: int) -> Looked:
        """Where the token at `token` looked in a head of a layer."""
        found = self.of(layer)
        if not (0 <= token < len(self) and 0 <= head < found.heads):
            raise TargetError(
                f"token {token}, head {head}", f"a token of 0 to {len(self) - 1}, a head of 0 to {found.heads - 1}"
            )
        here = (token, head)
        entries = [
            self._entry(int(i), float(score), float(weight))
            for i, score, weight in zip(found.index[here], found.score[here], found.weight[here], strict=True)
            if i >= 0
        ]
        shares = dict(zip(SHARES, map(float, found.shares[here]), strict=True))
        gate = None if found.gates is None else float(found.gates[head])
        return Looked(
            token, int(self.ids[token]), self.text(token, token + 1), layer, head, shares, gate, tuple(entries)
        )

    def _entry(self, i: int, score: float, weight: float) -> Entry:
        before, after = self.text(i - AROUND, i)[-AROUND:], self.text(i + 1, i + 1 + AROUND)[:AROUND]
        return Entry(i, int(self.ids[i]), before, self.text(i, i + 1), after, score, weight)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; what is no number is None."""
        return {
            "tokens": len(self),
            "segment_length": self.segment_length,
            "shares": list(SHARES),
            "ids": self.ids.tolist(),
            "pieces": list(self.pieces),
            "loss": _numbers(self.loss),
            "loss_without": None if self.loss_without is None else _numbers(self.loss_without),
            "layers": [_layer_to_dict(each) for each in self.layers],
        }


def _layer_to_dict(found: LayerLookups) -> dict[str, Any]:
    return {
        "layer": found.layer,
        "name": found.name,
        "gates": None if found.gates is None else _numbers(found.gates),
        "shares": found.shares.round(6).tolist(),
        "index": found.index.tolist(),
        "score": np.where(found.index >= 0, found.score, 0).round(5).tolist(),
        "weight": found.weight.round(6).tolist(),
    }


def _numbers(values: np.ndarray) -> list[float | None]:
    return [round(float(v), 6) if math.isfinite(v) else None for v in values]
