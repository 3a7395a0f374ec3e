"""TARGET: what every verb takes. A name, a path or a file of the user's own, made into a model.

    runs/x                    a run: its model/ folder
    runs/x/checkpoints/step-N the weights of one checkpoint
    folder                    a model folder: config.json and model.safetensors
    gpt2-stdlib               a trained model that comes with the package (formers.pretrained)
    gpt2, gpt2.tiny           a built-in architecture, with a preset; fresh weights
                              (of both: a run or model folder of just this name here is meant by it, as in transformers)
    my_model.py:function      the user's own
    org/name, hf:gpt2         a model of the Hugging Face hub
    transformers:folder       a model folder opened by transformers, for comparison

`parse` decides which it is and imports no torch, so that a wrong name costs nothing.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from formers import pretrained
from formers.errors import RunError, TargetError, WeightsError
from formers.models import registry

if TYPE_CHECKING:
    import torch
    from torch import nn

    from formers.text import Tokenizer

Kind = Literal["run", "checkpoint", "folder", "architecture", "code", "hub", "transformers", "module"]

WANTED = "a run, a model folder, an architecture, file.py:function, or a hub name (org/name or hf:name)"


@dataclass(frozen=True)
class Target:
    """What a TARGET names. path: of a run, checkpoint or folder. note: what the user should know of the choice."""

    text: str
    kind: Kind
    path: Path | None = None
    note: str = ""


@dataclass(frozen=True)
class Resolved:
    """A model and where it comes from.

    name    what the user typed
    kind    run, checkpoint, folder, architecture, code, transformers or module
    recipe  recipe.json of a run
    fresh   whether the weights are newly drawn rather than read
    folder  the model folder, where there is one
    note    a sentence for the user, or ""
    run     the run folder of a run
    """

    name: str
    kind: Kind
    model: Any
    recipe: dict[str, Any] | None = None
    fresh: bool = False
    folder: Path | None = None
    note: str = ""
    run: Path | None = None

    @cached_property
    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer beside the model, else that of the run's shards, or None. Raises DataError, when it is first asked
        for, if it cannot be read."""
        from formers.text.load import load_tokenizer

        found = _tokenizer_folder(self.folder, self.recipe)
        return load_tokenizer(found) if found else None


def _tokenizer_folder(folder: Path | None, recipe: Mapping[str, Any] | None) -> Path | None:
    """A model folder that holds its tokenizer, else the run's shards, or None."""
    from formers.text.load import tokenizer_file

    shards = (recipe or {}).get("shards")
    folders = [folder, shards.get("folder") if isinstance(shards, dict) else None]
    return next((Path(each) for each in folders if each and tokenizer_file(Path(each))), None)


def tokenizer_folder(target: str | Path) -> Path | None:
    """Where the tokenizer of a run, a model folder or a packaged model lies; no weight is read. None where it has none.

    Raises:
        TargetError: nothing of that name. RunError: a recipe that cannot be read.
    """
    parsed = parse(target)
    if parsed.kind == "run" and parsed.path is not None:
        return _tokenizer_folder(parsed.path / "model", read_recipe(parsed.path))
    return _tokenizer_folder(parsed.path, None)


# --- what is meant ----------------------------------------------------------------------------------------------------


def parse(target: str | Path) -> Target:
    """Which kind of thing `target` names.

    Raises:
        TargetError: nothing of that name; near names are suggested.
    """
    text = str(target)
    prefix, colon, rest = text.partition(":")
    if colon and prefix == "hf" and rest:
        return Target(rest, "hub")
    if colon and prefix == "transformers" and rest:
        return Target(rest, "transformers")
    if text.endswith(".py") or ".py:" in text:
        return Target(text, "code")
    path = Path(text).expanduser()
    named = isinstance(target, str) and text.partition(".")[0] in registry.specs()
    if named and not _holds_model(path):
        return _architecture(text)
    shipped = pretrained.find(text) if isinstance(target, str) else None
    if shipped is not None and not _holds_model(path):
        return Target(text, "run", shipped)
    if path.is_dir():
        note = _instead_of(text, "the model that comes with formers") if shipped else ""
        return Target(text, _kind_of_folder(path), path, _instead_of_the_architecture(text) if named else note)
    if path.exists():
        raise TargetError(f"{text} is a file", WANTED, "name the folder it stands in")
    if isinstance(target, str) and _may_be_hub_name(text):
        return Target(text, "hub")
    raise _nothing(text)


def _holds_model(path: Path) -> bool:
    return any((path / name).is_file() for name in ("config.json", "recipe.json", "checkpoint.json"))


def _instead_of_the_architecture(text: str) -> str:
    name = text.partition(".")[0]
    return _instead_of(text, "the architecture", f", or by formers.build({name!r}),")


def _instead_of(text: str, else_: str, or_by: str = ",") -> str:
    return f"{text} is the folder ./{text} here; where there is none{or_by} it is {else_}"


def _kind_of_folder(path: Path) -> Kind:
    if (path / "recipe.json").is_file():
        return "run"
    return "checkpoint" if (path / "checkpoint.json").is_file() else "folder"


def _architecture(text: str) -> Target:
    name, dot, preset = text.partition(".")
    registry.configure(name, preset if dot else None)  # an unknown preset is refused here
    note = f"{text} is the built-in architecture with fresh weights"
    if not dot:
        note += f"; hf:{name} is the hub's model" + (f", ./{name} the folder" if Path(text).is_dir() else "")
    return Target(text, "architecture", note=note)


def _may_be_hub_name(text: str) -> bool:
    """organisation/name, unless a folder called organisation is here: then it is a path with a typo."""
    organisation, slash, name = text.partition("/")
    plain = all(part and not part.startswith((".", "~")) for part in (organisation, name))
    return bool(slash) and plain and "/" not in name and not Path(organisation).is_dir()


def _nothing(text: str) -> TargetError:
    path = Path(text).expanduser()
    names = {p.name: str(p) for p in path.parent.iterdir() if p.is_dir()} if path.parent.is_dir() else {}
    if path.parent == Path(".") and not text.startswith("."):
        names |= {p.name: str(p) for p in Path("runs").glob("*/")}
        names |= {name: name for name in (*registry.specs(), *pretrained.names())}
    near = difflib.get_close_matches(path.name, names, n=3, cutoff=0.6)
    if not near and "." in path.name:  # gpt3.tiny
        near = difflib.get_close_matches(path.name.partition(".")[0], registry.specs(), n=1, cutoff=0.6)
    return TargetError(
        f"there is no {text!r}",
        WANTED,
        "did you mean " + " or ".join(names.get(n, n) for n in near) + "?" if near else "",
    )


# --- making it --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _How:
    """How a model that is stored is to be read."""

    code: str | None
    dtype: Any
    device: Any
    changes: dict[str, Any]


def resolve(
    target: str | Path | nn.Module,
    *,
    seed: int = 0,
    code: str | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    changes: Mapping[str, Any] | None = None,
) -> Resolved:
    """The model that `target` names.

    seed  draws the weights of an architecture or of the user's own model
    code  ``file.py:function`` that builds the model of a run or folder which was made by code of the user's
    changes  settings in place of those that a run or folder of a built-in architecture stores; its weights must still fit

    Raises:
        TargetError, ConfigError, WeightsError, RunError: one clear error for whatever is wrong.
    """
    from torch import nn

    if isinstance(device, str):
        from formers.training.precision import choose_device

        device = choose_device(device)
    if isinstance(target, nn.Module):
        return Resolved(type(target).__name__, "module", target.to(device=device, dtype=dtype))
    parsed = parse(target)
    maker = {"run": _run, "checkpoint": _checkpoint, "folder": _folder, "hub": _hub, "transformers": _transformers}.get(
        parsed.kind
    )
    if maker is not None:
        return maker(parsed, _How(code, dtype, device, dict(changes or {})))
    from formers.hub import user_code

    if parsed.kind == "architecture":
        name, dot, preset = parsed.text.partition(".")
        model = registry.build(name, preset if dot else None, seed=seed, **changes or {})
    else:
        _refuse(changes, parsed)
        model = user_code.build(parsed.text, seed=seed)
    return Resolved(parsed.text, parsed.kind, model.to(device=device, dtype=dtype), fresh=True, note=parsed.note)


def load(
    target: str | Path,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    code: str | None = None,
    **changes: Any,
) -> Any:
    """The trained model of a run, a Hugging Face folder, or a hub name, in evaluation mode.

    Weights keep the type they are stored in unless `dtype` is given; those of models that come with the package, such as
    ``"gpt2-stdlib"``, are small on the disk as bf16 and come as float32. A bare name such as ``"gpt2"`` is a model folder of
    that name in the present one, else the hub's: an architecture alone has no weights to load; ``formers.build`` makes those.

    code     the user's ``file.py:function``, for what was made by code of the user's
    changes  settings of a built-in architecture in place of the stored ones, such as ``memory_length=1600``; the weights
             must still fit

    Raises:
        TargetError, ConfigError, WeightsError, RunError: one clear error for whatever is wrong.
    """
    parsed = parse(target)
    if parsed.kind == "architecture" and "." in parsed.text:
        name, _, preset = parsed.text.partition(".")
        raise TargetError(
            f"{parsed.text} is an architecture, and has no weights to load",
            "a run, a model folder or a hub name",
            f"formers.build({name!r}, preset={preset!r}) makes one with fresh weights",
        )
    if parsed.kind == "architecture":
        target = f"hf:{parsed.text}"
    return resolve(target, code=code, dtype=dtype, device=device, changes=changes).model.eval()


def _folder(parsed: Target, how: _How) -> Resolved:
    from formers.hub.folders import load_folder

    assert parsed.path is not None
    model = load_folder(parsed.path, **vars(how))
    return Resolved(parsed.text, "folder", model, folder=parsed.path, note=parsed.note)


def _run(parsed: Target, how: _How) -> Resolved:
    from formers.hub.folders import load_folder

    assert parsed.path is not None
    recipe, folder = read_recipe(parsed.path), parsed.path / "model"
    if not folder.is_dir():
        return _newest_checkpoint(parsed, how)
    model = load_folder(folder, **vars(_as_shipped(how) if pretrained.ships(parsed.path) else how))
    return Resolved(parsed.text, "run", model, recipe, folder=folder, note=parsed.note, run=parsed.path)


def _as_shipped(how: _How) -> _How:
    """In bf16 these models are stored, to be small; they are computed in float32, fast or not in bf16 as the machine may be."""
    import torch

    return how if how.dtype is not None else dataclasses.replace(how, dtype=torch.float32)


def _newest_checkpoint(parsed: Target, how: _How) -> Resolved:
    """A run that has not ended: its newest checkpoint that can be read."""
    assert parsed.path is not None
    recipe = read_recipe(parsed.path)
    for checkpoint in checkpoints(parsed.path):
        try:
            model = _load_checkpoint(checkpoint, recipe, how)
        except WeightsError:
            continue  # damaged: the one before it
        note = f"{parsed.text} has not ended; these are the weights of {checkpoint.name}"
        return Resolved(parsed.text, "run", model, recipe, note=note, run=parsed.path)
    raise RunError(
        f"the run {parsed.path} has no model yet, and no checkpoint that can be read",
        "a run that has ended, or has written a checkpoint",
        f"wait, or go on with it: formers train .. --resume --out {parsed.path}",
    )


def checkpoints(run: Path) -> list[Path]:
    """checkpoints/step-N of a run, the newest first."""
    found = [path for path in (run / "checkpoints").glob("step-*") if path.name[5:].isdigit()]
    return sorted(found, key=lambda path: int(path.name[5:]), reverse=True)


def _checkpoint(parsed: Target, how: _How) -> Resolved:
    assert parsed.path is not None
    recipe = read_recipe(parsed.path.resolve().parent.parent)
    model = _load_checkpoint(parsed.path, recipe, how)
    return Resolved(parsed.text, "checkpoint", model, recipe)


def _load_checkpoint(checkpoint: Path, recipe: dict[str, Any], how: _How) -> nn.Module:
    """The recipe's model with the weights of a checkpoint, which hold its tensors under its own names."""
    from formers.hub import folders, user_code

    if recipe.get("code"):
        folders.refuse_changes(how.changes, str(checkpoint))
        model = user_code.rebuild(str(checkpoint), how.code, recipe["code"], recipe.get("model"))
    else:
        model = folders.build_empty(str(recipe.get("architecture")), recipe.get("model") or {}, how.changes)
    return folders.fill(model, checkpoint, dtype=how.dtype, device=how.device).eval()


def read_recipe(run: Path) -> dict[str, Any]:
    """recipe.json of a run folder. Raises RunError where it is damaged."""
    try:
        recipe = json.loads((run / "recipe.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{run / 'recipe.json'} cannot be read ({error})", "the recipe of a run") from error
    if not isinstance(recipe, dict):
        raise RunError(f"{run / 'recipe.json'} holds a {type(recipe).__name__}", "a JSON object")
    return recipe


def _hub(parsed: Target, how: _How) -> Resolved:
    from formers.hub.fetch import fetch

    folder = fetch(parsed.text)
    found = _folder(Target(parsed.text, "folder", folder), how)
    return Resolved(parsed.text, "folder", found.model, folder=folder)


def _refuse(changes: Mapping[str, Any] | None, parsed: Target) -> None:
    from formers.hub.folders import refuse_changes

    refuse_changes(changes or {}, parsed.text)


def _transformers(parsed: Target, how: _How) -> Resolved:
    from formers.hub.wrapped import open_with_transformers

    _refuse(how.changes, parsed)
    model = open_with_transformers(parsed.text, how.dtype).to(device=how.device)
    folder = Path(parsed.text) if Path(parsed.text).is_dir() else None
    return Resolved(f"transformers:{parsed.text}", "transformers", model, folder=folder)
