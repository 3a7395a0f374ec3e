"""Model folders, written: what folders.py reads, whole or not at all, in one file or in shards."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor, nn

import formers
from formers import config as configs
from formers.errors import ConfigError, RunError
from formers.files import sync_folder
from formers.hub.files import (
    CONFIG,
    INDEX,
    WEIGHTS,
    byte_size,
    disk_errors,
    main_dtype,
    write_folder,
    write_json,
    write_tensors,
)
from formers.hub.folders import OURS, is_theirs, tied
from formers.hub.marks import is_made_card
from formers.models import registry
from formers.text import Tokenizer

MAX_SHARD_SIZE = "50GB"
"""Of one weight file; transformers' own default."""

FILES = re.compile(
    rf"{CONFIG}|{WEIGHTS}|{INDEX}|model-\d+-of-\d+\.safetensors|generation_config\.json|tokenizer(_config)?\.json"
)
"""What a model folder consists of; a folder that holds anything else is never replaced."""


def save(
    model: nn.Module,
    folder: Path | str,
    *,
    tokenizer: Tokenizer | None = None,
    code: Mapping[str, str] | None = None,
    settings: Mapping[str, Any] | None = None,
    max_shard_size: int | str = MAX_SHARD_SIZE,
) -> Path:
    """Write `model` as a folder that ``formers.load`` opens and, if Hugging Face knows the architecture, transformers too.

    The folder appears whole or not at all. One that stands there is replaced if it holds nothing but a model's files.

    code  for a model of the user's own: what ``formers.hub.user_code.record("file.py:function")`` gives, so that whoever
          loads the folder is told which code to name
    settings  for config.json, beside the model's, such as a task's (`folders.kept_settings`)
    max_shard_size  of one weight file, in bytes or as "500MB", "5GiB". Weights beyond it are cut between tensors into
          ``model-00001-of-00003.safetensors``, .. with an index, as transformers does

    Raises:
        RunError: the folder holds other files, or cannot be written.
        ConfigError: the tokenizer has more ids than the model, or a size that is none.
    """
    folder, limit = Path(folder), byte_size(max_shard_size)
    model = getattr(model, "_orig_mod", model)  # what torch.compile wraps
    _check_replaceable(folder)
    described, tensors = describe(model, code)
    config = getattr(model, "config", None)
    vocab_size, longest = (getattr(config, name, None) for name in ("vocab_size", "max_length"))
    if tokenizer is not None and vocab_size is not None and tokenizer.vocab_size > vocab_size:
        raise ConfigError(
            f"the tokenizer has {tokenizer.vocab_size} ids, the model's vocab_size is {vocab_size}",
            "the tokenizer that the model was trained with",
        )
    with write_folder(folder, replace=True) as aside:
        _write(
            aside,
            described | dict(settings or {}),
            tensors,
            limit,
            tokenizer,
            longest if isinstance(longest, int) else None,
        )
    return folder


def save_beside(
    model: nn.Module,
    folder: Path | str,
    *,
    state: Mapping[str, Tensor] | None = None,
    settings: Mapping[str, Any] | None = None,
    max_shard_size: int | str = MAX_SHARD_SIZE,
) -> Path:
    """The same files in a folder that may hold others, which stay: each appears whole, and weights of before go.

    state     tensors in place of the model's own, by its names, such as a sharded training gathers
    settings  for config.json, beside the model's
    """
    folder, limit = Path(folder), byte_size(max_shard_size)
    tensors = tensors_of(model, state)
    folder.mkdir(parents=True, exist_ok=True)
    with disk_errors(folder), tempfile.TemporaryDirectory(prefix=".model.part-", dir=folder) as name:
        aside = Path(name)
        _write(aside, settings_of(model) | dict(settings or {}), tensors, limit)
        sync_folder(aside)
        new = sorted(path.name for path in aside.iterdir())
        for file in new:
            os.replace(aside / file, folder / file)
        for path in folder.iterdir():
            if path.name not in new and re.fullmatch(r"model.*\.safetensors(\.index\.json)?", path.name):
                path.unlink()
    return folder


def _write(
    aside: Path,
    settings: dict[str, Any],
    tensors: Mapping[str, Tensor],
    limit: int,
    tokenizer: Tokenizer | None = None,
    longest: int | None = None,
) -> None:
    end = None if tokenizer is None else tokenizer.end_of_text
    ends = {"bos_token_id": end, "eos_token_id": end}
    ends |= {
        name: settings[name] for name in ("eos_token_id", "pad_token_id", "decoder_start_token_id") if name in settings
    }
    write_json(aside / CONFIG, {**ends, "pad_token_id": None, **settings, "dtype": main_dtype(tensors)})
    write_tensors(aside, tensors, limit)
    for path in aside.glob("*.safetensors"):  # they come readable by their owner alone
        path.chmod((aside / CONFIG).stat().st_mode)
    if tokenizer is not None:
        tokenizer.save(aside, max_length=longest)
        write_json(aside / "generation_config.json", ends)


def describe(model: nn.Module, code: Mapping[str, str] | None = None) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What stands in config.json, and the tensors under the names they are stored by."""
    return settings_of(model, code), tensors_of(model)


def settings_of(model: nn.Module, code: Mapping[str, str] | None = None) -> dict[str, Any]:
    """What stands in config.json: Hugging Face's settings, or ours for what it does not know."""
    config, module = getattr(model, "config", None), module_of(model)
    if is_theirs(module, config):
        return {"architectures": [module.FOREIGN.class_name], **module.FOREIGN.write(config)}
    name = getattr(config, "architecture", type(model).__name__)
    if module is None and name in registry.specs():  # a subclass of the user's: not the built-in model
        name = type(model).__name__
    ours: dict[str, Any] = {"architecture": name, "version": formers.__version__}
    if config is not None and hasattr(config, "__dataclass_fields__"):
        ours["config"] = configs.to_dict(config)
    if code is not None:
        ours["code"] = dict(code)
    return {"architectures": [type(model).__name__], "model_type": OURS + str(name), "formers": ours}


def tensors_of(model: nn.Module, state: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """The model's tensors, or those of `state`, under the names they are stored by, each once."""
    again, module = {name for group in tied(model) for name in group[1:]}, module_of(model)
    tensors = model.state_dict() if state is None else state
    once = {name: tensor for name, tensor in tensors.items() if name not in again}
    config = getattr(model, "config", None)
    return module.weights(config).write(once) if is_theirs(module, config) else once


def module_of(model: nn.Module) -> ModuleType | None:
    """The built-in module that defines exactly this model; None for the user's own, subclasses included."""
    architecture = getattr(getattr(model, "config", None), "architecture", None)
    if architecture not in registry.specs():
        return None
    module = registry.spec(architecture).load()
    return module if type(model) in getattr(module, "MODELS", (module.MODEL,)) else None


def _check_replaceable(folder: Path) -> None:
    """Writing a folder swaps it as a whole, so a folder with anything but a model in it is left alone."""
    if not folder.is_dir():
        return
    others = [path.name for path in sorted(folder.iterdir()) if not (FILES.fullmatch(path.name) or is_made_card(path))]
    if others:
        raise RunError(
            f"{folder} holds files that are no model's: {', '.join(others[:5])}{' ..' * (len(others) > 5)}",
            "a new folder, an empty one, or one that holds only a model",
            "choose another folder",
        )
