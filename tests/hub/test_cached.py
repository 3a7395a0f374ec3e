"""What the hub's cache holds: a folder in its layout, made by hand, and a model of it opened without a network."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

import formers
from formers.cli import models
from formers.hub.cached import THEIRS, cache, cached
from formers.hub.folders import model_types
from tests.cli.commands import in_a_fresh_process

REVISION = "0123456789abcdef0123456789abcdef01234567"


def put(root: Path, name: str, files: dict[str, str], revision: str = REVISION, *, main: bool = True) -> Path:
    """A model as the hub's library stores it: blobs, links to them, and the revision that main means."""
    home = root / f"models--{name.replace('/', '--')}"
    folder = home / "snapshots" / revision
    folder.mkdir(parents=True)
    (home / "blobs").mkdir(exist_ok=True)
    for number, (file, contents) in enumerate(files.items()):
        blob = home / "blobs" / f"{revision[:8]}{number}"
        blob.write_text(contents)
        (folder / file).symlink_to(os.path.relpath(blob, folder))
    if main:
        (home / "refs").mkdir(exist_ok=True)
        (home / "refs" / "main").write_text(revision)
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    config = json.dumps({"model_type": "gpt2"})
    index = json.dumps(
        {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    )
    root = tmp_path / "hub"
    put(root, "gpt2", {"config.json": config, "model.safetensors": "x" * 100})
    put(root, "org/own", {"config.json": '{"model_type": "formers-wavenet"}', "model.safetensors": ""})
    put(root, "org/other", {"config.json": '{"model_type": "qwen2"}', "model.safetensors": ""})
    put(root, "org/pickled", {"config.json": config, "pytorch_model.bin": ""})
    put(root, "org/words", {"tokenizer.json": "{}"})
    put(root, "org/broken", {"config.json": "{", "model.safetensors": ""})
    put(root, "org/nameless", {"config.json": "[]", "model.safetensors": ""})
    put(
        root,
        "org/shards",
        {"config.json": config, "model.safetensors.index.json": index, "model-00001-of-00002.safetensors": ""},
    )
    cut = put(root, "org/cut", {"config.json": config})
    (cut / "model.safetensors").symlink_to("../../blobs/never-came")
    put(root, "org/old", {"config.json": '{"model_type": "qwen2"}'}, "f" * 40, main=False)
    put(root, "org/old", {"config.json": config, "model.safetensors": ""})
    (root / "models--org--empty" / "blobs").mkdir(parents=True)
    (root / "datasets--org--text").mkdir()
    return root


def test_each_is_listed_with_its_size_and_why_it_does_not_open(root: Path) -> None:
    found = {each.name: each for each in cached(root)}
    assert (found["hf:gpt2"].architecture, found["hf:gpt2"].bytes, found["hf:gpt2"].refused) == ("gpt2", 100 + 22, "")
    assert (found["org/own"].architecture, found["org/own"].refused) == ("wavenet", "")
    assert (found["org/other"].architecture, found["org/other"].model_type) == (None, "qwen2")
    assert found["org/old"].refused == ""
    assert {name: each.refused for name, each in found.items() if each.refused} == {
        "org/broken": "config.json cannot be read (JSONDecodeError)",
        "org/cut": "no safetensors",
        "org/nameless": "config.json names no model_type",
        "org/other": "model_type 'qwen2' is not implemented",
        "org/pickled": "weights as pickle alone, which are not opened",
        "org/shards": "1 shards are missing, such as model-00002-of-00002.safetensors",
        "org/words": "no config.json",
    }
    assert cached(root / "nowhere") == []


def test_what_it_knows_of_references_is_what_the_models_say() -> None:
    assert {name: module.__name__.rpartition(".")[2] for name, module in model_types().items()} == THEIRS


def test_the_cache_is_where_the_hubs_library_has_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert cache() == Path.home() / ".cache/huggingface/hub"
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert cache() == Path("/x/huggingface/hub")
    monkeypatch.setenv("HF_HOME", "/home-of-hf")
    assert cache() == Path("/home-of-hf/hub")
    monkeypatch.setenv("HF_HUB_CACHE", "/hub-cache")
    assert cache() == Path("/hub-cache")


def test_models_prints_them_without_torch_and_verbs_open_them_without_a_network(root: Path, tmp_path: Path) -> None:
    model = formers.build("gpt2", seed=0, vocab_size=31, d_model=8, num_layers=1, num_heads=2, max_length=16)
    formers.save(model, tmp_path / "made")
    files = {name: (tmp_path / "made" / name) for name in ("config.json", "model.safetensors")}
    folder = put(root, "org/small", {})
    for name, path in files.items():
        (folder / name).write_bytes(path.read_bytes())
    offline = {**os.environ, "HF_HUB_CACHE": str(root), "HF_HUB_OFFLINE": "1", "COLUMNS": "200"}
    listed = in_a_fresh_process("models", "--downloaded", env=offline, cwd=tmp_path)
    assert listed.err == "NO TORCH\n"
    assert "org/small" in listed.out
    assert "model_type 'qwen2' is not implemented" in listed.out
    rows = in_a_fresh_process("models", "--json", env=offline, cwd=tmp_path).json
    assert {row["name"]: row["cached"] for row in rows}["gpt2"] == ["hf:gpt2", "org/old", "org/small"]
    shown = in_a_fresh_process("show", "org/small", "--json", env=offline, cwd=tmp_path)
    assert shown.code == 0, shown.err


def test_an_empty_cache_is_said(tmp_path: Path) -> None:
    found = in_a_fresh_process(
        "models", "--downloaded", env={**os.environ, "HF_HUB_CACHE": str(tmp_path)}, cwd=tmp_path
    )
    assert "holds no models" in found.out


def test_a_revision_that_is_no_name_and_json_that_has_no_end_hide_no_other_model(root: Path) -> None:
    before = {each.name for each in cached(root)}
    for name, config in (("mine/long", "{}"), ("mine/deep", "[" * 100_000)):
        put(root, name, {"config.json": config})
    (root / "models--mine--long" / "refs" / "main").write_text("y" * 5000)
    found = {each.name: each.refused for each in cached(root)}
    assert found.keys() == before | {"mine/long", "mine/deep"}
    assert found["mine/deep"] == "config.json cannot be read (RecursionError)"


def test_brackets_in_what_others_wrote_are_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    put(tmp_path, "mine/odd", {"config.json": '{"model_type": "[/red]"}'})
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    models.main(["--downloaded"])
    assert "[/red]" in capsys.readouterr().out


def test_the_home_of_a_user_who_is_not_there_is_a_cache_without_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", "~nobody-of-this-name/hub")
    assert cached() == []
