"""Models of the Hugging Face hub: their safetensors, configuration and tokenizer, in the hub's own cache; nothing else."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

from formers.errors import TargetError
from formers.hub.files import way_to_convert
from formers.models import registry

FILES = [
    "config.json",
    "generation_config.json",
    "model*.safetensors",
    "model.safetensors.index.json",
    "tokenizer*.json",
    *("vocab.txt", "vocab.json", "merges.txt", "spiece.model", "spm.model", "sentencepiece.model"),
    *("sentence_bert_config.json", "1_Pooling/config.json"),
]
"""What is downloaded. Pickles and code are not."""


def fetch(name: str) -> Path:
    """The folder of a hub model, downloaded where the cache does not hold it.

    Raises:
        TargetError: no such model, no permission, no safetensors, or no network and nothing in the cache.
    """
    folder = _downloaded(name)
    if not any(folder.glob("*.safetensors")):
        raise TargetError(
            f"{name!r} has no safetensors on the hub; weights as pickle can run any code, and are not downloaded",
            "model.safetensors",
            way_to_convert(folder, name),
        )
    return folder


def _downloaded(name: str) -> Path:
    try:
        return Path(huggingface_hub.snapshot_download(name, allow_patterns=FILES))
    except (GatedRepoError, RepositoryNotFoundError) as error:
        raise TargetError(
            f"the hub has no model {name!r} that you may read",
            "a public name such as 'openai-community/gpt2'",
            "check the name; for a private or gated one log in with `hf auth login`",
        ) from error
    except HFValidationError as error:
        raise TargetError(f"{name!r} is no name of a hub model ({error})", "'name' or 'organisation/name'") from error
    except HfHubHTTPError as error:
        raise TargetError(f"the hub did not hand out {name!r}: {error}", do="try again later") from error
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        do = "connect to the network, or name a folder that is on this machine"
        if name in registry.specs():
            do += f"; formers.build({name!r}) makes one with fresh weights"
        raise TargetError(
            f"{name!r} is not in the cache of downloaded models, and the hub cannot be reached", do=do
        ) from error
