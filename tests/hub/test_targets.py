from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub.constants
import pytest
import torch
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError
from safetensors.torch import save_file

import formers
from formers.errors import ConfigError, RunError, TargetError
from formers.hub import resolve, targets
from tests.hub.models import small, tokenizer


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(place: Path) -> Path:
    """A run that has ended."""
    model = small("gpt2")
    folder = place / "runs" / "first"
    formers.save(model, folder / "model", tokenizer=tokenizer())
    recipe = {"name": "gpt2.tiny", "architecture": "gpt2", "model": formers.config.to_dict(model.config), "seed": 0}
    (folder / "recipe.json").write_text(json.dumps(recipe))
    return folder


def checkpoint(run: Path, step: int, model: Any) -> Path:
    folder = run / "checkpoints" / f"step-{step}"
    folder.mkdir(parents=True)
    save_file({name: tensor.detach() for name, tensor in model.named_parameters()}, folder / "model.safetensors")
    (folder / "checkpoint.json").write_text(json.dumps({"step": step}))
    return folder


# --- which kind -----------------------------------------------------------------------------------------------------------


def test_each_kind_of_target_is_told_apart(run: Path) -> None:
    checkpoint(run, 10, small("gpt2"))
    kinds = {
        "runs/first": "run",
        "runs/first/model": "folder",
        "runs/first/checkpoints/step-10": "checkpoint",
        "gpt2": "architecture",
        "llama.tiny": "architecture",
        "own.py:model": "code",
        "folder/own.py": "code",
        "hf:gpt2": "hub",
        "openai-community/gpt2": "hub",
        "transformers:runs/first/model": "transformers",
    }
    assert {text: targets.parse(text).kind for text in kinds} == kinds
    assert targets.parse(run).kind == "run"


def test_an_architecture_wins_over_a_folder_without_a_model_and_says_so(place: Path) -> None:
    (place / "gpt2").mkdir()
    assert targets.parse("gpt2").kind == "architecture"
    assert "hf:gpt2 is the hub's model, ./gpt2 the folder" in targets.parse("gpt2").note
    assert targets.parse("./gpt2").kind == "folder"


@pytest.mark.parametrize("name", ["gpt2", "gpt2.tiny"])
def test_a_model_folder_called_like_an_architecture_is_the_folder_and_says_so(name: str, place: Path) -> None:
    formers.save(small("gpt2"), place / name)
    assert targets.parse(name).kind == "folder"
    found = resolve(name)
    assert torch.equal(found.model.tokens.weight, small("gpt2").tokens.weight)
    assert f"{name} is the folder ./{name} here" in found.note
    assert torch.equal(formers.load(name).tokens.weight, small("gpt2").tokens.weight)


def test_a_run_called_like_an_architecture_is_the_run(run: Path) -> None:
    shutil.move(run, "llama")
    assert targets.parse("llama").kind == "run"
    assert "llama is the folder ./llama here" in resolve("llama").note


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("runs/frist", "did you mean runs/first"),
        ("frist", "did you mean runs/first"),
        ("gpt", "did you mean gpt2"),
        ("gpt3.tiny", "did you mean gpt2"),
        ("./runs/first/mdel", "did you mean runs/first/model"),
        ("nothing-like-it", "a run, a model folder, an architecture, file.py:function, or a hub name"),
        ("runs/first/recipe.json", "is a file"),
    ],
)
def test_a_wrong_name_suggests_near_ones(text: str, says: str, run: Path) -> None:
    with pytest.raises(TargetError, match=says):
        targets.parse(text)


def test_a_wrong_preset_suggests_the_right_one() -> None:
    with pytest.raises(ConfigError, match=r"gpt2 has no preset 'tinny'(.|\n)*did you mean 'tiny'"):
        targets.parse("gpt2.tinny")


def test_a_wrong_name_costs_no_torch() -> None:
    code = (
        "import sys; from formers.hub import targets; from formers.errors import TargetError\n"
        "try: targets.parse('gtp3')\n"
        "except TargetError: print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# --- what comes of it -----------------------------------------------------------------------------------------------------


def test_an_architecture_has_fresh_weights_by_the_seed() -> None:
    a, b, c = (resolve("gpt2.nano", seed=seed) for seed in (1, 1, 2))
    assert (a.kind, a.fresh, a.tokenizer) == ("architecture", True, None)
    assert torch.equal(a.model.tokens.weight, b.model.tokens.weight)
    assert not torch.equal(a.model.tokens.weight, c.model.tokens.weight)


def test_a_run_has_its_model_tokenizer_and_recipe(run: Path) -> None:
    found = resolve("runs/first", dtype=torch.float64)
    assert (found.kind, found.fresh, found.folder) == ("run", False, Path("runs/first/model"))
    assert found.recipe is not None
    assert found.recipe["name"] == "gpt2.tiny"
    assert found.tokenizer is not None
    assert found.tokenizer.fingerprint == tokenizer().fingerprint
    assert found.model.tokens.weight.dtype == torch.float64
    assert torch.equal(found.model.tokens.weight, small("gpt2").tokens.weight.double())


def test_a_vocabulary_in_any_file_beside_a_model_is_its_tokenizer(place: Path) -> None:
    words = "[PAD] [UNK] [CLS] [SEP] [MASK] the ##s".split()
    formers.save(formers.build("bert", preset="nano"), "bert")
    assert resolve("bert").tokenizer is None
    Path("bert/vocab.txt").write_text("\n".join(words))
    found = resolve("bert").tokenizer
    assert found is not None
    assert found.encode("the thes") == [5, 5, 6]


def test_a_run_that_goes_on_has_the_weights_of_its_newest_whole_checkpoint(run: Path) -> None:
    shutil.rmtree(run / "model")
    checkpoint(run, 9, small("gpt2", seed=9))
    checkpoint(run, 10, small("gpt2", seed=10))
    damaged = checkpoint(run, 11, small("gpt2", seed=11)) / "model.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-5])
    found = resolve("runs/first")
    assert "step-10" in found.note
    assert torch.equal(found.model.tokens.weight, small("gpt2", seed=10).tokens.weight)
    assert found.model.head.linear.weight is found.model.tokens.weight
    named = resolve("runs/first/checkpoints/step-9")
    assert named.kind == "checkpoint"
    assert torch.equal(named.model.tokens.weight, small("gpt2", seed=9).tokens.weight)


def test_a_run_that_goes_on_has_the_tokenizer_of_its_shards(run: Path) -> None:
    shutil.move(run / "model", run.parent / "elsewhere")
    checkpoint(run, 9, small("gpt2"))
    recipe = json.loads((run / "recipe.json").read_text())
    (run / "recipe.json").write_text(json.dumps(recipe | {"shards": {"folder": str(run.parent / "elsewhere")}}))
    found = resolve(run).tokenizer
    assert found is not None
    assert found.fingerprint == tokenizer().fingerprint


def test_a_run_without_anything_to_read_says_what_to_do(run: Path) -> None:
    shutil.rmtree(run / "model")
    with pytest.raises(RunError, match=r"has no model yet(.|\n)*--resume --out runs/first"):
        resolve("runs/first")
    (run / "recipe.json").write_text("{")
    with pytest.raises(RunError, match=r"recipe\.json cannot be read"):
        resolve("runs/first")
    (run / "recipe.json").write_text("[]")
    with pytest.raises(RunError, match="holds a list"):
        resolve("runs/first")


def test_a_checkpoint_of_the_users_code_asks_for_it(run: Path) -> None:
    shutil.rmtree(run / "model")
    own = run.parent / "own.py"
    own.write_text("from formers.models import registry\ndef model(): return registry.configure('gpt2', 'nano')\n")
    checkpoint(run, 9, small("gpt2"))
    recipe = json.loads((run / "recipe.json").read_text())
    (run / "recipe.json").write_text(json.dumps(recipe | {"code": f"{own}:model"}))
    with pytest.raises(TargetError, match=f"--code {own}:model"):
        resolve(run)
    assert torch.equal(resolve(run, code=f"{own}:model").model.tokens.weight, small("gpt2").tokens.weight)


def test_a_folder_that_is_no_model_says_what_is_missing(place: Path) -> None:
    (place / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"empty has no config\.json"):
        resolve("empty")


def test_a_module_is_a_target_too() -> None:
    model = small("gpt2")
    found = resolve(model)
    assert (found.kind, found.name, found.model) == ("module", "GPT2", model)


def test_load_gives_trained_weights_or_an_error(run: Path) -> None:
    assert torch.equal(formers.load("runs/first").tokens.weight, small("gpt2").tokens.weight)
    with pytest.raises(TargetError, match=r"has no weights to load(.|\n)*formers\.build\('gpt2', preset='tiny'\)"):
        formers.load("gpt2.tiny")


# --- the hub --------------------------------------------------------------------------------------------------------------


def test_a_hub_name_is_downloaded_without_pickles_or_code(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def download(name: str, allow_patterns: list[str]) -> str:
        asked[name] = allow_patterns
        return str(run / "model")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    found = resolve("org/name")
    assert (found.kind, found.name, found.fresh) == ("folder", "org/name", False)
    assert found.tokenizer is not None
    assert torch.equal(formers.load("gpt2").tokens.weight, found.model.tokens.weight)
    assert list(asked) == ["org/name", "gpt2"]
    read = (".json", ".safetensors", "vocab.txt", "merges.txt", "spiece.model", "spm.model", "sentencepiece.model")
    assert not [pattern for pattern in asked["gpt2"] if not pattern.endswith(read)]
    assert {"vocab.txt", "spm.model", "1_Pooling/config.json"} <= set(asked["gpt2"])


def test_a_hub_model_of_pickles_alone_is_refused_with_the_way_to_convert_it(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run / "model" / "model.safetensors").unlink()  # as what is downloaded of it: no weights
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(run / "model"))
    with pytest.raises(
        TargetError, match=r"no safetensors on the hub(.|\n)*GPT2LMHeadModel\.from_pretrained\('org/name'\)"
    ):
        resolve("org/name")


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (
            LocalEntryNotFoundError("no network"),
            r"the hub cannot be reached(.|\n)*connect to the network(.|\n)*formers\.build\('gpt2'\)",
        ),
        (ConnectionError("reset"), "the hub cannot be reached"),
    ],
)
def test_without_a_network_there_is_one_clear_error(
    error: Exception, says: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(name: str, allow_patterns: list[str]) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(TargetError, match=says):
        formers.load("gpt2")


def test_the_real_client_offline_gives_that_error_too(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(place / "cache"))
    with pytest.raises(TargetError, match="'formers-test/no-such-model' is not in the cache"):
        resolve("formers-test/no-such-model")
    with pytest.raises(TargetError, match="is no name of a hub model"):
        resolve("hf:a/b/c")


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        (RepositoryNotFoundError, "the hub has no model 'org/typo' that you may read"),
        (HfHubHTTPError, "the hub did not hand out 'org/typo': 503"),
    ],
)
def test_what_the_hub_answers_is_passed_on(
    kind: type[HfHubHTTPError], says: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(name: str, allow_patterns: list[str]) -> str:
        raise kind("503", response=SimpleNamespace(headers={}, request=None))  # type: ignore[arg-type]

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(TargetError, match=says):
        resolve("org/typo")


# --- transformers ---------------------------------------------------------------------------------------------------------


def test_transformers_opens_a_folder_for_comparison(run: Path) -> None:
    pytest.importorskip("transformers")
    found = resolve("transformers:runs/first/model", dtype=torch.float64)
    assert (found.kind, type(found.model).__name__) == ("transformers", "GPT2LMHeadModel")
    assert found.tokenizer is not None
    with pytest.raises(TargetError, match=r"transformers cannot open runs/first: .*config\.json"):
        resolve("transformers:runs/first")


def test_without_transformers_the_extra_is_named(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(TargetError, match=r"pip install 'formers\[hf\]'"):
        resolve("transformers:runs/first/model")


def test_a_device_that_is_not_there_is_refused_before_anything_is_read(run: Path) -> None:
    for target in ("runs/first", "gpt2.nano", small("gpt2")):
        with pytest.raises(ConfigError, match="device 'tpu' is not there"):
            resolve(target, device="tpu")
    assert resolve("runs/first", device="cpu").model.tokens.weight.device.type == "cpu"
