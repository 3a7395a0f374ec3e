"""Causal convolutions with dilation, gated, with skips: WaveNet (van den Oord et al., 1609.03499), sections 2.1 to 2.4.

A layer hears of a token and of those 1, 2, .. dilations before it in the same document. What is remembered is the last inputs
of each layer, as a ring: a step of generation reads one entry a tap, however long the text.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from formers.axes import Hidden
from formers.parts.positions import Positions
from formers.parts.states import KeyValueRing, StagedEntries
from formers.parts.taps import Tap
from formers.parts.trunk import Blocks, Trunk


class GatedConvolution(nn.Module):
    """Of the stream, the first `d_model` channels of x: out(tanh(filter * x) . sigmoid(gate * x)), wide as stream and skips.

    taps      inputs that a token hears of: itself and taps - 1 before it, `dilation` apart
    A sublayer: (x, positions, state, source) -> (y [batch, seq, d_model + d_skip], staged inputs).
    """

    def __init__(self, d_model: int, d_skip: int, *, taps: int, dilation: int) -> None:
        super().__init__()
        self.d_model, self.dilation, self.distances = (
            d_model,
            dilation,
            tuple(range((taps - 1) * dilation, 0, -dilation)),
        )
        self.expand = nn.Linear(taps * d_model, 2 * d_model)
        self.contract = nn.Linear(d_model, d_model + d_skip)
        self.neurons = Tap()

    @property
    def reach(self) -> int:
        """How far back the first tap lies: what has to be remembered."""
        return max(self.distances, default=0)

    def init_state(self, batch_size: int, max_length: int, **kind: Any) -> KeyValueRing | None:
        return KeyValueRing.empty(batch_size, 1, self.reach, self.d_model, 0, **kind) if self.reach else None

    def forward(
        self, x: Hidden, positions: Positions, state: KeyValueRing | None = None, source: Any = None
    ) -> tuple[Tensor, Any]:
        stream = x[..., : self.d_model]
        heard = [earlier(stream, positions, state, distance) for distance in self.distances]
        signal, gate = self.expand(torch.cat([*heard, stream], -1)).chunk(2, -1)
        neurons = self.neurons(signal.tanh() * gate.sigmoid())
        return self.contract(neurons), None if state is None else stage(stream, positions, state)


def earlier(x: Hidden, positions: Positions, ring: KeyValueRing | None, distance: int) -> Hidden:
    """For every token the input that stands `distance` before it in its document; zeros where there is none."""
    if positions.start is not None and (ring is None or ring.start == positions.start):
        return _shifted(x, positions.start, ring, distance)
    p, (batch, length) = positions.rows(x.shape[0]), x.shape[:2]
    rank = p.present.cumsum(-1) - 1  # among the tokens of this call that are there
    place = torch.zeros(batch, length + 1, dtype=torch.long, device=x.device)
    place.scatter_(1, torch.where(p.present, rank, length), torch.arange(length, device=x.device).expand(batch, -1))
    wanted, document = rank - distance, _documents(p)
    source = place.gather(1, wanted.clamp(min=0))
    is_it = (p.index.gather(1, source) == p.index - distance) & (document.gather(1, source) == document)
    found = _pick(x, source, is_it & p.present & (wanted >= 0))
    if ring is None:
        return found
    slot = (ring.written[:, None] + wanted) % ring.capacity
    is_it = (ring.index.gather(1, slot) == p.index - distance) & (ring.document.gather(1, slot) == document)
    return found + _pick(ring.keys[:, 0].to(x.dtype), slot, is_it & (wanted < 0) & (p.index >= distance))


def _shifted(x: Hidden, start: int, ring: KeyValueRing | None, distance: int) -> Hidden:
    """Where every row is start, start + 1, ..: inputs moved by `distance`, behind those that the ring remembers."""
    count = min(distance, x.shape[1])
    if ring is None or start == 0:
        before = x.new_zeros(x.shape[0], count, x.shape[2])
    else:
        index = torch.arange(start - distance, start - distance + count, device=x.device)
        before = ring.keys[:, 0, index % ring.capacity].to(x.dtype) * (index >= 0)[:, None]
    return torch.cat([before, x[:, : x.shape[1] - count]], 1)


def _documents(p: Positions) -> Tensor:
    return torch.zeros_like(p.index) if p.document is None else p.document


def _pick(t: Tensor, place: Tensor, keep: Tensor) -> Tensor:
    """Of t [batch, n, d] what stands at `place` [batch, seq]; zeros where `keep` is false."""
    return t.gather(1, place[..., None].expand(-1, -1, t.shape[2])) * keep[..., None]


def stage(x: Hidden, positions: Positions, ring: KeyValueRing) -> StagedEntries:
    return StagedInputs(ring, x[:, None], x[:, None, :, :0], positions)


@dataclass
class StagedInputs(StagedEntries):
    """Inputs of one call, not yet remembered. Where all rows stand at one place, they still do when the ring wraps around."""

    def commit(self) -> KeyValueRing:
        ring, start, length = self.ring, self.positions.start, self.k.shape[2]
        if start is None or start != ring.start or start + length <= ring.capacity:
            return super().commit()
        newest = min(length, ring.capacity)
        index = torch.arange(start + length - newest, start + length, device=self.k.device)
        slots = index % ring.capacity
        ring.keys[:, :, slots] = self.k.detach()[:, :, -newest:].to(ring.keys.dtype)
        ring.index[:, slots] = index
        ring.document[:, slots] = 0
        written, stop = ring.written + length, start + length
        return KeyValueRing(ring.keys, ring.values, ring.index, ring.document, written, stop, ring.overflow, stop)


class SkipTrunk(Trunk):
    """x <- x + dropout(sublayer(x)), without norms, on two kinds of channels side by side: the stream, which sublayers read,
    and behind it the skips, which they only add to."""

    def __init__(self, blocks: Blocks, **settings: Any) -> None:
        super().__init__(blocks, nn.Identity, **settings)

    def residual(
        self, x: Hidden, sublayer: nn.Module, norm: nn.Module, positions: Positions, node: Any, source: Any
    ) -> tuple[Hidden, Any]:
        y, staged = sublayer(x, positions, node, source)
        return x + self.drop(y), staged
