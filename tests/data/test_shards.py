"""Opening shard folders: damage is found, and tokens are only read with their own tokenizer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from formers.data import build, open_shards
from formers.errors import DataError
from formers.files import whole_folder
from formers.text import ByteTokenizer


@pytest.fixture
def folder(corpus: Path, tmp_path: Path) -> Path:
    build(corpus, tmp_path / "out", tokenizer="byte")
    return tmp_path / "out"


def edit_meta(folder: Path, **changes) -> None:
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps({**meta, **changes}))


def truncate(folder: Path) -> None:
    with (folder / "tokens.bin").open("r+b") as file:
        file.truncate(100)


DAMAGE = {
    "lacks meta.json": lambda folder: (folder / "meta.json").unlink(),
    "lacks tokens.bin, tokenizer.json": lambda folder: [
        (folder / n).unlink() for n in ("tokens.bin", "tokenizer.json")
    ],
    "tokens.bin has 100 bytes": truncate,
    "documents.npy is not what was written": lambda folder: (folder / "documents.npy").write_bytes(b"x"),
    "tokenizer.json is not what was written": lambda folder: ByteTokenizer(["<|x|>"]).save(folder),
    "meta.json cannot be read": lambda folder: (folder / "meta.json").write_text('{"format": "formers.sh'),
    "not that of shards": lambda folder: edit_meta(folder, format="other"),
    "has version 99": lambda folder: edit_meta(folder, version=99),
    "meta.json lacks dtype": lambda folder: (folder / "meta.json").write_text(
        json.dumps({k: v for k, v in json.loads((folder / "meta.json").read_text()).items() if k != "dtype"})
    ),
}


@pytest.mark.parametrize("says", DAMAGE)
def test_a_damaged_folder_is_refused(folder: Path, says: str) -> None:
    DAMAGE[says](folder)
    with pytest.raises(DataError, match=says):
        open_shards(folder)


def test_a_flipped_bit_is_found_by_reading_through(folder: Path) -> None:
    with (folder / "tokens.bin").open("r+b") as file:
        file.seek(1000)
        file.write(bytes([file.read(1)[0] ^ 1]))
    open_shards(folder)
    with pytest.raises(DataError, match=r"tokens\.bin is not what was written"):
        open_shards(folder, verify=True)


def test_a_file_and_a_missing_folder_are_no_shards(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        open_shards(tmp_path / "nowhere")
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="is a file"):
        open_shards(tmp_path / "file")


def test_another_tokenizer_is_refused_and_both_are_named(folder: Path) -> None:
    shards, other = open_shards(folder), ByteTokenizer(["<|other|>"])
    shards.check_tokenizer(shards.tokenizer.fingerprint)
    with pytest.raises(DataError) as error:
        shards.check_tokenizer(other.fingerprint)
    assert other.fingerprint[:12] in str(error.value)
    assert shards.tokenizer.fingerprint[:12] in str(error.value)


def test_the_tokens_are_mapped_and_read_only(folder: Path) -> None:
    shards = open_shards(folder)
    assert isinstance(shards.tokens, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        shards.tokens[0] = 1


def test_documents_in_both_splits_are_found(in_memory) -> None:
    assert in_memory([("ab", 0), ("b", 0), ("ab", 1), ("a", 1)]).shared_documents() == 1


def test_token_bytes_count_nothing_for_special_tokens(in_memory) -> None:
    shards = in_memory([("ab", 0)])
    sizes = dict(zip(range(shards.vocab_size), shards.token_bytes.tolist(), strict=True))
    assert sizes[shards.tokenizer.end_of_text] == 0
    assert [sizes[i] for i in shards.tokenizer.encode("aé東🙂")] == [1, 2, 3, 4]


def test_an_unknown_split_is_refused(in_memory) -> None:
    with pytest.raises(DataError, match="did you mean 'train'"):
        in_memory([("ab", 0)]).rows("trian")


def test_a_folder_within_is_synced_and_renamed_too(tmp_path: Path, monkeypatch) -> None:
    synced: list[str] = []
    monkeypatch.setattr("formers.files.sync", lambda path: synced.append(path.name))
    with whole_folder(tmp_path / "out") as aside:
        (aside / "in").mkdir()
        (aside / "in" / "a").write_text("x")
    assert (tmp_path / "out" / "in" / "a").read_text() == "x"
    assert synced[:2] == ["a", "in"]


def test_what_a_killed_process_left_is_removed_or_put_back(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("psutil.pid_exists", lambda pid: pid != 4242)
    monkeypatch.setattr("socket.gethostname", lambda: "host")
    dead, alive, old = (tmp_path / f".out.{rest}" for rest in ("part-host-4242-x", "part-host-1-x", "old-host-4242-y"))
    for path in (dead, alive, old):
        path.mkdir()
    (old / "precious").write_text("the folder that was there before")
    with pytest.raises(RuntimeError), whole_folder(tmp_path / "out"):
        raise RuntimeError
    assert sorted(path.name for path in tmp_path.iterdir()) == [".out.part-host-1-x", "out"]
    assert (tmp_path / "out" / "precious").exists()
