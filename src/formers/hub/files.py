"""Files of model folders: safetensors and JSON, whole or not at all, and one clear error for each way they can be bad."""

from __future__ import annotations

import contextlib
import errno
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from formers.errors import ConfigError, FormersError, RunError, WeightsError
from formers.files import whole_folder

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
CONFIG = "config.json"


@contextlib.contextmanager
def write_folder(path: Path | str, *, replace: bool = False) -> Iterator[Path]:
    """A folder beside `path` to write in. When the block ends well it is synced and renamed to `path`; whatever else ends
    the block (an error, Ctrl-C, a full disk) leaves what stood at `path` as it was.

    `replace` allows that a folder with files stands there; it is swapped for the new one as a whole.

    Raises:
        RunError: something stands at `path` and `replace` is off, or the disk is full.
    """
    path = Path(path)
    if path.is_file():
        raise RunError(f"{path} is a file", "a folder to write")
    if not replace and path.is_dir() and any(path.iterdir()):
        raise RunError(f"{path} holds files already", "a new or empty folder", "choose another one")
    with disk_errors(path), whole_folder(path) as aside:
        yield aside


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """What the disk refuses, as one RunError."""
    try:
        yield
    except FormersError:
        raise
    except (OSError, SafetensorError) as error:
        if isinstance(error, OSError) and error.errno is None:
            raise
        if isinstance(error, SafetensorError) and "os error" not in str(error):
            raise
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "os error 28" in str(error)
        do = "free some space, or write elsewhere" if full else "check the path and its permissions"
        raise RunError(f"cannot write {path}: {error}; nothing that stood there was changed", do=do) from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises ConfigError where the file cannot be read or is no such thing."""
    try:
        value = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 (byte {error.start})", "a JSON file") from error
    except json.JSONDecodeError as error:
        raise ConfigError(
            f"{path} is not JSON: {error.msg} at line {error.lineno}, column {error.colno}",
            do="mend that line, or get the file anew",
        ) from error
    if not isinstance(value, dict):
        raise ConfigError(f"{path} holds a {type(value).__name__}", "a JSON object {..}")
    return value


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Plain JSON in a folder that is being written aside."""
    path.write_text(json.dumps(value, indent=2) + "\n", "utf-8")


class Tensors(Mapping[str, Tensor]):
    """The tensors of a folder's safetensors, one file or shards, each read when it is asked for and kept by the asker alone.

    dtype: what floating-point tensors become; None keeps each as stored.
    """

    def __init__(
        self, folder: Path, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> None:
        self.dtype, self.device = dtype, device
        self._homes: dict[str, Path] = {}
        for path in weight_files(folder):
            with _opened(path) as file:
                for name in file.keys():  # noqa: SIM118 - the file is no mapping
                    if name in self._homes:
                        raise WeightsError(
                            f"{name} stands in both {self._homes[name].name} and {path.name} of {folder}"
                        )
                    self._homes[name] = path
        _check_index(folder, self._homes)

    def __getitem__(self, name: str) -> Tensor:
        # Opened for each tensor anew: an open file keeps in memory every page that was ever read of it. And a copy, since
        # what the file hands out is a view of the file itself, which may change or vanish under the model.
        with _opened(self._homes[name]) as file:
            tensor = file.get_tensor(name)
            dtype = self.dtype if self.dtype is not None and tensor.is_floating_point() else tensor.dtype
            return tensor.to(device=self.device, dtype=dtype, copy=True)

    def __iter__(self) -> Iterator[str]:
        return iter(self._homes)

    def __len__(self) -> int:
        return len(self._homes)


def byte_size(size: int | str) -> int:
    """Bytes of ``5_000_000``, ``"500MB"`` (10^6) or ``"5GiB"`` (2^30). Raises ConfigError for what is no size."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?", str(size).strip(), re.IGNORECASE)
    number = (
        0 if found is None else float(found[1]) * (1024 if found[3] else 1000) ** " KMGT".index(found[2].upper() or " ")
    )
    if number < 1:
        raise ConfigError(f"a size of {size!r}", 'bytes, or a text such as "500MB" or "5GiB"')
    return int(number)


def write_tensors(folder: Path, tensors: Mapping[str, Tensor], limit: int) -> None:
    """One safetensors file, or, of more bytes than `limit`, shards with an index, as transformers names them."""
    groups = list(_shards(tensors, limit))
    count = len(groups)
    files = [WEIGHTS] if count == 1 else [f"model-{i + 1:05d}-of-{count:05d}.safetensors" for i in range(count)]
    for file, names in zip(files, groups, strict=True):
        _write_file(folder / file, {name: tensors[name] for name in names})
    if count > 1:
        homes = {name: file for file, names in zip(files, groups, strict=True) for name in names}
        whole = {
            "total_parameters": sum(tensor.numel() for tensor in tensors.values()),
            "total_size": sum(tensor.nbytes for tensor in tensors.values()),
        }
        write_json(folder / INDEX, {"metadata": whole, "weight_map": dict(sorted(homes.items()))})


def _shards(tensors: Mapping[str, Tensor], limit: int) -> Iterator[list[str]]:
    """Names in groups of at most `limit` bytes, in their order; a tensor beyond the limit has a group of its own."""
    names: list[str] = []
    size = 0
    for name, tensor in tensors.items():
        if names and size + tensor.nbytes > limit:
            yield names
            names, size = [], 0
        names.append(name)
        size += tensor.nbytes
    yield names


def _write_file(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """With the metadata by which transformers recognises PyTorch's files."""
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(whole, path, metadata={"format": "pt"})


def main_dtype(tensors: Mapping[str, Tensor]) -> str:
    """The type that most numbers have, as ``"bfloat16"``."""
    counts: Counter[str] = Counter()
    for tensor in tensors.values():
        if tensor.is_floating_point():
            counts[str(tensor.dtype).removeprefix("torch.")] += tensor.numel()
    return counts.most_common(1)[0][0] if counts else "float32"


def weight_files(folder: Path) -> list[Path]:
    """The safetensors of a folder. Raises WeightsError where there are none, or shards are missing."""
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if (folder / INDEX).is_file():
        names = sorted(set(_weight_map(folder).values()))
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise WeightsError(
                f"{folder} lacks {', '.join(missing)}, which {INDEX} names", do="copy or download them too"
            )
        return [folder / name for name in names]
    pickles = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for path in folder.glob(pattern))
    if pickles:
        raise WeightsError(
            f"{folder} has weights as pickle only ({', '.join(pickles)}); a pickle can run any code, so it is never opened",
            f"{WEIGHTS}",
            way_to_convert(folder, str(folder)),
        )
    raise WeightsError(f"{folder} has no {WEIGHTS}", f"{WEIGHTS}, or shards and {INDEX}")


def way_to_convert(folder: Path, name: str) -> str:
    """What makes safetensors of the pickles of `name`, whose config.json lies in `folder`: the class of transformers that it
    was saved by keeps its head."""
    named = read_json(folder / CONFIG).get("architectures") if (folder / CONFIG).is_file() else None
    kind = named[0] if isinstance(named, list) and named else "AutoModel"
    return (
        f"convert it where you trust it: transformers.{kind}.from_pretrained({name!r}).save_pretrained('NEW_FOLDER') "
        "writes safetensors"
    )


def _weight_map(folder: Path) -> dict[str, str]:
    found = read_json(folder / INDEX).get("weight_map")
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found.values()):
        raise WeightsError(f"{folder / INDEX} has no weight_map", "an object: tensor name -> file name")
    outside = sorted({name for name in found.values() if Path(name).name != name})
    if outside:
        raise WeightsError(f"{folder / INDEX} names files outside its folder: {', '.join(outside)}")
    return found


def _check_index(folder: Path, homes: Mapping[str, Path]) -> None:
    """What the index promises must be there; a file may not be cut at a tensor's end unnoticed."""
    if (folder / WEIGHTS).is_file():
        return
    missing = sorted(_weight_map(folder).keys() - homes.keys())
    if missing:
        raise WeightsError(f"the shards of {folder} lack {', '.join(missing)}, which {INDEX} names")


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> WeightsError:
    return WeightsError(
        f"{path} is damaged or cut short ({error})", "a whole safetensors file", "copy, download or save it again"
    )
