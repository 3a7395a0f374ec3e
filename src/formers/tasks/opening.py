"""`formers.pipeline`: a task and a model, made into something to call with texts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from formers.errors import ConfigError, TargetError
from formers.hub import targets
from formers.hub.files import read_json
from formers.hub.folders import kept_settings
from formers.tasks.base import Pipeline
from formers.tasks.names import Task, find
from formers.text import Tokenizer, load_tokenizer

if TYPE_CHECKING:
    import torch

SENTENCE_FILES = ("sentence_bert_config.json", "1_Pooling/config.json")
"""Where sentence-transformers keeps how many tokens it reads and how it makes a vector of them."""


def pipeline(
    task: str,
    model: str | Path | nn.Module,
    *,
    tokenizer: Tokenizer | str | Path | None = None,
    batch_size: int = 16,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    code: str | None = None,
    **options: Any,
) -> Pipeline[Any, Any]:
    """A pipeline for `task`.

        fill = formers.pipeline("fill-mask", "folder", top_k=3)
        fill("Paris is the [MASK] of France.")

    Args:
        task: fill-mask, ner, text-classification, pair-classification, question-answering, sentence-embedding, summarization,
            translation or text-generation; transformers' other names of these too.
        model: a model folder, a run, a hub name, or a model.
        tokenizer: one, or where one is; by default the one beside the model.
        batch_size: texts that go through the model at a time. No answer depends on it.
        code: ``file.py:function``, for a run of a model of your own.
        options: of the task, see :mod:`formers.tasks.options`; each call may set others.

    Raises:
        ConfigError: an unknown task or option.
        TargetError: a model that cannot do the task, or has no tokenizer.
    """
    chosen = find(task)
    kind = chosen.load()
    found = targets.resolve(model, code=code, dtype=dtype, device=device)
    pipe = kind(
        chosen,
        found.model,
        _tokenizer(found, tokenizer, chosen),
        options=options,
        batch_size=batch_size,
        stored=stored_settings(found.folder),
        name=task,
    )
    _check_fit(pipe)
    return pipe


def _tokenizer(found: targets.Resolved, given: Tokenizer | str | Path | None, task: Task) -> Tokenizer:
    """The one that was given, or that stands beside the model."""
    if isinstance(given, Tokenizer):
        return given
    if given is not None:
        return load_tokenizer(given)
    if found.tokenizer is None:
        raise TargetError(
            f"{found.name} has no tokenizer",
            f"one for {task.name}: a tokenizer.json, vocab.txt or spiece.model beside the model",
            "train it first" if found.fresh else "put it there, or name one: tokenizer=FOLDER",
        )
    return found.tokenizer


def _check_fit(pipe: Pipeline[Any, Any]) -> None:
    """Refuse a tokenizer with ids that the model has no row for. (A folder was checked when it was loaded.)"""
    rows = getattr(getattr(pipe.model, "config", None), "vocab_size", None)
    if rows is not None and pipe.tokenizer.vocab_size > rows:
        raise ConfigError(
            f"the tokenizer has ids up to {pipe.tokenizer.vocab_size - 1}, the model's vocab_size is {rows}",
            f"a tokenizer with ids below {rows}",
            "use the one that the model was trained with",
        )


def stored_settings(folder: Path | None) -> Mapping[str, Any]:
    """What a folder says of its task, in config.json and in the files of sentence-transformers."""
    stored = kept_settings(folder)
    if folder is None:
        return stored
    for name in SENTENCE_FILES:
        if (folder / name).is_file():
            stored |= read_json(folder / name)
    return stored
