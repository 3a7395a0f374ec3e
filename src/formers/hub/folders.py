"""Model folders, read: Hugging Face's layout by a model's one table of names, and our own for what it does not know.

config.json         theirs; or, for an architecture of ours alone, {"model_type": "formers-NAME", "formers": {...}}
model.safetensors   one file, or shards with model.safetensors.index.json
tokenizer.json, tokenizer_config.json, generation_config.json     where there is a tokenizer

saving.py writes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from formers import config as configs
from formers.errors import ConfigError, WeightsError, suggest
from formers.hub import user_code
from formers.hub.files import CONFIG, Tensors, read_json
from formers.hub.heads import is_another_head, of_head, under_another_head
from formers.models import registry
from formers.weights import Table, listed

OURS = "formers-"
"""How the model_type of an architecture that Hugging Face does not know begins."""
TASK_SETTINGS = ("problem_type", "task_specific_params")
"""Of config.json, what says how a task is done: no model needs it, pipelines do."""


def load_folder(
    folder: Path | str,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    code: str | None = None,
    changes: Mapping[str, Any] | None = None,
) -> nn.Module:
    """The model of a folder, in evaluation mode. Weights keep the type they are stored in unless `dtype` is given.

    changes  settings in place of the stored ones, by our names; the tensors must still fit. Another `head` of an encoder
             takes from the folder what it can, and draws the rest from one seed
    code  the user's ``file.py:function`` that builds the model, for a folder that was saved from one. A folder never
          brings code of its own to be run.

    Raises:
        ConfigError: config.json is missing, broken, or asks for what is not implemented (all of it is listed).
        WeightsError: tensors are missing, unknown, misshapen, or their file is damaged.
        TargetError: the folder needs `code`, or `code` cannot be used.
    """
    folder = Path(folder)
    settings = read_config(folder)
    model_type = str(settings.get("model_type"))
    if model_type.startswith(OURS):
        model = _load_ours(folder, settings, code, dtype, device, changes or {})
    else:
        model = _load_theirs(folder, settings, dtype, device, changes or {})
    return model.eval()


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a model folder. Raises ConfigError where it is missing or names no model."""
    if not (folder / CONFIG).is_file():
        raise ConfigError(f"{folder} has no {CONFIG}", "a model folder: config.json and model.safetensors")
    settings = read_json(folder / CONFIG)
    if not isinstance(settings.get("model_type"), str):
        raise ConfigError(f"{folder / CONFIG} has no model_type", "one of " + ", ".join(_known_types()))
    return settings


def kept_settings(folder: Path | None) -> dict[str, Any]:
    """`TASK_SETTINGS` of a folder; none where there is no folder, or no config.json in it."""
    if folder is None or not (folder / CONFIG).is_file():
        return {}
    config = read_json(folder / CONFIG)
    return {name: config[name] for name in TASK_SETTINGS if name in config}


def _known_types() -> list[str]:
    """Every model_type that a folder may name: the references', and ours of architectures that have none (FOREIGN None)."""
    alone = [name for name, spec in registry.specs().items() if getattr(spec.load(), "FOREIGN", None) is None]
    return [*model_types(), *(OURS + name for name in alone)]


def model_types() -> dict[str, ModuleType]:
    """The model_type of every reference that we read -> our module."""
    modules = [spec.load() for spec in registry.specs().values()]
    theirs = [module for module in modules if getattr(module, "FOREIGN", None) is not None]
    return {name: module for module in theirs for name in module.FOREIGN.model_types}


def is_theirs(module: ModuleType | None, config: Any) -> TypeGuard[ModuleType]:
    """Whether Hugging Face has a class for the model of `module` and `config`: folders then hold its settings and names."""
    foreign = getattr(module, "FOREIGN", None)
    return foreign is not None and foreign.has_a_class_for(config)


def foreign_module(model_type: str) -> ModuleType:
    """Our module for a reference's model_type. Raises ConfigError with what is known."""
    if model_type in registry.specs():  # most are called alike; asking every module would import them all
        module = registry.spec(model_type).load()
        if getattr(getattr(module, "FOREIGN", None), "model_type", None) == model_type:
            return module
    known = model_types()
    if model_type not in known:
        wanted = "one of " + ", ".join([*known, *(OURS + name for name in registry.specs())])
        raise ConfigError(f"model_type {model_type!r} is not implemented", wanted, suggest(model_type, known))
    return known[model_type]


def _load_theirs(
    folder: Path, settings: dict[str, Any], dtype: Any, device: Any, changes: Mapping[str, Any]
) -> nn.Module:
    module = foreign_module(settings["model_type"])
    stated = configs.from_dict(module.CONFIG, module.FOREIGN.read(settings))
    tensors = Tensors(folder, dtype=dtype, device=device)
    stored = module.FOREIGN.settle(stated, tensors.keys())
    config = configs.replace(stored, **changes)
    check_tokenizer(folder, config.vocab_size)
    model = _on_meta(module, config)
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    table, drawn = module.weights(config), {}
    if is_another_head(stored, config):
        table, drawn = under_another_head(module, stored, config, tensors)
    try:
        ours = table.read(tensors, {name: shape for name, shape in shapes.items() if name not in drawn})
    except WeightsError as error:
        raise _explained(error, folder, settings, config, table, tensors) from None
    like = next(iter(ours.values()))
    return assign(model, ours | {name: tensor.to(like) for name, tensor in drawn.items()})


def _explained(
    error: WeightsError, folder: Path, settings: Mapping[str, Any], config: Any, table: Table, tensors: Tensors
) -> WeightsError:
    """`error` with what to do; or, where the tensors are plainly another model's, one sentence that says whose."""
    module, likeness = foreign_module(settings["model_type"]), table.likeness(tensors)
    for name, other in model_types().items():
        if other is not module and _bottom(other).likeness(tensors) > max(0.9, likeness):
            return WeightsError(
                f"{folder} holds weights of a {name}, and a {CONFIG} of a {module.FOREIGN.model_type}",
                "both of one model",
                f"put the {CONFIG} beside the weights that it was saved with",
            )
    head = {name for rule in of_head(table.rules) for name in rule.theirs}
    do, classes, missing = error.do, getattr(module.FOREIGN, "classes", {}), table.missing(tensors)
    if classes and missing and head.issuperset(missing):
        if not settings.get("architectures"):
            do = f'{CONFIG} names no class: say which saved it, "architectures": [one of {", ".join(classes)}]'
        elif not table.unknown(tensors):
            do = (
                f"the folder lacks the head {config.head!r} that its {CONFIG} asks for (architectures): "
                f"formers.load({str(folder)!r}, head='none') reads the body alone, another head is drawn over it"
            )
    return WeightsError(f"{folder}: {error.found}", error.wanted, do)


def _bottom(module: ModuleType) -> Table:
    """The names of a model's embeddings and first layer, which its files have under every head."""
    table = module.weights(configs.replace(module.CONFIG(), num_layers=1))
    head = of_head(table.rules)
    return replace(table, rules=tuple(rule for rule in table.rules if rule not in head))


def _load_ours(
    folder: Path, settings: dict[str, Any], code: str | None, dtype: Any, device: Any, changes: Mapping[str, Any]
) -> nn.Module:
    ours = settings.get("formers")
    if not isinstance(ours, dict):
        raise ConfigError(f"{folder / CONFIG} has no settings under 'formers'", "what formers.save writes there")
    name, stored = str(ours.get("architecture")), ours.get("config")
    if name in registry.specs() and stored is not None:
        model = build_empty(name, stored, changes)
    else:
        refuse_changes(changes, str(folder))
        model = user_code.rebuild(str(folder), code, ours.get("code"), stored)
    check_tokenizer(folder, getattr(getattr(model, "config", None), "vocab_size", None))
    return fill(model, folder, dtype=dtype, device=device)


def build_empty(architecture: str, stored: Mapping[str, Any], changes: Mapping[str, Any] | None = None) -> nn.Module:
    """A built-in model by its settings and `changes` of them, without memory for its weights."""
    module = registry.spec(architecture).load()
    return _on_meta(module, configs.replace(configs.from_dict(module.CONFIG, stored), **changes or {}))


def refuse_changes(changes: Mapping[str, Any], name: str) -> None:
    """Raise ConfigError: only settings of built-in models can be changed while loading."""
    if changes:
        found = f"{', '.join(changes)} cannot be changed while {name} is loaded"
        raise ConfigError(found, "a run or folder of a built-in architecture", "change the code that builds the model")


def fill(model: nn.Module, folder: Path, *, dtype: Any = None, device: Any = None) -> nn.Module:
    """Give `model` the tensors that a folder stores under the model's own names. Raises WeightsError where they do not fit."""
    return assign(model, _same_names(folder, model, Tensors(folder, dtype=dtype, device=device)))


def _on_meta(module: ModuleType, config: Any) -> nn.Module:
    """The model without memory for its weights, which are assigned afterwards: loading takes one copy of them."""
    with torch.device("meta"), _NotDrawn():
        return module.MODEL(config)


class _NotDrawn(TorchFunctionMode):
    """Initial weights are not drawn: nothing is there to draw into, and torch would import a second's worth of code for it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in ("uniform_", "normal_", "kaiming_uniform_"):
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def assign(model: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """Make `tensors` the model's, and share again what it shared. Raises WeightsError for whole numbers where the model's
    are not, as in files of quantised weights."""
    groups = tied(model)
    expected = model.state_dict()
    whole = [
        f"{name} is {str(tensor.dtype).removeprefix('torch.')}, the model's numbers are not whole"
        for name, tensor in tensors.items()
        if name in expected and expected[name].is_floating_point() > tensor.is_floating_point()
    ]
    if whole:
        do = "quantised weights are not read: save them as float32, float16 or bfloat16"
        raise WeightsError(listed("the tensors do not fit the model", sorted(whole)), do=do)
    model.load_state_dict(dict(tensors), strict=True, assign=True)
    for first, *others in groups:
        for name in others:
            owner, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(owner), leaf, model.get_parameter(first))
    left = [name for name, tensor in [*model.named_parameters(), *model.named_buffers()] if tensor.is_meta]
    assert not left, f"no values for {left}"
    return model


def tied(model: nn.Module) -> list[list[str]]:
    """Names of parameters that are one and the same, in groups of two and more."""
    groups: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        groups.setdefault(id(parameter), []).append(name)
    return [names for names in groups.values() if len(names) > 1]


def read_as(model: nn.Module, module: ModuleType | None, tensors: Mapping[str, Tensor], what: str) -> dict[str, Tensor]:
    """Stored tensors by the names of `model`, which `module` defines (None: the user's own, stored under its own names)."""
    config = getattr(model, "config", None)
    if not is_theirs(module, config):
        return _same_names(what, model, tensors)
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    return module.weights(config).read(tensors, shapes)


def _same_names(what: Path | str, model: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors stored under the model's own names, those shared stored once."""
    expected = model.state_dict()
    again = {name: group[0] for group in tied(model) for name in group[1:]}
    problems = [f"missing {name}" for name in expected.keys() - again.keys() - tensors.keys()]
    problems += [f"unknown {name}" for name in tensors.keys() - expected.keys()]
    read = {name: tensors[name] for name in tensors if name in expected}
    problems += [
        f"{name} is {tuple(tensor.shape)}, the model's is {tuple(expected[name].shape)}"
        for name, tensor in read.items()
        if tensor.shape != expected[name].shape
    ]
    if problems:
        raise WeightsError(listed(f"{what}: the tensors do not fit the model", sorted(problems)))
    return {name: read[again.get(name, name)] for name in expected}


def check_tokenizer(folder: Path, vocab_size: int | None) -> None:
    """Refuse a tokenizer.json with ids that the model has no row for. (Rows without a token are common: padding.)"""
    if vocab_size is None or not (folder / "tokenizer.json").is_file():
        return
    contents = read_json(folder / "tokenizer.json")
    vocab = (contents.get("model") or {}).get("vocab") or {}
    ids = vocab.values() if isinstance(vocab, dict) else range(len(vocab))
    largest = max([*ids, *(token["id"] for token in contents.get("added_tokens") or ())], default=-1)
    if largest >= vocab_size:
        raise ConfigError(
            f"{folder}: the tokenizer has ids up to {largest}, the model's vocab_size is {vocab_size}",
            f"a tokenizer with ids below {vocab_size}",
            "put the tokenizer.json beside the model that was trained with it",
        )
