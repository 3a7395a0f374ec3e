"""Leaky averages of the past: what a memory's keys are made of (Memory Mosaics, 2405.06394, section 4).

    kbar_t = sum over j <= t of exp(-rate (t - j)) x_j        a rate for each head, within the document of t

`matrix` is that formula: a matrix of T x T weights a head. `leaky_average` is the same in linear time and memory: chunks
of `CHUNK` tokens by the matrix, the ends of the chunks by the same average again, and what a chunk's end hands on fades
over the next chunk. All exponents are at most 0, so nothing overflows at any rate; what underflows is 0 and should be.

Padding adds nothing and moves no time, so at padding the average is what it was at the token before.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from formers.errors import StateError
from formers.parts.positions import EMPTY, Positions

CHUNK = 64
"""Tokens of a chunk: the matrices of weights hold CHUNK numbers a token."""

Rates = Float[Tensor, " heads"]
Course = Float[Tensor, "batch heads seq d"]


# --- what is carried from call to call --------------------------------------------------------------------------------


@dataclass
class Last:
    """The last token that each row has read, as an average goes on from it.

    average   [batch, heads, 1, d]  the running average, in at least float32
    feature   [batch, heads, 1, d_feature]  what else waits for the next token; of width 0 where nothing does
    index     Int [batch, 1]  its place in its document; -1: nothing was read
    document  Int [batch, 1]
    start     the promise that every row has read exactly tokens 0 .. start-1 of one document; None: nothing is promised
    """

    average: Tensor
    feature: Tensor
    index: Int[Tensor, "batch 1"]
    document: Int[Tensor, "batch 1"]
    start: int | None = 0

    @classmethod
    def nothing(
        cls, batch: int, heads: int, d: int, d_feature: int = 0, *, dtype: torch.dtype, device: torch.device | str
    ) -> Last:
        wide = torch.promote_types(dtype, torch.float32)
        return cls(
            torch.zeros(batch, heads, 1, d, dtype=wide, device=device),
            torch.zeros(batch, heads, 1, d_feature, dtype=dtype, device=device),
            torch.full((batch, 1), EMPTY, device=device),
            torch.zeros(batch, 1, dtype=torch.long, device=device),
        )

    def map_rows(self, function: Callable[[Tensor], Tensor]) -> Last:
        return Last(**{name: function(tensor) for name, tensor in self.tensors().items()}, start=self.start)

    def reset(self, rows: Bool[Tensor, " batch"]) -> Last:
        away = rows[:, None, None, None]
        start = 0 if bool(rows.all()) and self.start is not None else None
        average, feature = self.average.masked_fill(away, 0.0), self.feature.masked_fill(away, 0.0)
        return Last(average, feature, self.index.masked_fill(rows[:, None], EMPTY), self.document, start)

    def dynamic(self) -> Last:
        return Last(**self.tensors(), start=None)

    def keep(self, length: int) -> Last:
        """Raises StateError but for nothing and for all that was read: an average does not say what it was before."""
        if length == 0:
            kept = self.reset(torch.ones(len(self.index), dtype=torch.bool, device=self.index.device))
            return Last(**kept.tensors(), start=0)
        if length != self.start:
            raise StateError(f"a running average of {self.start} tokens does not know what it was after {length}")
        return self

    def tensors(self) -> dict[str, Tensor]:
        return {name: getattr(self, name) for name in ("average", "feature", "index", "document")}

    def with_tensors(self, tensors: dict[str, Tensor]) -> Last:
        return Last(**tensors, start=None)


@dataclass
class StagedLast:
    """The last tokens after a call, not yet remembered."""

    before: Last
    after: Last

    def commit(self) -> Last:
        """Detached, in the types that the node had."""
        old = self.before.tensors()
        new = {name: tensor.detach().to(old[name].dtype) for name, tensor in self.after.tensors().items()}
        return Last(**new, start=self.after.start)


# --- positions, as an average reads them ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Apart:
    """Rows that do not go on in step: padding, documents side by side. All [batch, seq].

    Columns count what was read before the call as 0, then the call's tokens from 1.

    text      Int   documents begun in this call; 0 goes on from what was read before
    present   Bool  tokens, not padding
    previous  Int   the column of the last token before each
    latest    Int   the column of the last token at or before each
    follows   Bool  tokens whose previous one is of the same document
    document  Int   of the latest
    """

    text: Tensor
    present: Tensor
    previous: Tensor
    latest: Tensor
    follows: Tensor
    document: Tensor


@dataclass(frozen=True)
class Times:
    """When each token of a call comes. Padding comes when the token before it does.

    index  Int [1 or batch, seq]  place in the document
    apart  None: all rows go on in step, each token after the one before it
    """

    index: Tensor
    apart: Apart | None = None

    @property
    def text(self) -> Tensor | None:
        return None if self.apart is None else self.apart.text

    @classmethod
    def of(cls, positions: Positions, batch: int, last: Last | None) -> Times:
        if positions.start is not None and (last is None or _in_step(positions, last)):
            return cls(positions.index)
        rows = positions.rows(batch)
        document = torch.zeros_like(rows.index) if rows.document is None else rows.document
        first = rows.index.new_full((batch, 1), EMPTY)
        before = (first, torch.zeros_like(first)) if last is None else (last.index, last.document)
        index, document = torch.cat([before[0], rows.index], 1), torch.cat([before[1], document], 1)
        column = torch.arange(index.shape[1], device=index.device)
        latest = torch.where(index >= 0, column, 0).cummax(1).values
        previous, latest = latest[:, :-1], latest[:, 1:]
        came = index.gather(1, previous)
        same = document.gather(1, previous) == document[:, 1:]
        follows = rows.present & (came >= 0) & same & (came < rows.index)
        text = (rows.present & ~follows).long().cumsum(1)
        apart = Apart(text, rows.present, previous, latest, follows, document.gather(1, latest))
        return cls(index.gather(1, latest), apart)


def _in_step(positions: Positions, last: Last) -> bool:
    return positions.start == last.start and positions.document is None


# --- the average --------------------------------------------------------------------------------------------------------


def leaky_average(x: Course, rate: Rates, times: Times, last: Last | None = None) -> Course:
    """kbar of every token, in at least float32. rate: at least 0, a head each; `last`: what was read before the call."""
    return _going_on(_scan(_counted(x, times), rate, times.index, times.text), rate, times, last)


def matrix(x: Course, rate: Rates, times: Times, last: Last | None = None) -> Course:
    """The slow twin: one matrix of T x T weights a head."""
    weights = _weights(rate, times.index, times.text)
    return _going_on(weights @ _counted(x, times), rate, times, last)


def _counted(x: Tensor, times: Times) -> Tensor:
    """x in at least float32, without padding."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    return x if times.apart is None else x.masked_fill(~times.apart.present[:, None, :, None], 0.0)


def _going_on(average: Tensor, rate: Tensor, times: Times, last: Last | None) -> Tensor:
    """With what was there before the call, faded."""
    if last is None:
        return average
    faded = _fade(rate, times.index - last.index)
    if times.text is not None:
        faded = faded.masked_fill((times.text > 0)[:, None], 0.0)
    return average + faded[..., None] * last.average.to(faded.dtype)


def _scan(x: Tensor, rate: Tensor, index: Tensor, text: Tensor | None) -> Tensor:
    """x [b, h, t, d], index and text [1 or b, t]: chunks, and the same of their ends."""
    length = x.shape[2]
    if length <= CHUNK:
        return _weights(rate, index, text) @ x
    short = -length % CHUNK
    x = F.pad(x, (0, 0, 0, short)).unflatten(2, (-1, CHUNK))
    index, text = _chunks(index, short), None if text is None else _chunks(text, short)
    alike = index[:, :1] if text is None else index  # where rows go on in step, all chunks have the same weights
    within = _weights(rate, alike, text) @ x
    handed_on = _scan(within[..., -1, :], rate, index[..., -1], None if text is None else text[..., -1])
    handed_on = F.pad(handed_on, (0, 0, 1, -1))
    faded = _fade(rate, index - _from_the_chunk_before(index))
    if text is not None:
        faded = faded.masked_fill((text != _from_the_chunk_before(text))[:, None], 0.0)
    return (within + faded[..., None] * handed_on[..., None, :]).flatten(2, 3)[:, :, :length]


def _weights(rate: Tensor, index: Tensor, text: Tensor | None) -> Tensor:
    """exp(-rate (t - j)) for j <= t of one text, else 0: [1 or b, h, .., t, t] of an index [1 or b, .., t]."""
    faded = _fade(rate, index[..., :, None] - index[..., None, :])
    length = index.shape[-1]
    seen = torch.ones(length, length, dtype=torch.bool, device=index.device).tril()
    if text is not None:
        seen = (seen & (text[..., :, None] == text[..., None, :]))[:, None]
    return faded.masked_fill(~seen, 0.0)


def _fade(rate: Tensor, distance: Tensor) -> Tensor:
    """exp(-rate distance), of distances below 0 (which are masked) 1: [1 or b, h, ..] of [1 or b, ..]."""
    wide = torch.promote_types(rate.dtype, torch.float32)
    rate = rate.to(wide).view(-1, *(1,) * (distance.ndim - 1))
    return torch.exp(-rate * distance.clamp(min=0)[:, None].to(wide))


def _chunks(t: Tensor, short: int) -> Tensor:
    """[1 or b, t] -> [1 or b, chunks, CHUNK], the last number repeated to the end."""
    return torch.cat([t, t[:, -1:].expand(-1, short)], 1).unflatten(1, (-1, CHUNK))


def _from_the_chunk_before(t: Tensor) -> Tensor:
    """Of [.., chunks, CHUNK] the last number of each chunk's predecessor, [.., chunks, 1]; the first has its own."""
    ends = t[..., -1:]
    return torch.cat([t[:, :1, :1], ends[:, :-1]], 1)
