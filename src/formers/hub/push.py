"""A model to the Hugging Face hub: its files and a card, in one commit. huggingface_hub is imported when it is needed."""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open

from formers.errors import RunError, TargetError
from formers.files import write_atomic
from formers.hub.card import card, facts_of
from formers.hub.marks import CARD, is_made_card

PUSHED = re.compile(
    r"config\.json|generation_config\.json|model(-\d+-of-\d+)?\.safetensors|model\.safetensors\.index\.json"
    r"|tokenizer(_config)?\.json|special_tokens_map\.json|added_tokens\.json|vocab\.(json|txt)|merges\.txt|.*\.model"
)
"""What of a model folder goes to the hub. Pickles and code never do."""
REPO = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


@dataclass(frozen=True)
class Parcel:
    """What a push consists of.

    files     name in the repository -> file here, the card left out
    is_ours   whether the card was made from the record, rather than found beside the model
    home      the folder where the card stands or will stand
    left      files of the model folder that stay here
    """

    repo: str
    files: dict[str, Path]
    card: str
    is_ours: bool
    home: Path
    left: list[str]

    @property
    def size(self) -> int:
        """Bytes of the files."""
        return sum(path.stat().st_size for path in self.files.values())

    def write_card(self) -> Path:
        """The card at its place; one of the user's own stays as it is."""
        if self.is_ours:
            write_atomic(self.home / CARD, self.card.encode())
        return self.home / CARD


def pack(folder: Path | str, repo: str, *, license: str | None = None) -> Parcel:
    """What a push of `folder`, a run or a model folder, to `repo` would send. A README.md that stands there is its card,
    unless `formers push` made it.

    Raises:
        TargetError: no such folder, or no name of a repository.
        RunError: a run without a model. WeightsError, ConfigError: what no model folder is.
    """
    folder = Path(folder)
    if not REPO.fullmatch(repo):
        raise TargetError(f"{repo!r} is no name of a repository", "'name' or 'organisation/name'")
    if not folder.is_dir():
        raise TargetError(f"there is no folder {folder}", "a run or a model folder")
    model = _model_folder(folder)
    files = {path.name: path for path in sorted(model.iterdir()) if path.is_file() and PUSHED.fullmatch(path.name)}
    left = sorted(path.name for path in model.iterdir() if path.name not in files and path.name != CARD)
    own = next((path for path in (folder / CARD, model / CARD) if path.is_file() and not is_made_card(path)), None)
    if own is not None:
        return Parcel(repo, files, own.read_text("utf-8"), False, own.parent, left)
    facts = facts_of(folder, model, repo, _parameters(files), license)
    return Parcel(repo, files, card(facts), True, folder, left)


def _model_folder(folder: Path) -> Path:
    """The folder with config.json and weights, which must make a model."""
    from formers.hub.files import Tensors
    from formers.hub.folders import load_folder, read_config

    model = folder
    if (folder / "recipe.json").is_file():
        model = folder / "model"
        if not model.is_dir():
            do = f"let it end, or write a checkpoint as a folder: formers convert {folder} DST"
            raise RunError(f"the run {folder} has no model yet", "a run that has ended", do)
    read_config(model)
    try:
        load_folder(model)  # what does not open here would open nowhere
    except TargetError:  # made by code of the user's, which is not run: that its files are whole must do
        Tensors(model)
    return model


def _parameters(files: dict[str, Path]) -> int:
    """Numbers in the weight files, by their headers."""
    count = 0
    for name, path in files.items():
        if name.endswith(".safetensors"):
            with safe_open(path, framework="np") as file:
                for key in file.keys():  # noqa: SIM118 - the file is no mapping
                    size = 1
                    for length in file.get_slice(key).get_shape():
                        size *= length
                    count += size
    return count


def push(parcel: Parcel, *, private: bool = False, message: str = "") -> str:
    """Send a parcel in one commit, making the repository where there is none. Returns its address.

    Raises:
        TargetError: huggingface_hub is not installed, there is no token, the hub cannot be reached or refuses.
    """
    hub = _hub()
    errors = importlib.import_module("huggingface_hub.errors")
    if hub.get_token() is None:
        raise TargetError(
            "there is no token to write to the hub with",
            "one that may write",
            "log in with `hf auth login`, or set HF_TOKEN",
        )
    add, api = hub.CommitOperationAdd, hub.HfApi()
    operations = [add(path_in_repo=name, path_or_fileobj=str(path)) for name, path in parcel.files.items()]
    operations.append(add(path_in_repo=CARD, path_or_fileobj=parcel.card.encode()))
    try:
        address = api.create_repo(parcel.repo, private=private or None, exist_ok=True)
        repo = getattr(address, "repo_id", parcel.repo)  # with the user's name before it, where none was given
        api.create_commit(repo, operations, commit_message=message or "Push by formers")
    except errors.HfHubHTTPError as error:
        said = str(error).strip().splitlines()[0]
        raise TargetError(f"the hub refused {parcel.repo}: {said}", "a token that may write there") from error
    except (OSError, errors.HTTPError) as error:
        do = "connect to the network and push again; --dry-run needs none"
        raise TargetError(f"the hub cannot be reached: {error}", do=do) from error
    return str(address)


def _hub() -> Any:
    try:
        return importlib.import_module("huggingface_hub")
    except ModuleNotFoundError as error:
        raise TargetError("huggingface_hub is not installed", do="pip install huggingface_hub") from error
