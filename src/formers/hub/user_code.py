"""The user's own models: ``file.py:function``. The only door by which code outside the package is run, and only when the
user names it: nothing that a folder or checkpoint says is ever executed.

The function is called without arguments. It may return
    a module    with at least ``forward(input_ids)`` that gives logits, or something with ``.logits``
    a config    with ``build(seed)``, or of a built-in architecture
    a recipe    anything whose ``.model`` is such a config
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import inspect
import linecache
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from formers import config as configs
from formers.errors import TargetError, suggest
from formers.models import registry


def split(target: str) -> tuple[Path, str]:
    """``"file.py:function"`` as path and name. The name is empty where none is given."""
    path, colon, name = target.rpartition(":")
    return (Path(path), name) if colon and path.endswith(".py") else (Path(target.rstrip(":")), "")


def record(target: str) -> dict[str, str]:
    """What a run or folder remembers of the code it came from: ``{"target": .., "sha256": ..}``."""
    path, _ = split(target)
    return {"target": target, "sha256": _sha256(path)}


def build(target: str, *, seed: int = 0) -> nn.Module:
    """The model of the user's ``file.py:function``, with fresh weights drawn from `seed`.

    Raises:
        TargetError: no such file or function, an error inside it (with the user's line), or a result that is no model.
    """
    made = call(target, seed=seed)
    return model_of(made, target, seed)


def rebuild(folder: str, code: str | None, recorded: Any, stored: dict[str, Any] | None) -> nn.Module:
    """The model that `folder` was saved from: the user's `code`, with the `stored` settings where it has any."""
    recorded = {"target": recorded} if isinstance(recorded, str) else recorded
    recorded = recorded if isinstance(recorded, dict) else {}
    known, digest = recorded.get("target"), recorded.get("sha256")
    if code is None:
        named = known or "file.py:function"
        raise TargetError(
            f"{folder} was made by code of yours ({known or 'it does not say which'}), and code is only run when you name it",
            do=f"add --code {named}, or in Python formers.load({folder!r}, code={named!r})",
        )
    path, _ = split(code)
    made = call(code, seed=0)
    if digest is not None and _sha256(path) != digest:
        warnings.warn(f"{path} has changed since {folder} was made by it; the model may differ", stacklevel=2)
    return model_of(made, code, 0, stored)


def call(target: str, *, seed: int) -> Any:
    """What the function returns. torch's random numbers begin at `seed` inside it and go on unchanged outside."""
    path, name = split(target)
    function = _function(_import(path), path, name)
    with torch.random.fork_rng(devices=[]), _user_errors(path, f"{path}:{name}"):
        torch.manual_seed(seed)
        return function()


def model_of(made: Any, target: str, seed: int, stored: dict[str, Any] | None = None) -> nn.Module:
    """The model that a function's result stands for; `stored` settings replace those of a config."""
    if isinstance(made, nn.Module):
        return made
    config = getattr(made, "model", made)
    path, _ = split(target)
    if stored is not None and hasattr(config, "__dataclass_fields__"):
        config = configs.from_dict(type(config), stored)
    with torch.random.fork_rng(devices=[]), _user_errors(path, target):
        torch.manual_seed(seed)
        if isinstance(config, nn.Module):
            return config
        if callable(getattr(config, "build", None)):
            return _checked(config.build(seed), target)
        if getattr(config, "architecture", None) in registry.specs():
            return registry.of_config(config).load().MODEL(config, seed=seed)
    return _checked(made, target)


def _checked(made: Any, target: str) -> nn.Module:
    if not isinstance(made, nn.Module):
        raise TargetError(
            f"{target} gives {type(made).__name__} ({str(made)[:60]})",
            "a torch.nn.Module, a config with build(seed), or a recipe whose .model is such a config",
        )
    return made


# --- finding it -------------------------------------------------------------------------------------------------------


def _import(path: Path) -> ModuleType:
    if not path.is_file():
        near = suggest(path.name, [p.name for p in path.parent.glob("*.py")] if path.parent.is_dir() else [])
        raise TargetError(f"there is no file {path}", "file.py:function", near)
    resolved = path.resolve()
    name = f"formers_user_{resolved.stem}_{hashlib.sha256(str(resolved).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, resolved)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    linecache.checkcache(str(resolved))
    sys.modules[name] = module  # dataclasses and pickled classes look their module up there
    with _user_errors(path, str(path)), _beside(resolved.parent):
        spec.loader.exec_module(module)
    return module


@contextmanager
def _beside(folder: Path) -> Iterator[None]:
    """Let the user's file import the files beside it."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def _function(module: ModuleType, path: Path, name: str) -> Callable[[], Any]:
    known = _defined(path)
    if not name:
        raise TargetError(f"{path} alone does not say which function", f"{path}:{known[0] if known else 'function'}")
    function = getattr(module, name, None)
    if function is None:
        near = suggest(name, known) or f"it has {', '.join(known) or 'none'}"
        raise TargetError(f"{path} has no function {name!r}", f"{path}:function", near)
    if not callable(function):
        raise TargetError(f"{name} of {path} is a {type(function).__name__}", "a function")
    needed = _needed(function)
    if needed:
        raise TargetError(
            f"{name} of {path} needs {', '.join(needed)}",
            "a function that can be called without arguments",
            f"write another beside it: def my_model(): return {name}(..)",
        )
    return function


def _defined(path: Path) -> list[str]:
    """Functions and classes at the top of the file, in its order."""
    tree = ast.parse(path.read_text("utf-8"))
    return [node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]


def _needed(function: Callable[..., Any]) -> list[str]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # a builtin that does not say
        return []
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p.name for p in parameters if p.default is inspect.Parameter.empty and p.kind not in kinds]


def _sha256(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise TargetError(f"cannot read {path}: {error.strerror}", "file.py:function") from error


# --- errors of the user's -----------------------------------------------------------------------------------------------


@contextmanager
def _user_errors(path: Path, what: str) -> Iterator[None]:
    """Whatever goes wrong in the user's file, as one TargetError that shows the line."""
    try:
        yield
    except TargetError:
        raise
    except (Exception, SystemExit) as error:
        raise TargetError(
            f"{what} stopped with {_named(error)}\n{_line(error, path)}", do="mend that line and try again"
        ) from error


def _named(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _line(error: BaseException, path: Path) -> str:
    """The innermost line of the user's file that led to the error."""
    if isinstance(error, SyntaxError) and error.filename == str(path.resolve()):
        return f"    {path}:{error.lineno}: {(error.text or '').strip()}"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path.resolve())]
    if not frames:
        return f"    in {path}"
    return f"    {path}:{frames[-1].lineno}: {frames[-1].line}"
