"""The tasks, as data: name, what it takes, which heads answer it, where its pipeline is. Reading this costs no torch."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from formers.errors import ConfigError, suggest
from formers.tasks import options

NEVER, MAY, ALWAYS = "never", "may", "always"
"""Whether a task takes pairs of texts."""


@dataclass(frozen=True)
class Task:
    """One task.

    home     module:class of its pipeline, imported when it is first opened
    options  the dataclass of its options
    pairs    whether its inputs are pairs of texts: NEVER, MAY or ALWAYS
    heads    heads of encoders that answer it; none where the kind of the model decides
    """

    name: str
    summary: str
    home: str
    options: type[Any]
    pairs: str = NEVER
    heads: tuple[str, ...] = ()

    def load(self) -> type[Any]:
        """The class of its pipeline."""
        module, _, name = self.home.partition(":")
        return getattr(importlib.import_module(f"formers.tasks.{module}"), name)


_ALL = (
    Task(
        "fill-mask",
        "words for the [MASK] in a text",
        "fill_mask:FillMask",
        options.FillMaskOptions,
        heads=("masked_token", "pretraining"),
    ),
    Task(
        "ner",
        "names of people, places, .. in a text, with their characters",
        "ner:Entities",
        options.EntityOptions,
        heads=("token",),
    ),
    Task(
        "text-classification",
        "labels of a text, or of a pair of texts",
        "classification:TextClassification",
        options.LabelOptions,
        pairs=MAY,
        heads=("sequence",),
    ),
    Task(
        "pair-classification",
        "labels of a pair of texts: does one follow from, or come after, the other",
        "classification:PairClassification",
        options.LabelOptions,
        pairs=ALWAYS,
        heads=("sequence", "pair", "pretraining"),
    ),
    Task(
        "question-answering",
        "where in a passage the answer to a question stands",
        "question_answering:QuestionAnswering",
        options.AnswerOptions,
        pairs=ALWAYS,
        heads=("span",),
    ),
    Task(
        "sentence-embedding",
        "a vector for a text; texts that mean the like lie near each other",
        "embedding:SentenceEmbedding",
        options.EmbeddingOptions,
    ),
    Task("summarization", "a short text from a long one", "writing:Writing", options.WritingOptions),
    Task("translation", "a text in another language", "writing:Writing", options.WritingOptions),
    Task("text-generation", "a text gone on with", "writing:TextGeneration", options.GenerationOptions),
)

TASKS: dict[str, Task] = {task.name: task for task in _ALL}

ALIASES = {"token-classification": "ner", "sentiment-analysis": "text-classification"}
"""Other names that transformers has for them. It also writes languages into a name: translation_en_to_de."""


def find(name: str) -> Task:
    """The task of a name. Raises ConfigError with a suggestion."""
    known = ALIASES.get(name, "translation" if name.startswith("translation_") else name)
    if known not in TASKS:
        hint = suggest(name, [*TASKS, *ALIASES])
        raise ConfigError(f"there is no task {name!r}", "one of " + ", ".join(TASKS), hint)
    return TASKS[known]


def tasks_of(head: str) -> list[str]:
    """The tasks that a head answers."""
    return [task.name for task in _ALL if head in task.heads]
