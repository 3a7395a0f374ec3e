"""Steering: samplers that ask a model for more than what comes next. Seeds, penalties, filters, stops are those of `generate`.

    generate_between   two contexts at once: what both would say, either, or the first rather than the second
    generate_toward    what makes a suffix probable, or with a negative strength improbable (" -- and that was bad")
    generate_allowed   tokens that a function of the text so far allows
    choose             whole continuations that a scorer likes: the first that passes a threshold, or the best of several

The first three are readers around a reader, which change its logits; the last draws whole texts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from formers.errors import ConfigError, DataError, suggest
from formers.generation.filters import LastLogits, widest
from formers.generation.loop import Generation, Run, complete, gathered, reader_of
from formers.generation.prompts import PromptIds, Prompts, vocab_size_of
from formers.generation.readers import Reader, StateReader, begin, evaluating, keeps_state
from formers.generation.settings import GenerateSettings
from formers.parts.model import Model

if TYPE_CHECKING:
    from formers.text.base import Tokenizer

# --- two contexts -----------------------------------------------------------------------------------------------------


def product(first: LastLogits, second: LastLogits, weight: float, floor: float) -> LastLogits:
    """p_1^(1-w) p_2^w: what is plausible in both contexts."""
    return (1 - weight) * first + weight * second


def mixture(first: LastLogits, second: LastLogits, weight: float, floor: float) -> LastLogits:
    """(1-w) p_1 + w p_2: what is plausible in either."""
    shares = (math.log(share) if share else -math.inf for share in (1 - weight, weight))
    return torch.logaddexp(*(log_p + share for log_p, share in zip((first, second), shares, strict=True)))


def difference(first: LastLogits, second: LastLogits, weight: float, floor: float) -> LastLogits:
    """p_1 (p_1 / p_2)^w: what the first context says rather than the second. Of tokens that are at least `floor` times as
    probable as the first context's likeliest; rare ones would win by being rarer still in the other (2210.15097)."""
    kept = first >= first.amax(-1, keepdim=True) + (math.log(floor) if floor else -math.inf)
    return (first + weight * (first - second)).masked_fill(~kept, -math.inf)


WAYS = {"product": (product, 0.5), "mixture": (mixture, 0.5), "difference": (difference, 1.0)}
"""How two distributions become one, and the weight of the second unless one is given."""


class BetweenReader:
    """Two contexts of each row, read side by side: the first half of the batch and the second."""

    def __init__(self, reader: Reader, combine: Callable[[Tensor, Tensor], Tensor], vocab_size: int | None) -> None:
        self.reader, self.combine, self.vocab_size = reader, combine, vocab_size

    def prompt(self) -> Tensor:
        return self._combined(self.reader.prompt())

    def token(self, tokens: Tensor) -> Tensor:
        return self._combined(self.reader.token(tokens.repeat(2)))

    def select(self, rows: Tensor) -> None:
        raise NotImplementedError("no search goes on between two contexts")

    def _combined(self, logits: Tensor) -> Tensor:
        return self.combine(*widest(logits[:, : self.vocab_size]).log_softmax(-1).chunk(2))


def generate_between(
    model: nn.Module,
    first: PromptIds,
    second: PromptIds,
    *,
    how: str = "difference",
    weight: float | None = None,
    floor: float = 0.1,
    tokenizer: Tokenizer | None = None,
    settings: GenerateSettings | None = None,
    **changes: Any,
) -> Generation:
    """Continuations of two contexts at once, which go on with the same tokens. `prompts` of what it gives are the first's.

    second   as many as first, or one for all
    how      product, mixture or difference
    weight   of the second: 0.5 in a product or mixture, 1 in a difference; at 0 the first alone is heard
    floor    see `difference`

    Raises ConfigError for settings that cannot be, and DataError as `generate` does.
    """
    chosen, ways = GenerateSettings.of(settings, changes), ", ".join(WAYS)
    if how not in WAYS:
        raise ConfigError(f"how={how!r}", ways, suggest(how, WAYS))
    combine, usual = WAYS[how]
    weight = usual if weight is None else weight
    if not 0 <= weight <= (math.inf if how == "difference" else 1) or not 0 <= floor <= 1:
        raise ConfigError(
            f"weight={weight} and floor={floor} of a {how}", "a floor from 0 to 1, a weight from 0 (to 1)"
        )
    ours, others = Prompts.read(first), Prompts.read(second)
    if others.batch_size not in (1, ours.batch_size):
        raise DataError(f"{ours.batch_size} first contexts and {others.batch_size} second", "as many, or one second")
    rows = others.rows * ours.batch_size if others.batch_size == 1 else others.rows
    both, source = begin(model, Prompts(ours.rows + rows))
    both.check(model, chosen.max_new_tokens)
    reader = reader_of(model, both, source, batch=both.batch_size, steps=chosen.max_new_tokens, pack=chosen.pack)
    of_both = BetweenReader(reader, lambda a, b: combine(a, b, weight, floor), chosen.vocab_size)
    begun = Prompts(both.rows[: ours.batch_size])
    return gathered(begun, Run(model, begun, chosen, tokenizer, source=source, reader=of_both).steps())


# --- a suffix that is to follow ---------------------------------------------------------------------------------------


class SuffixReader:
    """Candidates for the next token, each weighed by how probable a suffix is behind it.

    One pass reads them all, each with the suffix behind it: the state of the text so far is forked for it, and stays.
    """

    def __init__(
        self, reader: StateReader, suffixes: Sequence[tuple[tuple[int, ...], float]], candidates: int, vocab: int | None
    ) -> None:
        self.reader, self.suffixes, self.candidates, self.vocab_size = reader, suffixes, candidates, vocab

    def prompt(self) -> Tensor:
        return self._weighed(self.reader.prompt())

    def token(self, tokens: Tensor) -> Tensor:
        return self._weighed(self.reader.token(tokens))

    def select(self, rows: Tensor) -> None:
        self.reader.select(rows)

    def _weighed(self, logits: LastLogits) -> LastLogits:
        logits = widest(logits[:, : self.vocab_size])
        top, ids = logits.topk(min(self.candidates, logits.shape[-1]))
        for suffix, strength in self.suffixes:
            top = top + strength * self._follows(ids, suffix)
        return torch.full_like(logits, -math.inf).scatter(1, ids, top)

    def _follows(self, ids: Int[Tensor, "batch k"], suffix: tuple[int, ...]) -> Float[Tensor, "batch k"]:
        """log P(suffix | text, candidate)."""
        said = torch.tensor(suffix, device=ids.device).expand(ids.numel(), -1)
        read = torch.cat([ids.reshape(-1, 1), said[:, :-1]], 1)
        assert self.reader.state is not None, "a prompt was read"
        with evaluating(self.reader.modules):
            hidden, _ = self.reader.model.body(read, None, self.reader.state.fork(ids.shape[1]))
            log_p = widest(self.reader.model.head(hidden)).log_softmax(-1)
        return log_p.gather(-1, said[..., None]).sum((1, 2)).view(ids.shape)


def generate_toward(
    model: nn.Module,
    input_ids: PromptIds,
    suffix: Sequence[int],
    *,
    strength: float = 1.0,
    against: Sequence[int] = (),
    candidates: int = 16,
    tokenizer: Tokenizer | None = None,
    settings: GenerateSettings | None = None,
    **changes: Any,
) -> Generation:
    """Continuations whose every token is drawn from p(token) P(suffix | token)^strength.

    suffix      ids of what is to follow the text at any place; with a strength below 0, of what is not to
    against     another suffix, that P(suffix) is divided by P of: " -- and that was good" takes out of " -- and that was bad"
                what any such remark owes to its form
    candidates  only so many tokens, the likeliest, are weighed and may be drawn

    Raises ConfigError for a model without a state, DataError as `generate` does.
    """
    if not isinstance(model, Model) or not keeps_state(model):
        raise ConfigError(
            f"{type(model).__name__} keeps no state", "a model with one, which is forked for the candidates"
        )
    if not suffix or candidates < 1:
        raise ConfigError(f"a suffix of {len(suffix)} ids and {candidates} candidates", "at least one of each")
    chosen = GenerateSettings.of(settings, changes)
    Prompts.read([list(some) for some in (suffix, against) if some]).check_vocabulary(model)
    prompts, source = begin(model, Prompts.read(input_ids))
    steps = chosen.max_new_tokens + max(len(suffix), len(against))
    prompts.check(model, steps)
    reader = reader_of(model, prompts, source, batch=prompts.batch_size, steps=steps, pack=chosen.pack)
    assert isinstance(reader, StateReader)
    weighed = [(tuple(some), sign * strength) for some, sign in ((suffix, 1), (against, -1)) if some]
    steered = SuffixReader(reader, weighed, candidates, chosen.vocab_size or vocab_size_of(model))
    return gathered(prompts, Run(model, prompts, chosen, tokenizer, source=source, reader=steered).steps())


# --- tokens that are allowed ------------------------------------------------------------------------------------------

Allow = Callable[[Int[Tensor, "batch new"]], Bool[Tensor, "batch vocab"]]
"""From the new tokens of every row to those that may come next."""


class AllowedReader:
    """The logits of a reader, -inf where a function of the new tokens does not allow one."""

    def __init__(self, reader: Reader, allow: Allow) -> None:
        self.reader, self.allow = reader, allow
        self.new: Tensor | None = None

    def prompt(self) -> Tensor:
        logits = self.reader.prompt()
        self.new = torch.zeros(len(logits), 0, dtype=torch.long, device=logits.device)
        return self._kept(logits)

    def token(self, tokens: Tensor) -> Tensor:
        assert self.new is not None, "a prompt was read"
        self.new = torch.cat([self.new, tokens[:, None]], 1)
        return self._kept(self.reader.token(tokens))

    def select(self, rows: Tensor) -> None:
        assert self.new is not None, "a prompt was read"
        self.new = self.new[rows]
        self.reader.select(rows)

    def _kept(self, logits: Tensor) -> Tensor:
        assert self.new is not None
        allowed = self.allow(self.new)
        if allowed.shape != logits.shape or allowed.dtype != torch.bool:
            found = f"{allowed.dtype} {tuple(allowed.shape)}"
            raise ConfigError(f"`allow` gave {found}", f"a boolean tensor {tuple(logits.shape)}: [batch, vocab]")
        return logits.masked_fill(~allowed, -math.inf)


def generate_allowed(
    model: nn.Module,
    input_ids: PromptIds,
    allow: Allow,
    *,
    tokenizer: Tokenizer | None = None,
    settings: GenerateSettings | None = None,
    **changes: Any,
) -> Generation:
    """Continuations of allowed tokens alone. Raises RunError where a row may say nothing, and as `generate` does."""
    chosen = GenerateSettings.of(settings, changes)
    prompts, source = begin(model, Prompts.read(input_ids))
    prompts.check(model, chosen.max_new_tokens)
    inner = reader_of(model, prompts, source, batch=prompts.batch_size, steps=chosen.max_new_tokens, pack=chosen.pack)
    reader = AllowedReader(inner, allow)
    return gathered(prompts, Run(model, prompts, chosen, tokenizer, source=source, reader=reader).steps())


# --- whole texts ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Chosen:
    """A continuation that was chosen from several.

    ids        its new ids
    score      what the scorer gave it
    passed     how many of those tried reached the threshold; all, where there is none
    tried      how many were drawn and scored
    threshold  what was asked for, None: the best was taken
    """

    ids: tuple[int, ...]
    score: float
    passed: int
    tried: int
    threshold: float | None

    @property
    def acceptance(self) -> float:
        """The share that passed."""
        return self.passed / self.tried


def choose(
    model: nn.Module,
    input_ids: PromptIds,
    scorer: Callable[[tuple[int, ...]], float],
    *,
    threshold: float | None = None,
    tries: int = 16,
    batch_size: int = 8,
    tokenizer: Tokenizer | None = None,
    settings: GenerateSettings | None = None,
    **changes: Any,
) -> list[Chosen]:
    """For every prompt one of up to `tries` continuations.

    scorer     from the new ids of a continuation to a number, the higher the better
    threshold  the first continuation that reaches it is taken, so that what is taken is distributed as what is drawn, given
               that it passes (rejection sampling). Where none does, the best is given, with `passed` 0
    tries      without a threshold all are drawn, and the best is taken

    Try k of row r draws from the seed r * tries + k, counted on from `seed`. Raises as `generate` does.
    """
    if tries < 1 or batch_size < 1:
        raise ConfigError(f"tries={tries}, batch_size={batch_size}", "at least 1 each")
    chosen = GenerateSettings.of(settings, changes)
    if chosen.seeds is not None:
        raise ConfigError("seeds, one a row", "`seed`, from which the tries of every row count on")
    found = []
    for row, prompt in enumerate(Prompts.read(input_ids).rows):
        scored: list[tuple[float, tuple[int, ...]]] = []
        first = chosen.seed + row * tries
        for start in range(0, tries, batch_size):
            seeds = tuple(range(first + start, first + min(tries, start + batch_size)))
            made = complete(model, [prompt] * len(seeds), tokenizer=tokenizer, settings=chosen, seeds=seeds)
            scored += [(float(scorer(ids)), ids) for ids in made.new]
            if threshold is not None and any(score >= threshold for score, _ in scored):
                break
        found.append(_taken(scored, threshold))
    return found


def _taken(scored: list[tuple[float, tuple[int, ...]]], threshold: float | None) -> Chosen:
    passing = [pair for pair in scored if threshold is None or pair[0] >= threshold]
    first = bool(passing) and threshold is not None
    score, ids = passing[0] if first else max(scored, key=lambda pair: pair[0])
    return Chosen(ids, score, len(passing), len(scored), threshold)
