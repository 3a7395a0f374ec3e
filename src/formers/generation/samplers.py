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

import torch
from jaxtyping import Float, Int
from torch import Tensor

from formers.config import require
from formers.errors import RunError
from formers.generation.filters import (
    CountPenalty,
    Filter,
    LastLogits,
    MinP,
    NoRepeatNGram,
    Penalty,
    RepetitionPenalty,
    Seen,
    Temperature,
    TopK,
    TopP,
    Typical,
    widest,
)

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
    weights = (widest(logits) - logits.amax(-1, keepdim=True)).exp()
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
        self.temperature = Temperature(settings.temperature)
        self.filters = _filters(settings)

    def process(self, logits: LastLogits, seen: Seen) -> LastLogits:
        """The logits [batch, vocab] that are drawn from, in float32 or wider; what is left out is -inf."""
        return self._filtered(self._heated(self._penalised(logits, seen)))

    def __call__(self, logits: LastLogits, seen: Seen, uniform: Float[Tensor, " batch"]) -> Tokens:
        """One token a row. `uniform` [batch] in [0, 1) decides; greedy settings ignore it."""
        logits = self._penalised(logits, seen)
        if self.settings.greedy:
            return most_probable(logits)
        logits, ids = self._shortlisted(self._heated(logits))
        chosen = draw(self._filtered(logits), uniform)
        return chosen if ids is None else ids.gather(1, chosen[:, None])[:, 0]

    def _penalised(self, logits: LastLogits, seen: Seen) -> LastLogits:
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        for penalty in self.penalties:
            logits = penalty(logits, seen)
        return logits

    def _heated(self, logits: LastLogits) -> LastLogits:
        return logits if self.settings.temperature in (0, 1) else self.temperature(logits)

    def _filtered(self, logits: LastLogits) -> LastLogits:
        for keep in self.filters:
            logits = keep(logits)
        return logits

    def _shortlisted(self, logits: LastLogits) -> tuple[LastLogits, Tensor | None]:
        """With top-k, the filters and the draw need to see little more than k tokens: the same choice, far cheaper."""
        return (logits, None) if self.settings.top_k is None else shortlist(logits, self.settings.top_k)


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
    if bool((top[:, -1] >= top[:, k - 1]).any()):
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
    if s.top_k is not None:
        chosen.append(TopK(s.top_k))
    if s.top_p is not None and s.top_p < 1:
        chosen.append(TopP(s.top_p))
    if s.min_p is not None and s.min_p > 0:
        chosen.append(MinP(s.min_p))
    if s.typical_p is not None and s.typical_p < 1:
        chosen.append(Typical(s.typical_p))
    return tuple(chosen)
