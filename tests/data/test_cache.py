"""A file is data too: shards are built once for a content and its settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from formers.data import cache_root, cached_shards, open_shards
from formers.data.shards import ShardWriter
from formers.errors import DataError
from formers.text import ByteTokenizer


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "my text.txt"
    path.write_text("".join(f"line {n} of my text\n" for n in range(900)))
    return path


def test_the_second_call_builds_nothing(file: Path, tmp_path: Path, monkeypatch) -> None:
    first = cached_shards(file, tokenizer="byte", cache=tmp_path / "cache")
    monkeypatch.setattr(ShardWriter, "add", None)
    assert cached_shards([str(file)], tokenizer="byte", cache=tmp_path / "cache") == first
    moved = file.rename(file.with_name("moved.txt"))
    again = file.with_name("my text.txt")
    again.write_bytes(moved.read_bytes())
    assert cached_shards(again, tokenizer="byte", cache=tmp_path / "cache") == first
    assert open_shards(first).documents.any()
    assert first.name.startswith("my_text-")


def test_other_contents_and_settings_have_other_folders(file: Path, tmp_path: Path) -> None:
    def folder(**settings) -> Path:
        return cached_shards(file, cache=tmp_path / "cache", **{"tokenizer": "byte", **settings})

    folders = [folder(), folder(seed=1), folder(tokenizer="char"), folder(validation=0.2), folder(separator="\n")]
    folders.append(folder(tokenizer=folders[2]))
    file.write_text(file.read_text() + "one more line\n")
    folders.append(folder())
    assert len(set(folders)) == 7


def test_a_tokenizer_folder_counts_by_what_it_holds(file: Path, tmp_path: Path) -> None:
    tokenizer = tmp_path / "tokenizer"
    tokenizer.mkdir()
    folders = []
    for special in ("<|endoftext|>", "<|eos|>", "<|endoftext|>"):
        ByteTokenizer([special]).save(tokenizer)
        folders.append(cached_shards(file, tokenizer=tokenizer, cache=tmp_path / "cache"))
    assert folders[0] == folders[2] != folders[1]
    by_object = [cached_shards(file, tokenizer=ByteTokenizer([s]), cache=tmp_path / "cache") for s in ("<s>", "</s>")]
    assert by_object[0] != by_object[1]


@pytest.mark.parametrize("name", ["tokens.bin", "meta.json"])
def test_damaged_cache_is_built_again(file: Path, tmp_path: Path, name: str) -> None:
    folder = cached_shards(file, tokenizer="byte", cache=tmp_path)
    (folder / name).write_bytes(b"")
    assert cached_shards(file, tokenizer="byte", cache=tmp_path) == folder
    open_shards(folder, verify=True)


def test_bad_sources_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no file or folder"):
        cached_shards(tmp_path / "nowhere.txt", cache=tmp_path)
    with pytest.raises(DataError, match="no source"):
        cached_shards([], cache=tmp_path)


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.delenv("FORMERS_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_root() == tmp_path / ".cache" / "formers"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_root() == tmp_path / "xdg" / "formers"
    monkeypatch.setenv("FORMERS_CACHE", str(tmp_path / "own"))
    assert cache_root() == tmp_path / "own"
