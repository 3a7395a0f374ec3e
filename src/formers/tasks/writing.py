"""Texts from texts: summaries and translations by an encoder-decoder and beam search; prompts gone on with by any model."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from torch import nn

from formers.config import replace
from formers.errors import ConfigError, TargetError
from formers.generation import BeamSettings, Completion, Found, GenerateSettings, Piece, generate_text, stream_text
from formers.generation.readers import takes_source
from formers.generation.text import encode_prompt, encode_source, end_of, search_ids
from formers.tasks.base import Item, Pipeline
from formers.tasks.options import GenerationOptions, WritingOptions

EARLY: dict[str, bool | Literal["never"]] = {"no": False, "yes": True, "never": "never"}


class Writing(Pipeline[WritingOptions, list[Found]]):
    """A text gives `num_return` texts, the best first. The model is an encoder-decoder, such as T5.

    T5 1.0 was trained with words before a text that say what to do with it. A folder may hold them (`task_specific_params` of
    its config.json); `prefix` sets others.
    """

    def check_model(self) -> None:
        super().check_model()
        if not takes_source(self.model) or not _writes(self.model):
            raise TargetError(
                f"this {type(self.model).__name__} is no encoder-decoder that writes",
                f"a model that reads a source and writes, such as T5, for {self.name}",
                "text-generation goes on with a text" if _writes(self.model) else "",
            )

    def answer(self, items: Sequence[Item], options: WritingOptions) -> list[list[Found]]:
        ids = self._sources([self.prefix(options) + item.text for item in items], options.max_length)
        order = sorted(range(len(items)), key=lambda place: -len(ids[place]))
        found: dict[int, list[Found]] = {}
        for start in range(0, len(order), self.batch_size):
            places = order[start : start + self.batch_size]
            prompts, rows = [items[place].text for place in places], [ids[place] for place in places]
            made = search_ids(self.model, self.tokenizer, prompts, rows, settings=self._settings(options))
            found |= dict(zip(places, made, strict=True))
        return [found[place] for place in range(len(items))]

    def prefix(self, options: WritingOptions) -> str:
        """What stands before every text."""
        if options.prefix is not None:
            return options.prefix
        stored = self.stored.get("task_specific_params")
        of_task = stored.get(self.name) if isinstance(stored, dict) else None
        return str(of_task.get("prefix") or "") if isinstance(of_task, dict) else ""

    def _sources(self, texts: Sequence[str], limit: int | None) -> list[list[int]]:
        """Ids with the end token behind them, cut before it where they are too long."""
        end = end_of(self.model)
        ids = [encode_source(self.tokenizer, text, end) for text in texts]
        cut = [row for row in ids if limit is not None and len(row) > limit]
        if not cut or limit is None:
            return ids
        these = f"{len(cut)} of {len(ids)} texts are" if len(ids) > 1 else "the text is"
        warnings.warn(f"{these} longer than the {limit} tokens that are read; the rest was left out", stacklevel=2)
        tail = [] if end is None else [end]
        return [row if len(row) <= limit else [*row[: limit - len(tail)], *tail] for row in ids]

    def _settings(self, options: WritingOptions) -> BeamSettings:
        return BeamSettings(
            num_beams=options.beams,
            max_new_tokens=options.max_new_tokens,
            length_penalty=options.length_penalty,
            early_stopping=True if options.beams == 1 else EARLY[options.early_stopping],  # one beam: greedy
            num_return=options.num_return,
        )


class TextGeneration(Pipeline[GenerationOptions, list[Completion]]):
    """A prompt gives `num_samples` completions; an empty one begins a document. Sample k draws from seed + k, whatever stands
    beside it. `stream` gives the text of one completion piece by piece."""

    takes = nn.Module
    refuses_empty = False

    def check_model(self) -> None:
        super().check_model()
        if not _writes(self.model):
            head = getattr(self.model.config, "head", None)
            raise TargetError(
                f"this {type(self.model).__name__} writes no text",
                "a decoder (GPT-2, Llama, ..) or an encoder-decoder (T5)",
                f"its head {head!r} is for other tasks" if head else "",
            )

    def answer(self, items: Sequence[Item], options: GenerationOptions) -> list[list[Completion]]:
        lengths = [len(encode_prompt(self.tokenizer, item.text)) for item in items]
        rows = [(place, k) for place in range(len(items)) for k in range(options.num_samples)]
        rows.sort(key=lambda row: -lengths[row[0]])
        found: dict[tuple[int, int], Completion] = {}
        for start in range(0, len(rows), self.batch_size):
            some = rows[start : start + self.batch_size]
            settings = replace(_sampling(options), seeds=tuple(options.seed + k for _, k in some))
            prompts = [items[place].text for place, _ in some]
            found |= dict(zip(some, generate_text(self.model, self.tokenizer, prompts, settings=settings), strict=True))
        return [[found[place, k] for k in range(options.num_samples)] for place in range(len(items))]

    def stream(self, text: str, **changes: Any) -> Iterator[Piece]:
        """Pieces of the first sample as they come. Raises ConfigError where more than one was asked for."""
        options = replace(self.options, **changes)
        if options.num_samples != 1:
            raise ConfigError(f"num_samples is {options.num_samples}", "1, to stream one text")
        prompt = self.item(0, text).text
        return stream_text(self.model, self.tokenizer, [prompt], settings=_sampling(options))


def _sampling(options: GenerationOptions) -> GenerateSettings:
    names = ("max_new_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed")
    return GenerateSettings(**{name: getattr(options, name) for name in names}, stop_strings=options.stop)


def _writes(model: nn.Module) -> bool:
    """Whether a model gives logits of the next token: those do that have no other head, and read from the left."""
    return getattr(model, "causal", True) and getattr(getattr(model, "config", None), "head", None) is None
