"""Memories on disk: a corpus is memorised once and looked up many times, by this process and by others.

    save_memories(folder, {"layer 4": memory}, model=fingerprint(model))
    memories = load_memories(folder, model=fingerprint(model), mapped=True)      # read-only; pages are read as they are needed

memory.safetensors   every tensor of every memory, as NAME/TENSOR
memory.json          what they are, of which model, and the size and sha256 of the file above

The folder is written aside and renamed, so whoever reads sees the old one or the new one, also after a crash. One process at
a time may write to it: `writing(folder)` holds it for as long as a process builds on it, `save_memories` for itself.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from formers.config import from_dict
from formers.errors import ConfigError, RunError, StateError, TargetError, suggest
from formers.files import remove_leftovers
from formers.hub.files import disk_errors, read_json, write_folder, write_json
from formers.parts import forgetting
from formers.parts.memory import Memory
from formers.parts.storage import Int8

FORMAT, VERSION = "formers.memory", 1
TENSORS, MANIFEST = "memory.safetensors", "memory.json"
POLICIES = {
    policy.__name__: policy
    for policy in (forgetting.Oldest, forgetting.LeastUsed, forgetting.LeastRecentlyUsed, forgetting.OldestDocument)
}


def fingerprint(model: nn.Module) -> str:
    """sha256 of a model's weights: keys and values mean nothing to other weights than those that made them."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


# --- writing ------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def writing(folder: Path | str) -> Iterator[None]:
    """This process alone may write to the folder while the block lasts. Readers are not kept out.

    Raises StateError where another process writes. What a process that died held is free.
    """
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.parent / f".{folder.name}.lock", timeout=0, is_singleton=True, thread_local=False)
    try:
        lock.acquire()
    except Timeout:
        raise StateError(
            f"another process is writing to {folder}",
            "one writer at a time",
            "wait for it, or write to a folder of its own",
        ) from None
    try:
        yield
    finally:
        lock.release()


def save_memories(folder: Path | str, memories: Mapping[str, Memory], *, model: str, replace: bool = False) -> None:
    """Write `folder`. model: the fingerprint of the model that made the memories. replace: a memory that stands there goes.

    Raises:
        StateError: another process is writing to the folder.
        RunError: something else than a memory stands there, or `replace` is off, or the disk refuses.
    """
    folder = Path(folder)
    if replace and folder.is_dir() and any(folder.iterdir()) and not (folder / MANIFEST).is_file():
        raise RunError(f"{folder} holds something else than a memory", "a memory folder to replace, or a new one")
    tensors = {f"{name}/{key}": t for name, memory in memories.items() for key, t in memory.tensors().items()}
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with writing(folder), write_folder(folder, replace=replace) as aside:
        with disk_errors(folder):
            save_file(whole, aside / TENSORS)
        (aside / TENSORS).chmod(aside.stat().st_mode & 0o666)
        described = {name: describe(memory) for name, memory in memories.items()}
        checksum = {"bytes": (aside / TENSORS).stat().st_size, "sha256": _sha256(aside / TENSORS)}
        manifest = {"format": FORMAT, "version": VERSION, "model": model, "memories": described, TENSORS: checksum}
        write_json(aside / MANIFEST, manifest)


def describe(memory: Memory) -> dict[str, Any]:
    """What a memory is, as plain values."""
    rows, heads, slots, d_key = memory.keys.shape
    dtype = torch.int8 if isinstance(memory.keys, Int8) else memory.keys.dtype
    return {
        "rows": rows,
        "heads": heads,
        "slots": slots,
        "d_key": d_key,
        "d_value": memory.values.shape[-1],
        "dtype": str(dtype).removeprefix("torch."),
        "stride": memory.stride,
        "policy": {"kind": type(memory.policy).__name__, **dataclasses.asdict(memory.policy)},  # type: ignore[call-overload]
    }


@contextlib.contextmanager
def temporary_folder(beside: Path | str | None = None) -> Iterator[Path]:
    """A folder to keep memories in while the block lasts; it is gone afterwards, however the block ends."""
    folder = Path(tempfile.mkdtemp(prefix="formers-memory-", dir=beside))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# --- reading ------------------------------------------------------------------------------------------------------------


def load_memories(
    folder: Path | str,
    *,
    model: str | None = None,
    like: Mapping[str, Memory] | None = None,
    mapped: bool = False,
    verify: bool = True,
) -> dict[str, Memory]:
    """The memories of a folder.

    model   the fingerprint of the model that will look into them; None: not checked
    like    memories that these are to stand in for: their names, heads, dimensions and types must be the same
    mapped  leave them on disk, read-only, and let the system read the pages that are looked into
    verify  read the file once to compare its checksum; without it only its size is compared

    Raises:
        TargetError: there is no memory folder.         RunError: it is damaged, or of another version.
        StateError: it is of another model, or of other dimensions or another type than `like`.
    """
    folder = Path(folder)
    manifest = _manifest(folder)
    if model is not None and manifest["model"] != model:
        raise StateError(
            f"{folder} was memorised by a model with fingerprint {manifest['model'][:12]}",
            f"the model that looks into it, {model[:12]}",
            "memorise the text again with this model, or load the model that made it",
        )
    if like is not None:
        _check_alike(folder, manifest["memories"], like)
    _check_file(folder, manifest[TENSORS], verify)
    return {name: _load(folder, name, facts, mapped) for name, facts in manifest["memories"].items()}


def _manifest(folder: Path) -> dict[str, Any]:
    if not folder.exists() and folder.parent.is_dir():
        remove_leftovers(folder)  # a writer that died between two renames had moved the old one aside
    if not (folder / MANIFEST).is_file():
        raise TargetError(f"{folder} is no memory folder: it has no {MANIFEST}", "what save_memories wrote")
    try:
        manifest = read_json(folder / MANIFEST)
    except ConfigError as error:
        raise RunError(error.found, f"the {MANIFEST} that save_memories wrote", "memorise the text again") from error
    if (manifest.get("format"), manifest.get("version")) != (FORMAT, VERSION):
        found = f"{folder} is of format {manifest.get('format')!r}, version {manifest.get('version')!r}"
        raise RunError(found, f"{FORMAT!r}, version {VERSION}", "memorise the text again")
    missing = [name for name in ("model", "memories", TENSORS) if name not in manifest]
    missing += [] if missing else _gaps(manifest)
    if missing:
        raise RunError(f"{folder / MANIFEST} lacks {', '.join(missing)}", do="memorise the text again")
    return manifest


def _gaps(manifest: Mapping[str, Any]) -> list[str]:
    """What a manifest does not say, or says of no kind that there is."""
    memories, file = manifest["memories"], manifest[TENSORS]
    if not isinstance(memories, dict) or not isinstance(file, dict):
        return ["what memories there are"]
    gaps = [] if isinstance(manifest["model"], str) else ["the model"]
    gaps += [
        f"the {name} of {TENSORS}"
        for name, kind in {"bytes": int, "sha256": str}.items()
        if not _is(kind, file.get(name))
    ]
    for name, facts in memories.items():
        kinds = {"policy": dict, "dtype": str, **dict.fromkeys(("rows", "heads", "slots", "d_key", "d_value"), int)}
        wrong = [key for key, kind in kinds.items() if not isinstance(facts, dict) or not _is(kind, facts.get(key))]
        if not wrong and not isinstance(getattr(torch, facts["dtype"], None), torch.dtype):
            wrong = ["dtype"]
        gaps += [f"the {key} of {name}" for key in wrong]
    return gaps


def _is(kind: type, value: Any) -> bool:
    """Whether a manifest's value can be meant: numbers count something, so they are at least 1."""
    return isinstance(value, kind) and not (kind is int and value < 1)


def _check_alike(folder: Path, found: Mapping[str, Any], like: Mapping[str, Memory]) -> None:
    problems = [f"no memory {name!r} {suggest(name, found)}".strip() for name in like.keys() - found.keys()]
    for name in like.keys() & found.keys():
        wanted = describe(like[name])
        problems += [
            f"{name}: {field} {found[name][field]}, not {wanted[field]}"
            for field in ("heads", "d_key", "d_value", "dtype")
            if found[name][field] != wanted[field]
        ]
    if problems:
        raise StateError(
            f"{folder} does not fit: {'; '.join(sorted(problems))}",
            "memories of the same layers, heads, dimensions and types",
            "memorise the text again with this model and storage",
        )


def _check_file(folder: Path, promised: Mapping[str, Any], verify: bool) -> None:
    path = folder / TENSORS
    size = path.stat().st_size if path.is_file() else 0
    if size != promised["bytes"]:
        raise RunError(
            f"{path} has {size:,} bytes", f"{promised['bytes']:,}", "copy it again whole, or memorise the text again"
        )
    if verify and _sha256(path) != promised["sha256"]:
        raise RunError(f"{path} was changed since it was written (its sha256 differs)", do="copy or make it again")


def _load(folder: Path, name: str, facts: dict[str, Any], mapped: bool) -> Memory:
    shape = [facts[key] for key in ("rows", "heads", "slots", "d_key", "d_value")]
    dtype, policy = getattr(torch, facts["dtype"]), _policy(folder, facts["policy"])
    stride = facts.get("stride", 1)  # folders of an earlier version hold every token
    empty = Memory.empty(*shape, policy=policy, stride=stride, storage=dtype, device="meta")
    tensors = _read(folder / TENSORS, name, empty.tensors(), mapped)
    return dataclasses.replace(empty.with_tensors(tensors), read_only=mapped)


def _policy(folder: Path, described: Mapping[str, Any]) -> forgetting.Policy:
    kind, settings = described.get("kind"), {name: value for name, value in described.items() if name != "kind"}
    made = POLICIES.get(str(kind))
    if made is None:
        raise RunError(f"{folder} forgets by {kind}", ", ".join(POLICIES), "get a newer formers")
    try:
        return from_dict(made, settings)
    except ConfigError as error:
        found = f"{folder} forgets by {kind} in no way that there is ({error.found})"
        raise RunError(found, do="memorise the text again, or get a newer formers") from error


def _read(path: Path, name: str, wanted: Mapping[str, Tensor], mapped: bool) -> dict[str, Tensor]:
    """Views of the file where it is mapped, copies otherwise."""
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            found = {key: file.get_tensor(f"{name}/{key}") for key in wanted}
    except (SafetensorError, OSError) as error:
        raise RunError(f"{path} is damaged ({error})", do="copy it again, or memorise the text again") from error
    wrong = [
        key for key, tensor in found.items() if tensor.shape != wanted[key].shape or tensor.dtype != wanted[key].dtype
    ]
    if wrong:
        raise RunError(f"{path} holds other {', '.join(wrong)} than {MANIFEST} says", do="memorise the text again")
    return found if mapped else {key: tensor.clone() for key, tensor in found.items()}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


__all__ = ["describe", "fingerprint", "load_memories", "save_memories", "temporary_folder", "writing"]
