"""The loop: read the prompts, then draw a token a row, read it, and so on until every row has ended.

    ids = generate(model, input_ids, max_new_tokens=64, top_k=50)

Prompts of different lengths go through one batch as they would alone: positions count each row's own tokens, and every
row draws from its own random numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from formers.errors import ConfigError
from formers.generation.few_rows import stepper_of
from formers.generation.filters import Seen
from formers.generation.prompts import PromptIds, Prompts
from formers.generation.readers import (
    Beginning,
    Reader,
    StateReader,
    WholeReader,
    begin,
    device_of,
    keeps_state,
)
from formers.generation.samplers import RowRandom, Sampler
from formers.generation.settings import GenerateSettings
from formers.generation.stops import LENGTH, RowEnd

if TYPE_CHECKING:
    from formers.text.base import Tokenizer


@dataclass(frozen=True)
class Step:
    """One step of all rows: the token each gained (None: it had ended before), and why rows ended with this step."""

    tokens: tuple[int | None, ...]
    ended: tuple[str | None, ...]


@dataclass(frozen=True)
class Generation:
    """Prompts and what was made of them. `new` holds a row's new ids, the stop token included where one ended it.

    An encoder-decoder goes on from its start token, which then stands for the prompt.
    """

    prompts: tuple[tuple[int, ...], ...]
    new: tuple[tuple[int, ...], ...]
    ended: tuple[str, ...]

    def ids(self, pad: int = 0, device: torch.device | str = "cpu") -> Tensor:
        """Int [batch, longest prompt + longest continuation], padded on the left before prompts, on the right behind."""
        left, right = max(map(len, self.prompts)), max(map(len, self.new))
        rows = [
            [pad] * (left - len(prompt)) + list(prompt) + list(new) + [pad] * (right - len(new))
            for prompt, new in zip(self.prompts, self.new, strict=True)
        ]
        return torch.tensor(rows, device=device)


def generate(
    model: nn.Module,
    input_ids: PromptIds,
    *,
    pad: int | None = None,
    on_step: Callable[[Step], None] | None = None,
    tokenizer: Tokenizer | None = None,
    cache: Beginning | None = None,
    settings: GenerateSettings | None = None,
    **changes: Any,
) -> Tensor:
    """Prompts and their continuations, Int [batch, longest prompt + longest continuation].

    To an encoder-decoder `input_ids` are the source, and what it gives begins with its start token instead.

    model        one of ours, or any module whose forward(input_ids) gives .logits (then all text is read at every step)
    input_ids    Int [batch, seq] or [seq], or a list of lists of ids of any lengths
    pad          stands before shorter prompts and behind rows that ended early: the first stop token, else 0
    on_step      called with every `Step` as it is made
    tokenizer    needed for stop_strings
    cache        a PromptCache, for what earlier prompts began with; or Memorised, for a text that stands before all of them
    settings, or any field of GenerateSettings by name: max_new_tokens, temperature (0: greedy), top_k, top_p, min_p,
    repetition_penalty, seed, seeds, stop_tokens, ..

    Runs in evaluation mode without gradients and leaves the model as it was. Raises ConfigError for settings or lengths
    that cannot be, DataError for ids that are not in the vocabulary, before anything runs.
    """
    chosen = GenerateSettings.of(settings, changes)
    made = complete(model, input_ids, on_step=on_step, tokenizer=tokenizer, cache=cache, settings=chosen)
    if pad is None:
        pad = chosen.stop_tokens[0] if chosen.stop_tokens else 0
    return made.ids(pad, device_of(model))


def complete(
    model: nn.Module,
    input_ids: PromptIds,
    *,
    on_step: Callable[[Step], None] | None = None,
    tokenizer: Tokenizer | None = None,
    cache: Beginning | None = None,
    settings: GenerateSettings | None = None,
    **changes: Any,
) -> Generation:
    """As `generate`, but row by row without padding, and with the reason each row ended."""
    prompts = Prompts.read(input_ids)
    steps = generate_stream(model, prompts.rows, tokenizer=tokenizer, cache=cache, settings=settings, **changes)
    return gathered(begin(model, prompts)[0], steps, on_step)


def gathered(prompts: Prompts, steps: Iterator[Step], on_step: Callable[[Step], None] | None = None) -> Generation:
    """What the steps make of the prompts, row by row."""
    new: list[list[int]] = [[] for _ in prompts.rows]
    ended: list[str] = [LENGTH for _ in prompts.rows]
    for step in steps:
        for row, (token, reason) in enumerate(zip(step.tokens, step.ended, strict=True)):
            new[row] += [] if token is None else [token]
            ended[row] = reason or ended[row]
        if on_step is not None:
            on_step(step)
    return Generation(prompts.rows, tuple(map(tuple, new)), tuple(ended))


def generate_stream(
    model: nn.Module,
    input_ids: PromptIds,
    *,
    tokenizer: Tokenizer | None = None,
    cache: Beginning | None = None,
    settings: GenerateSettings | None = None,
    **changes: Any,
) -> Iterator[Step]:
    """As `generate`, but yields a `Step` as soon as every row has its next token."""
    chosen = GenerateSettings.of(settings, changes)
    prompts, source = begin(model, Prompts.read(input_ids))
    prompts.check(model, chosen.max_new_tokens)
    if chosen.stop_strings and tokenizer is None:
        raise ConfigError("stop_strings without a tokenizer", "tokenizer=, to know the text of ids")
    if cache is not None:
        cache.check(model, prompts.longest + chosen.max_new_tokens)
    run = Run(model, prompts, chosen, tokenizer, cache, source)  # errors come now, not at the first next()
    return run.steps()


class Run:
    """One generation under way, through the reader that is given, or else through that of the model."""

    def __init__(
        self,
        model: nn.Module,
        prompts: Prompts,
        settings: GenerateSettings,
        tokenizer: Tokenizer | None = None,
        cache: Beginning | None = None,
        source: Prompts | None = None,
        reader: Reader | None = None,
    ) -> None:
        self.settings = settings
        device, batch, room = device_of(model), prompts.batch_size, prompts.longest + settings.max_new_tokens
        self.sampler, self.random = Sampler(settings), RowRandom(settings.row_seeds(batch))
        before = prompts.rows if source is None else ((),) * batch  # what a source is written into begins anew
        self.ends = [RowEnd(settings.stop_tokens, settings.stop_strings, tokenizer, row) for row in before]
        self.alive = [True] * batch
        steps = settings.max_new_tokens
        self.reader = reader or reader_of(
            model, prompts, source, batch=batch, steps=steps, pack=settings.pack, cache=cache
        )
        self.text = torch.cat(
            [prompts.padded(0, device), torch.zeros(batch, room - prompts.longest, dtype=torch.long, device=device)], 1
        )
        self.present = _present(prompts, room, device)
        self.prompt_length, self.length = prompts.longest, prompts.longest

    def steps(self) -> Iterator[Step]:
        for _ in range(self.settings.max_new_tokens):
            yield self._ended(self._next())
            if not any(self.alive):
                return

    def _next(self) -> Tensor:
        """A token for every row, living or not."""
        # entered anew at every step: whoever takes the steps may train the model between two of them
        with torch.inference_mode():
            first = self.length == self.prompt_length
            logits = self.reader.prompt() if first else self.reader.token(self.text[:, self.length - 1])
            seen = Seen(self.text[:, : self.length], None if self.present is None else self.present[:, : self.length])
            tokens = self.sampler(logits[:, : self.settings.vocab_size], seen, self.random.next())
            self.text[:, self.length] = tokens
        self.length += 1
        return tokens

    def _ended(self, tokens: Tensor) -> Step:
        """The step that these tokens make; rows that ended before gain nothing."""
        living = [token if alive else None for token, alive in zip(tokens.tolist(), self.alive, strict=True)]
        reasons = [None if token is None else end.after(token) for token, end in zip(living, self.ends, strict=True)]
        self.alive = [alive and reason is None for alive, reason in zip(self.alive, reasons, strict=True)]
        return Step(tuple(living), tuple(reasons))


def reader_of(
    model: nn.Module,
    prompts: Prompts,
    source: Prompts | None,
    *,
    batch: int,
    steps: int,
    pack: bool | None = None,
    cache: Beginning | None = None,
) -> Reader:
    """Through a state where the model keeps one, else the whole text anew each time. batch: rows of a step."""
    if not keeps_state(model):
        return WholeReader(model, prompts, source)
    stepper = stepper_of(model, batch, steps, pack)
    return StateReader(model, prompts, prompts.longest + steps, stepper, cache, source)


def _present(prompts: Prompts, room: int, device: torch.device) -> Tensor | None:
    """Bool [batch, room], False at the padding before prompts; None where there is none."""
    present = prompts.present(device)
    if present is None:
        return None
    new = torch.ones(len(present), room - prompts.longest, dtype=torch.bool, device=device)
    return torch.cat([present, new], 1)
