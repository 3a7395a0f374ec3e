"""Generation from text to text: encode, generate, decode as tokens come, cut at stop strings.

    for done in generate_text(model, tokenizer, ["Once upon a time", "def main("], temperature=0.8, stop_strings=("\\n",)):
        print(done.text)
    for best, *others in search_text(model, tokenizer, ["Once upon a time"], num_beams=4, num_return=2):
        print(best.text, best.score)

To an encoder-decoder a prompt is the source, read with its end token behind it, as in training; the text is what it writes.

An empty prompt starts from the tokenizer's end_of_text, where documents begin. End_of_text also ends a row, unless other
stop tokens are asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from torch import nn

from formers import config as configs
from formers.errors import DataError
from formers.generation.beam import BeamSettings, Hypothesis, beam_search
from formers.generation.loop import Step, generate_stream
from formers.generation.prompts import vocab_size_of
from formers.generation.readers import Beginning, takes_source
from formers.generation.settings import GenerateSettings
from formers.generation.stops import LENGTH, TOKEN, RowText

if TYPE_CHECKING:
    from formers.text.base import Tokenizer


Settings = TypeVar("Settings", GenerateSettings, BeamSettings)


@dataclass(frozen=True)
class Completion:
    """A prompt and its continuation. `text` ends before the stop string or stop token; `ids` hold all new tokens."""

    prompt: str
    text: str
    ids: tuple[int, ...]
    ended: str


@dataclass(frozen=True)
class Piece:
    """New text of one row, final as it stands. `ended` says why the row ended, with its last piece."""

    row: int
    text: str
    ids: tuple[int, ...]
    ended: str | None = None


def generate_text(
    model: nn.Module,
    tokenizer: Tokenizer,
    prompts: str | Sequence[str],
    *,
    on_piece: Callable[[Piece], None] | None = None,
    cache: Beginning | None = None,
    settings: GenerateSettings | None = None,
    **changes: Any,
) -> list[Completion]:
    """A `Completion` for every prompt. Settings are those of `generate`; `on_piece` is called with text as it comes."""
    prompts = [prompts] if isinstance(prompts, str) else list(prompts)
    pieces: list[list[Piece]] = [[] for _ in prompts]
    for piece in stream_text(model, tokenizer, prompts, cache=cache, settings=settings, **changes):
        pieces[piece.row].append(piece)
        if on_piece is not None:
            on_piece(piece)
    return [_completion(prompt, row) for prompt, row in zip(prompts, pieces, strict=True)]


def _completion(prompt: str, pieces: list[Piece]) -> Completion:
    ids = tuple(i for piece in pieces for i in piece.ids)
    return Completion(prompt, "".join(piece.text for piece in pieces), ids, pieces[-1].ended or LENGTH)


def stream_text(
    model: nn.Module,
    tokenizer: Tokenizer,
    prompts: str | Sequence[str],
    *,
    cache: Beginning | None = None,
    settings: GenerateSettings | None = None,
    **changes: Any,
) -> Iterator[Piece]:
    """Pieces of text of all rows, as soon as they are certain: whole characters, and nothing a stop string may cut."""
    prompts = [prompts] if isinstance(prompts, str) else prompts
    chosen = _for_text(GenerateSettings.of(settings, changes), model, tokenizer)
    ids = encode_prompts(model, tokenizer, prompts)
    steps = generate_stream(model, ids, tokenizer=tokenizer, cache=cache, settings=chosen)
    rows = [RowText(tokenizer, chosen.stop_strings, before) for before in _before(model, ids)]
    return _pieces(steps, rows, chosen.max_new_tokens)


@dataclass(frozen=True)
class Found:
    """A continuation that a beam search found. `text` ends before the stop token; `ids` hold it. See `beam.Hypothesis`."""

    prompt: str
    text: str
    ids: tuple[int, ...]
    score: float
    log_prob: float
    ended: str


def search_text(
    model: nn.Module,
    tokenizer: Tokenizer,
    prompts: str | Sequence[str],
    *,
    settings: BeamSettings | None = None,
    **changes: Any,
) -> list[list[Found]]:
    """The `num_return` best continuations of every prompt, the best first. Settings are those of `beam_search`."""
    prompts = [prompts] if isinstance(prompts, str) else list(prompts)
    ids = encode_prompts(model, tokenizer, prompts)
    return search_ids(model, tokenizer, prompts, ids, settings=settings, **changes)


def search_ids(
    model: nn.Module,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    ids: Sequence[Sequence[int]],
    *,
    settings: BeamSettings | None = None,
    **changes: Any,
) -> list[list[Found]]:
    """`search_text` of prompts that are encoded already, each a list of ids."""
    if isinstance(changes.get("stop_tokens"), int):
        changes = changes | {"stop_tokens": (changes["stop_tokens"],)}
    chosen = _for_text(configs.replace(settings or BeamSettings(), **changes), model, tokenizer)
    found = beam_search(model, ids, settings=chosen)
    every = zip(prompts, _before(model, ids), found, strict=True)
    return [[_found(tokenizer, prompt, before, h) for h in row] for prompt, before, row in every]


def _found(tokenizer: Tokenizer, prompt: str, before: Sequence[int], h: Hypothesis) -> Found:
    row = RowText(tokenizer, (), before)
    text = "".join(row.feed(i) for i in (h.ids[:-1] if h.ended == TOKEN else h.ids)) + row.finish()
    return Found(prompt, text, h.ids, h.score, h.log_prob, h.ended)


def _before(model: nn.Module, ids: Sequence[Sequence[int]]) -> Sequence[Sequence[int]]:
    """What the text of each row goes on from; what an encoder-decoder writes begins anew."""
    return [()] * len(ids) if takes_source(model) else ids


def encode_prompts(model: nn.Module, tokenizer: Tokenizer, prompts: Sequence[str]) -> list[list[int]]:
    """Ids of prompts, or of the sources of an encoder-decoder."""
    if takes_source(model):
        return [encode_source(tokenizer, prompt, end_of(model)) for prompt in prompts]
    return [encode_prompt(tokenizer, prompt) for prompt in prompts]


def encode_source(tokenizer: Tokenizer, prompt: str, end: int | None) -> list[int]:
    """Ids of a source, with `end` behind them if it is not there already."""
    ids = tokenizer.encode(prompt)
    return ids if end is None or ids[-1:] == [end] else [*ids, end]


def end_of(model: nn.Module) -> int | None:
    """The id with which an encoder-decoder ends what it reads and writes."""
    return getattr(getattr(model, "config", None), "end_token", None) if takes_source(model) else None


def encode_prompt(tokenizer: Tokenizer, prompt: str) -> list[int]:
    """Ids of a prompt; end_of_text for an empty one. Raises DataError where the tokenizer has none."""
    ids = tokenizer.encode(prompt)
    if ids:
        return ids
    if tokenizer.end_of_text is None:
        raise DataError("the prompt is empty", "some text: this tokenizer has no end_of_text to start from")
    return [tokenizer.end_of_text]


def _for_text(settings: Settings, model: nn.Module, tokenizer: Tokenizer) -> Settings:
    """End at end_of_text, or at the end token of an encoder-decoder, unless told otherwise, and never draw an id that the
    tokenizer cannot decode."""
    ends = [end for end in (end_of(model), tokenizer.end_of_text) if end is not None]
    if not settings.stop_tokens and ends:
        settings = replace(settings, stop_tokens=tuple(ends[:1]))
    rows = vocab_size_of(model)
    if settings.vocab_size is None and rows is not None and rows > tokenizer.vocab_size:
        settings = replace(settings, vocab_size=tokenizer.vocab_size)
    return settings


def _pieces(steps: Iterator[Step], rows: list[RowText], last: int) -> Iterator[Piece]:
    for number, step in enumerate(steps, start=1):
        for i, (token, ended) in enumerate(zip(step.tokens, step.ended, strict=True)):
            if token is None:
                continue
            ended = ended or (LENGTH if number == last else None)
            text = "" if ended == TOKEN else rows[i].feed(token)
            yield Piece(i, text + (rows[i].finish() if ended else ""), (token,), ended)
