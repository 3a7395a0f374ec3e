"""Beam search: the likeliest continuations that a search of a given width finds.

    for best, *others in beam_search(model, prompts, num_beams=4, stop_tokens=(1,)):
        print(best.ids, best.score)

At every step the beams of a prompt are continued by every token, and the likeliest of all continuations that have not ended
become its next beams. The state is reordered accordingly: a new beam goes on from the state of the beam it continues.

What ends is scored by log p / length^length_penalty, length counting the new tokens, a stop token included; it is kept if it
was among the `num_beams` likeliest continuations of its step and is among the `num_beams` best that ended so far. These are
the rules of transformers' generate, `early_stopping` with its three values included.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from formers.config import below_one, replace, require
from formers.generation.loop import reader_of
from formers.generation.prompts import PromptIds, Prompts
from formers.generation.readers import begin, device_of
from formers.generation.stops import LENGTH, TOKEN


@dataclass(frozen=True)
class BeamSettings:
    """How wide and how far to search.

    num_beams        continuations that are followed at a time
    max_new_tokens   at most so many tokens
    length_penalty   above 0 longer texts gain, below 0 shorter ones do; 0: the sum of log-probabilities decides
    early_stopping   when the search for a prompt ends, `num_beams` continuations having ended: True, at once; False, when
                     the best beam, scored as if it ended now, is no better than the worst of them; "never", when no
                     continuation of the best beam could be better
    num_return       how many of the best to return
    stop_tokens      ids that end a continuation; the id itself still belongs to it
    vocab_size       ids from here on are never chosen; None: all may be
    pack             see `formers.generation.few_rows`
    """

    num_beams: int = 4
    max_new_tokens: int = 64
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False
    num_return: int = 1
    stop_tokens: tuple[int, ...] = ()
    vocab_size: int | None = None
    pack: bool | None = None

    def __post_init__(self) -> None:
        problems = below_one(self, ("num_beams", "max_new_tokens", "num_return"))
        if self.num_return > self.num_beams:
            problems.append(f"num_return is {self.num_return}, wanted at most num_beams, {self.num_beams}")
        if self.early_stopping not in (True, False, "never"):
            problems.append(f"early_stopping is {self.early_stopping!r}, wanted True, False or 'never'")
        require("BeamSettings", problems)


@dataclass(frozen=True)
class Hypothesis:
    """A continuation that ended: its new ids, log p of them given the prompt, its score, and why it ended."""

    ids: tuple[int, ...]
    log_prob: float
    score: float
    ended: str


@dataclass(frozen=True)
class Beam:
    """A continuation that has not ended."""

    ids: tuple[int, ...] = ()
    log_prob: float = 0.0


def beam_search(
    model: nn.Module, input_ids: PromptIds, *, settings: BeamSettings | None = None, **changes: Any
) -> list[list[Hypothesis]]:
    """The `num_return` best continuations of every prompt, the best first.

    To an encoder-decoder `input_ids` are sources. Settings, or any field of BeamSettings by name. Runs in evaluation mode
    without gradients. Raises as `generate` does.
    """
    if isinstance(changes.get("stop_tokens"), int):
        changes["stop_tokens"] = (changes["stop_tokens"],)
    chosen = replace(settings or BeamSettings(), **changes)
    prompts, source = begin(model, Prompts.read(input_ids))
    prompts.check(model, chosen.max_new_tokens)
    searches = [Search(chosen) for _ in prompts.rows]
    with torch.inference_mode():
        _run(model, prompts, source, chosen, searches)
    return [search.ended[: chosen.num_return] for search in searches]


def _run(
    model: nn.Module, prompts: Prompts, source: Prompts | None, settings: BeamSettings, searches: Sequence[Search]
) -> None:
    device, rows = device_of(model), len(searches) * settings.num_beams
    reader = reader_of(model, prompts, source, batch=rows, steps=settings.max_new_tokens, pack=settings.pack)
    logits, under_way = reader.prompt(), list(searches)
    while True:
        parents, first = [], 0
        wide = logits[:, : settings.vocab_size].to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
        for search in under_way:
            last = first + len(search.beams)
            origins = search.advance(wide[first:last])
            parents += [] if search.done else [first + origin for origin in origins]
            first = last
        under_way = [search for search in under_way if not search.done]
        if not under_way:
            return
        reader.select(torch.tensor(parents, device=device))
        tokens = [beam.ids[-1] for search in under_way for beam in search.beams]
        logits = reader.token(torch.tensor(tokens, device=device))


@dataclass
class Search:
    """The beams of one prompt, and the best continuations that ended, the best first."""

    settings: BeamSettings
    beams: list[Beam] = field(default_factory=lambda: [Beam()])
    ended: list[Hypothesis] = field(default_factory=list)
    done: bool = False

    def advance(self, log_probs: Tensor) -> list[int]:
        """One step: log_probs [beams, vocab] of the next token of each beam. Returns which beam each new beam continues."""
        s, length = self.settings, len(self.beams[0].ids) + 1
        beams, origins = [], []
        for rank, (log_prob, origin, token) in enumerate(self._likeliest(log_probs)):
            ids = (*self.beams[origin].ids, token)
            reason = TOKEN if token in s.stop_tokens else LENGTH if length == s.max_new_tokens else None
            if reason is None:
                beams.append(Beam(ids, log_prob))
                origins.append(origin)
            elif rank < s.num_beams:
                self.ended.append(Hypothesis(ids, log_prob, self._score(log_prob, length), reason))
        self.ended = sorted(self.ended, key=lambda h: -h.score)[: s.num_beams]
        self.beams, origins = beams[: s.num_beams], origins[: s.num_beams]
        self.done = not self.beams or (len(self.ended) == s.num_beams and self._is_settled(length))
        return origins

    def _likeliest(self, log_probs: Tensor) -> list[tuple[float, int, int]]:
        """Log p, beam and token of the likeliest continuations: enough that `num_beams` of them have not ended."""
        before = torch.tensor([beam.log_prob for beam in self.beams], dtype=log_probs.dtype, device=log_probs.device)
        every = (log_probs + before[:, None]).flatten()
        count = self.settings.num_beams * max(2, 1 + len(self.settings.stop_tokens))
        top, place = every.topk(min(count, len(every)))
        width = log_probs.shape[1]
        return [(p, i // width, i % width) for p, i in zip(top.tolist(), place.tolist(), strict=True)]

    def _is_settled(self, length: int) -> bool:
        """Whether what ended, being enough, ends the search."""
        s = self.settings
        if s.early_stopping is True:
            return True
        longest = s.max_new_tokens if s.early_stopping == "never" and s.length_penalty > 0 else length
        return self._score(self.beams[0].log_prob, longest) <= self.ended[-1].score

    def _score(self, log_prob: float, length: int) -> float:
        return log_prob / length**self.settings.length_penalty
