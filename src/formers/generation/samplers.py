"""From logits to the next token: penalties, then filters, then one draw a row.

The order is Hugging Face's: repetition, frequency and presence penalties, banned n-grams; temperature; top-k; top-p;
min-p; typical. Each filter sees the distribution that the ones before it left, removed tokens being -inf, so top-p after
top-k reads the renormalised top-k distribution. All functions here are pure and know no model.

    sampler = Sampler(SampleSettings(temperature=0.8, top_k=50))
    tokens = sampler(logits, Seen(ids), RowRandom([0, 1, 2]).next())

Adding a constant to the logits changes nothing, with one exception: the repetition penalty divides or multiplies by the
*sign* of a logit (1909.05858, section 4.1), so it depends on where zero is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from formers.config import require
from formers.errors import RunError

LastLogits = Float[Tensor, "batch vocab"]
Tokens = Int[Tensor, " batch"]


@dataclass(frozen=True)
class SampleSettings:
    """How the next token is chosen. Every default leaves the distribution as it is.

    temperature         logits are divided by it; 0 takes the most probable token (the first one of a tie)
    top_k               keep the k most probable tokens, and all that tie with the last of them
    top_p               keep the fewest most probable tokens whose mass reaches p (1904.09751)
    min_p               keep tokens at least min_p times as probable as the most probable one (2407.01082)
    typical_p           keep the tokens whose surprise is nearest the entropy, up to that mass (2202.00666)
    repetition_penalty  once for each distinct token of the text so far: logits > 0 divided, < 0 multiplied (1909.05858)
    frequency_penalty   subtracted for each time a token stands in the text so far
    presence_penalty    subtracted once if it stands there at all
    no_repeat_ngram     no n-gram of this length twice

    "The text so far" is prompt and continuation; padding is never counted. Raises ConfigError listing every problem.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    no_repeat_ngram: int | None = None

    def __post_init__(self) -> None:
        wanted = {
            "temperature": (self._finite(self.temperature) and self.temperature >= 0, "0 (greedy) or more"),
            "top_k": (self.top_k is None or self.top_k >= 1, "at least 1, or None to keep all"),
            "top_p": (self.top_p is None or 0 < self.top_p <= 1, "above 0 and at most 1, or None"),
            "min_p": (self.min_p is None or 0 <= self.min_p <= 1, "from 0 to 1, or None"),
            "typical_p": (self.typical_p is None or 0 < self.typical_p <= 1, "above 0 and at most 1, or None"),
            "repetition_penalty": (
                self._finite(self.repetition_penalty) and self.repetition_penalty > 0,
                "above 0 (1 changes nothing, above 1 discourages)",
            ),
            "frequency_penalty": (self._finite(self.frequency_penalty), "a finite number"),
            "presence_penalty": (self._finite(self.presence_penalty), "a finite number"),
            "no_repeat_ngram": (self.no_repeat_ngram is None or self.no_repeat_ngram >= 1, "at least 1, or None"),
        }
        require(
            "SampleSettings",
            [f"{name} is {getattr(self, name)}, wanted {what}" for name, (fine, what) in wanted.items() if not fine],
        )

    @property
    def greedy(self) -> bool:
        return self.temperature == 0

    @staticmethod
    def _finite(value: float) -> bool:
        return math.isfinite(value)


# --- penalties: they read the text so far -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Seen:
    """The text so far: ids Int [batch, seq], and present Bool [batch, seq], False at padding (None: no padding)."""

    ids: Int[Tensor, "batch seq"]
    present: Bool[Tensor, "batch seq"] | None = None

    def counts(self, vocab_size: int) -> Int[Tensor, "batch vocab"]:
        """How often each token stands in each row."""
        # padding and ids beyond the logits are counted in a spare column
        columns = self.ids.clamp(max=vocab_size)
        if self.present is not None:
            columns = columns.masked_fill(~self.present, vocab_size)
        counts = torch.zeros(len(columns), vocab_size + 1, dtype=torch.long, device=columns.device)
        return counts.scatter_add_(1, columns, torch.ones_like(columns))[:, :vocab_size]


class Penalty(Protocol):
    def __call__(self, logits: LastLogits, seen: Seen) -> LastLogits: ...


@dataclass(frozen=True)
class RepetitionPenalty:
    """Tokens that were seen become less probable, once each: l > 0 -> l / r, l < 0 -> l r (1909.05858, section 4.1)."""

    penalty: float

    def __call__(self, logits: LastLogits, seen: Seen) -> LastLogits:
        penalised = torch.where(logits < 0, logits * self.penalty, logits / self.penalty)
        return torch.where(seen.counts(logits.shape[-1]) > 0, penalised, logits)


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
        ascending, order = logits.sort(dim=-1, stable=True)  # of equals, the last ids stay
        mass_up_to = ascending.softmax(-1).cumsum(-1)  # of a token and all less probable ones
        outside = mass_up_to <= 1 - self.p
        outside[:, -1] = False
        return logits.masked_fill(outside.scatter(1, order, outside), -torch.inf)


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


# --- drawing ------------------------------------------------------------------------------------------------------------


class RowRandom:
    """One stream of uniform numbers a row, each from its own seed: a row's text does not depend on its batch mates.

    One number is used a token, whatever the vocabulary or the filters; numbers are drawn in blocks of fixed size, so a
    stream is the same however long it is read.
    """

    BLOCK = 64

    def __init__(self, seeds: Sequence[int]) -> None:
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._block, self._used = torch.empty(len(self.generators), 0, dtype=torch.float64), 0

    def next(self) -> Float[Tensor, " batch"]:
        """The next number in [0, 1) of every row, float64, on the CPU."""
        if self._used == self._block.shape[1]:
            rows = [torch.rand(self.BLOCK, generator=g, dtype=torch.float64) for g in self.generators]
            self._block, self._used = torch.stack(rows), 0
        self._used += 1
        return self._block[:, self._used - 1]


def draw(logits: LastLogits, uniform: Float[Tensor, " batch"]) -> Tokens:
    """Invert the cumulative distribution at `uniform` in [0, 1). Tokens at -inf are never drawn.

    Weights are summed in float64 in the order of ids, so a row gives the same token whatever else is in the batch, and
    whether tokens at -inf are there or left out. Raises RunError where a row has nothing to draw from.
    """
    wide = torch.float32 if logits.device.type == "mps" else torch.float64  # that device has no float64
    weights = (logits.to(wide) - logits.amax(-1, keepdim=True)).exp()
    reached = weights.cumsum(-1)
    total = reached[:, -1:]
    _check_drawable(total[:, 0])
    point = torch.minimum(uniform.to(total)[:, None] * total, total.nextafter(torch.zeros_like(total)))
    return torch.searchsorted(reached, point, right=True)[:, 0]


def most_probable(logits: LastLogits) -> Tokens:
    """The most probable token, the first one of a tie. Raises RunError where a row has none."""
    top, tokens = logits.max(-1)
    _check_drawable(top)
    return tokens


def _check_drawable(sums: Float[Tensor, " batch"]) -> None:
    if not bool(sums.isfinite().all()):
        rows = (~sums.isfinite()).nonzero()[:, 0].tolist()
        raise RunError(
            f"row {', '.join(map(str, rows))} has no token to choose: its logits are not finite",
            "at least one finite logit and no nan in every row",
            "look for nan in the model's weights (formers certify), or for settings that ban every token",
        )


class Sampler:
    """Penalties, filters and the draw that `settings` ask for, in Hugging Face's order."""

    def __init__(self, settings: SampleSettings) -> None:
        self.settings = settings
        self.penalties = _penalties(settings)
        self.filters = _filters(settings)

    def process(self, logits: LastLogits, seen: Seen) -> LastLogits:
        """The logits [batch, vocab] that are drawn from, in float32 or wider; what is left out is -inf."""
        logits = self._penalised(logits, seen)
        for keep in self.filters:
            logits = keep(logits)
        return logits

    def __call__(self, logits: LastLogits, seen: Seen, uniform: Float[Tensor, " batch"]) -> Tokens:
        """One token a row. `uniform` [batch] in [0, 1) decides; greedy settings ignore it."""
        logits = self._penalised(logits, seen)
        if self.settings.greedy:
            return most_probable(logits)
        logits, ids = self._shortlisted(logits)
        for keep in self.filters:
            logits = keep(logits)
        chosen = draw(logits, uniform)
        return chosen if ids is None else ids.gather(1, chosen[:, None])[:, 0]

    def _penalised(self, logits: LastLogits, seen: Seen) -> LastLogits:
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        for penalty in self.penalties:
            logits = penalty(logits, seen)
        return logits

    def _shortlisted(self, logits: LastLogits) -> tuple[LastLogits, Tensor | None]:
        """With top-k, the filters and the draw need to see little more than k tokens: the same choice, far cheaper."""
        if self.settings.top_k is None:
            return logits, None
        return shortlist(logits, self.settings.top_k)


SPARE = 64
"""Tokens a shortlist holds beyond k, for ties with the k-th; logits in bfloat16 often tie."""


def shortlist(logits: LastLogits, k: int) -> tuple[LastLogits, Int[Tensor, "batch short"] | None]:
    """The most probable tokens in the order of ids, surely all that top-k keeps, and their ids.

    Ids are None, and the logits whole, where that would save nothing or where ties reach beyond the list.
    """
    size = k + SPARE
    if 2 * size > logits.shape[-1]:
        return logits, None
    top, ids = logits.topk(size)
    # a division by the temperature may yet make equal what is nearly equal, hence the margin
    nearly = top[:, k - 1] - 1e-5 * top[:, k - 1].abs()
    if bool((top[:, -1] >= nearly).any()):
        return logits, None
    ids = ids.sort(-1).values
    return logits.gather(1, ids), ids


def _penalties(s: SampleSettings) -> tuple[Penalty, ...]:
    asked: list[tuple[bool, Penalty]] = [
        (s.repetition_penalty != 1, RepetitionPenalty(s.repetition_penalty)),
        (s.frequency_penalty != 0 or s.presence_penalty != 0, CountPenalty(s.frequency_penalty, s.presence_penalty)),
    ]
    chosen = [penalty for wanted, penalty in asked if wanted]
    return tuple(chosen) if s.no_repeat_ngram is None else (*chosen, NoRepeatNGram(s.no_repeat_ngram))


def _filters(s: SampleSettings) -> tuple[Filter, ...]:
    chosen: list[Filter] = []
    if s.temperature not in (0, 1):
        chosen.append(Temperature(s.temperature))
    if s.greedy:
        return ()
    if s.top_k is not None:
        chosen.append(TopK(s.top_k))
    if s.top_p is not None and s.top_p < 1:
        chosen.append(TopP(s.top_p))
    if s.min_p is not None and s.min_p > 0:
        chosen.append(MinP(s.min_p))
    if s.typical_p is not None and s.typical_p < 1:
        chosen.append(Typical(s.typical_p))
    return tuple(chosen)
