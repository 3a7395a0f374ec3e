"""What changes or cuts the distribution of the next token. All pure, all on logits [batch, vocab]; removed tokens are -inf."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

LastLogits = Float[Tensor, "batch vocab"]


# --- penalties: they read the text so far -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Seen:
    """The text so far: ids Int [batch, seq], and present Bool [batch, seq], False at padding (None: no padding)."""

    ids: Int[Tensor, "batch seq"]
    present: Bool[Tensor, "batch seq"] | None = None

    def anywhere(self, vocab_size: int) -> Bool[Tensor, "batch vocab"]:
        """Which tokens stand in each row."""
        columns = self._columns(vocab_size)
        found = torch.zeros(len(columns), vocab_size + 1, dtype=torch.bool, device=columns.device)
        return found.scatter_(1, columns, True)[:, :vocab_size]

    def counts(self, vocab_size: int) -> Int[Tensor, "batch vocab"]:
        """How often each token stands in each row."""
        columns = self._columns(vocab_size)
        counts = torch.zeros(len(columns), vocab_size + 1, dtype=torch.long, device=columns.device)
        return counts.scatter_add_(1, columns, torch.ones_like(columns))[:, :vocab_size]

    def _columns(self, vocab_size: int) -> Int[Tensor, "batch seq"]:
        """The ids, with padding and ids beyond the logits in a spare column."""
        columns = self.ids.clamp(max=vocab_size)
        return columns if self.present is None else columns.masked_fill(~self.present, vocab_size)


class Penalty(Protocol):
    def __call__(self, logits: LastLogits, seen: Seen) -> LastLogits: ...


@dataclass(frozen=True)
class RepetitionPenalty:
    """Tokens that were seen become less probable, once each: l > 0 -> l / r, l < 0 -> l r (1909.05858, section 4.1)."""

    penalty: float

    def __call__(self, logits: LastLogits, seen: Seen) -> LastLogits:
        penalised = torch.where(logits < 0, logits * self.penalty, logits / self.penalty)
        return torch.where(seen.anywhere(logits.shape[-1]), penalised, logits)


@dataclass(frozen=True)
class CountPenalty:
    """l - count frequency - [count > 0] presence, as OpenAI's interface defines the two."""

    frequency: float = 0.0
    presence: float = 0.0

    def __call__(self, logits: LastLogits, seen: Seen) -> LastLogits:
        counts = seen.counts(logits.shape[-1])
        return logits - (counts * self.frequency + (counts > 0) * self.presence).to(logits.dtype)


@dataclass(frozen=True)
class NoRepeatNGram:
    """Bans every token that would complete an n-gram which already stands in the row."""

    n: int

    def __call__(self, logits: LastLogits, seen: Seen) -> LastLogits:
        length, vocab_size = seen.ids.shape[1], logits.shape[-1]
        if length < self.n:
            return logits
        windows = seen.ids.unfold(1, self.n, 1)  # [batch, windows, n]
        tail = seen.ids[:, length - self.n + 1 :]
        repeats = (windows[..., :-1] == tail[:, None]).all(-1)
        if seen.present is not None:
            repeats = (
                repeats
                & seen.present.unfold(1, self.n, 1).all(-1)
                & seen.present[:, length - self.n + 1 :].all(-1)[:, None]
            )
        banned = torch.zeros(len(logits), vocab_size + 1, dtype=torch.bool, device=logits.device)
        last = windows[..., -1].clamp(max=vocab_size).masked_fill(~repeats, vocab_size)
        return logits.masked_fill(banned.scatter_(1, last, True)[:, :vocab_size], -torch.inf)


# --- filters: they read the distribution alone --------------------------------------------------------------------------


class Filter(Protocol):
    def __call__(self, logits: LastLogits) -> LastLogits: ...


@dataclass(frozen=True)
class Temperature:
    """l / T. Greedy decoding (T = 0) is an argmax, not a division: the sampler does it."""

    value: float

    def __call__(self, logits: LastLogits) -> LastLogits:
        return logits / self.value


@dataclass(frozen=True)
class TopK:
    """Keep l >= the k-th largest: ties with it all stay."""

    k: int

    def __call__(self, logits: LastLogits) -> LastLogits:
        least = logits.topk(min(self.k, logits.shape[-1])).values[:, -1:]
        return logits.masked_fill(logits < least, -torch.inf)


@dataclass(frozen=True)
class TopP:
    """Keep the smallest set of most probable tokens with mass >= p, the one that crosses p included (1904.09751)."""

    p: float

    def __call__(self, logits: LastLogits) -> LastLogits:
        least = least_of_nucleus(logits, self.p)
        if least is not None:
            return logits.masked_fill(logits < least, -torch.inf)
        ascending, order = logits.sort(dim=-1, stable=True)  # of equals, the last ids stay
        mass_up_to = widest(ascending).softmax(-1).cumsum(-1)  # of a token and all less probable ones
        outside = mass_up_to <= 1 - self.p
        outside[:, -1] = False
        return logits.masked_fill(outside.scatter(1, order, outside), -torch.inf)


NUCLEUS = 512
"""Tokens to which a nucleus is looked for before a whole vocabulary is sorted, which takes ten times as long."""


def least_of_nucleus(logits: LastLogits, p: float) -> Float[Tensor, "batch 1"] | None:
    """The smallest logit of the nucleus; None where it is too large to be found among the first few tokens, or where
    tokens tie at its border, so that the order of ids must decide."""
    if logits.shape[-1] < 4 * NUCLEUS:
        return None
    top = logits.topk(NUCLEUS + 1).values
    probabilities = (widest(top) - widest(logits).logsumexp(-1, keepdim=True)).exp()
    size = (probabilities.cumsum(-1) - probabilities < p).sum(-1, keepdim=True).clamp(min=1)
    if bool((size > NUCLEUS).any()):
        return None
    least, beyond = top.gather(1, size - 1), top.gather(1, size)
    return None if bool((least == beyond).any()) else least


@dataclass(frozen=True)
class MinP:
    """Keep p_i >= min_p max p (2407.01082)."""

    p: float

    def __call__(self, logits: LastLogits) -> LastLogits:
        probabilities = logits.softmax(-1)
        largest = probabilities.amax(-1, keepdim=True)
        return logits.masked_fill(probabilities < self.p * largest, -torch.inf)


@dataclass(frozen=True)
class Typical:
    """Keep the tokens whose surprise -log p is nearest the entropy, with mass >= `mass` (2202.00666, equation 9).

    This may drop the most probable token: if one token has p = 0.6, its surprise is below the entropy of the rest.
    """

    mass: float

    def __call__(self, logits: LastLogits) -> LastLogits:
        log_p = logits.log_softmax(-1)
        entropy = -(log_p.exp() * log_p).nansum(-1, keepdim=True)  # 0 log 0 is 0
        oddness = (-log_p - entropy).abs()
        nearest, order = oddness.sort(dim=-1, stable=True)
        reached = log_p.gather(1, order).exp().cumsum(-1)
        last = (reached < self.mass).sum(-1, keepdim=True).clamp(max=logits.shape[-1] - 1)
        outside = nearest > nearest.gather(1, last)
        outside[:, 0] = False
        return logits.masked_fill(outside.scatter(1, order, outside), -torch.inf)


def widest(t: Tensor) -> Tensor:
    """float64, or float32 on the one device that has no float64."""
    return t.to(torch.float32 if t.device.type == "mps" else torch.float64)
