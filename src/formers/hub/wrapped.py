"""Models as transformers itself opens and runs them: the other side of a comparison. Needs the extra `hf`."""

from __future__ import annotations

import importlib
from typing import Any

from torch import nn

from formers.errors import TargetError


def open_with_transformers(folder: str, dtype: Any = None) -> nn.Module:
    """A causal language model of transformers, in evaluation mode; safetensors only, and no code from the folder.

    Raises:
        TargetError: transformers is not installed, or cannot open the folder.
    """
    try:
        transformers = importlib.import_module("transformers")
    except ModuleNotFoundError as error:
        raise TargetError("transformers is not installed", "the extra 'hf'", "pip install 'formers[hf]'") from error
    kind = {} if dtype is None else {"dtype": dtype}
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True, **kind)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise TargetError(
            f"transformers cannot open {folder}: {first}", "a folder or hub name with safetensors"
        ) from error
    return model.eval()


def is_transformers(model: nn.Module) -> bool:
    """Whether a model is one of transformers' own (without importing it)."""
    return any(cls.__module__.startswith("transformers.") for cls in type(model).__mro__)
