"""Both ways between models of formers and of transformers as objects. Needs the extra `hf`."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from typing import Any

from torch import nn

from formers.errors import TargetError


def open_with_transformers(folder: str, dtype: Any = None) -> nn.Module:
    """A model of transformers, in evaluation mode; safetensors only, and no code from the folder.

    Of the class that its config names, where that is one with a head; else a causal language model.

    Raises:
        TargetError: transformers is not installed, or cannot open the folder.
    """
    transformers = _transformers()
    kind = {} if dtype is None else {"dtype": dtype}
    try:
        with _without_progress(transformers.logging):
            named = transformers.AutoConfig.from_pretrained(folder).architectures or [""]
            headed = "For" in named[0] and getattr(transformers, named[0], None)
            maker = headed or transformers.AutoModelForCausalLM
            model = maker.from_pretrained(folder, use_safetensors=True, **kind)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise TargetError(
            f"transformers cannot open {folder}: {first}", "a folder or hub name with safetensors"
        ) from error
    return model.eval()


def as_transformers(model: nn.Module) -> Any:
    """`model` as a `PreTrainedModel`, so that the Hugging Face `Trainer` trains it: labels in, loss out, and
    `save_pretrained` writes a folder that both libraries open. The weights are the model's own: what trains the wrapper
    trains `model`, which is its attribute of that name.

        trainer = transformers.Trainer(formers.hub.as_transformers(model), arguments, train_dataset=rows)

    The wrapper's class is called as transformers' own (``GPT2LMHeadModel``), and takes what that takes: input_ids,
    attention_mask, position_ids, token_type_ids where the model has types, and the labels of its head.

    Raises:
        TargetError: transformers is not installed.
        ConfigError: settings of the model that Hugging Face has no word for.
    """
    _transformers()
    from formers.hub.trainable import wrap

    return wrap(model)


def _transformers() -> Any:
    try:
        return importlib.import_module("transformers")
    except ModuleNotFoundError as error:
        raise TargetError("transformers is not installed", "the extra 'hf'", "pip install 'formers[hf]'") from error


@contextlib.contextmanager
def _without_progress(logging: Any) -> Iterator[None]:
    """Its progress bars would stand between the lines of whoever called."""
    was_on = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_on:
            logging.enable_progress_bar()


def is_transformers(model: nn.Module) -> bool:
    """Whether a model is one of transformers' own (without importing it)."""
    return any(cls.__module__.startswith("transformers.") for cls in type(model).__mro__)
