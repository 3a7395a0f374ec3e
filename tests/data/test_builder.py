"""Building shard folders: what stands in them, and that they stand whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest

from formers.data import build, open_shards
from formers.data.builder import Settings
from formers.data.shards import FILES, ShardWriter
from formers.errors import DataError
from formers.text import ByteTokenizer, CharTokenizer


def contents(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_a_built_folder_holds_every_document_of_the_sources(corpus: Path, tmp_path: Path) -> None:
    summary = build(corpus, tmp_path / "out", tokenizer="byte")
    shards = open_shards(tmp_path / "out", verify=True)
    texts = {shards.text(d): int(shards.documents[d, 3]) for d in range(len(shards.documents))}
    assert set(texts) == {path.read_text(encoding="utf-8") for path in corpus.iterdir()}
    assert summary.documents == {"train": 40 - sum(texts.values()), "validation": sum(texts.values())}
    assert summary.bytes["train"] == sum(len(text.encode()) for text, split in texts.items() if not split)
    assert sum(summary.tokens.values()) == sum(summary.bytes.values()) + 40 == len(shards.tokens)
    assert {path.name for path in (tmp_path / "out").iterdir()} >= set(FILES)
    ends = shards.tokens[shards.documents[:, 0] + shards.documents[:, 1] - 1]
    assert (ends == shards.tokenizer.end_of_text).all()


def test_documents_stand_in_the_order_of_the_sources(corpus: Path, tmp_path: Path) -> None:
    build([corpus / "07.txt", corpus], tmp_path / "out", tokenizer="byte")
    shards = open_shards(tmp_path / "out")
    first = [shards.text(d).split(" says")[0] for d in range(3)]
    assert first == ["line 0 of file 7", "line 0 of file 0", "line 0 of file 1"]


def test_the_same_text_and_settings_give_the_same_files(corpus: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        build(corpus, tmp_path / name, tokenizer="char")
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_duplicates_and_skipped_files_are_counted(corpus: Path, tmp_path: Path) -> None:
    (corpus / "copy.txt").write_bytes((corpus / "00.txt").read_bytes())
    (corpus / "image.png").write_bytes(b"\x89PNG\0")
    (corpus / "latin.txt").write_bytes(b"\xe5")
    (corpus / "empty.txt").write_text(" \n")
    summary = build(corpus, tmp_path / "out", tokenizer="byte")
    assert summary.duplicates == 1
    assert summary.skipped == {"binary": 1, "undecodable": 1, "empty": 1}
    assert sum(summary.documents.values()) == 40
    assert open_shards(tmp_path / "out").shared_documents() == 0


def test_the_overlap_is_the_share_of_long_validation_lines_that_training_has(tmp_path: Path) -> None:
    shared, short = "this line is longer than forty characters, and shared", "short line"
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(20):
        own = f"this line number {number} is longer than forty characters too"
        folder.joinpath(f"{number}.txt").write_text(f"{' ' * number}{shared}\n{shared}\r\n{own}\n{short}\n")
    summary = build(folder, tmp_path / "out", tokenizer="byte")
    assert summary.overlap == pytest.approx(2 / 3)
    assert dict(summary.lines())["overlap"].startswith("66.7% of validation lines")
    assert open_shards(tmp_path / "out").meta["overlap_lines"] == 3 * summary.documents["validation"]


def test_without_long_lines_there_is_no_overlap_to_speak_of(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("".join(f"{n}\n" for n in range(900)))
    summary = build(tmp_path / "a.txt", tmp_path / "out", tokenizer="byte")
    assert summary.overlap is None
    assert dict(summary.lines())["overlap"] == "no validation lines over 40 characters stand in training too"


def test_a_single_file_is_cut_to_have_a_validation_split(tmp_path: Path) -> None:
    text = "".join(f"line {n} of the only file\n" for n in range(2000))
    (tmp_path / "my.txt").write_text(text)
    summary = build(tmp_path / "my.txt", tmp_path / "out", tokenizer="byte")
    shards = open_shards(tmp_path / "out")
    assert summary.cut
    assert any("cut at line ends" in note for note in summary.notes)
    assert "".join(shards.text(d) for d in range(len(shards.documents))) == text
    assert 0.05 < summary.bytes["validation"] / len(text) <= 0.1


def test_without_validation_a_single_file_stays_one_document(tmp_path: Path) -> None:
    (tmp_path / "my.txt").write_text("some text\n" * 100)
    summary = build(tmp_path / "my.txt", tmp_path / "out", tokenizer="byte", validation=0)
    assert summary.documents == {"train": 1, "validation": 0}


def test_large_vocabularies_take_four_bytes_a_token(tmp_path: Path) -> None:
    wide = ByteTokenizer()
    wide.vocab_size = 70_000
    with ShardWriter(tmp_path, wide) as writer:
        writer.add([1, 69_999], 2, 0)
        assert writer.finish({})["dtype"] == "uint32"
    assert np.fromfile(tmp_path / "tokens.bin", "<u4").tolist() == [1, 69_999, 256]


def test_a_tokenizer_that_does_not_spell_the_text_is_remarked_on(tmp_path: Path) -> None:
    (tmp_path / "my.txt").write_text("aé\n" * 100 + "🙂b\n" * 100)
    lossy = CharTokenizer("\ufffdaéb\n", unknown=True)
    summary = build(tmp_path / "my.txt", tmp_path / "out", tokenizer=lossy)
    assert any("do not spell their bytes" in note for note in summary.notes)
    exact = build(tmp_path / "my.txt", tmp_path / "out", tokenizer="char")
    assert not any("spell" in note for note in exact.notes)


def test_a_tokenizer_folder_is_used_as_it_is(corpus: Path, tmp_path: Path) -> None:
    build(corpus, tmp_path / "one", tokenizer="char")
    summary = build(corpus / "00.txt", tmp_path / "two", tokenizer=tmp_path / "one")
    assert summary.tokenizer_fingerprint == open_shards(tmp_path / "one").meta["tokenizer_fingerprint"]


def test_a_character_vocabulary_has_those_of_validation_too(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(30):
        folder.joinpath(f"{number}.txt").write_text(chr(0x4E00 + number) * 9, encoding="utf-8")
    summary = build(folder, tmp_path / "out", tokenizer="char")
    assert summary.vocab_size == 31
    assert summary.documents["validation"] > 0


def test_gpt2s_own_tokenizer_needs_no_training(tmp_path: Path) -> None:
    (tmp_path / "my.txt").write_text("Hello world")
    build(tmp_path / "my.txt", tmp_path / "out", tokenizer="gpt2", validation=0)
    shards = open_shards(tmp_path / "out")
    assert shards.document_tokens(0).tolist() == [15496, 995, 50256]
    assert shards.tokens.dtype == np.uint16


def test_a_long_text_trains_the_tokenizer_on_a_part_of_its_documents(corpus: Path, tmp_path: Path, monkeypatch) -> None:
    seen: list[list[str]] = []

    def remember(kind: str, texts, vocab_size: int) -> ByteTokenizer:
        seen.append(list(texts))
        return ByteTokenizer()

    monkeypatch.setattr("formers.text.train_tokenizer", remember)
    build(corpus, tmp_path / "out", vocab_size=257)
    size = sum(map(len, seen[0]))
    monkeypatch.setattr("formers.data.vocabulary.TRAIN_ON", size // 2)
    build(corpus, tmp_path / "out", vocab_size=257)
    assert 0.2 * size < sum(map(len, seen[1])) < 0.8 * size
    assert set(seen[1]) < set(seen[0])


def test_bpe_is_trained_on_training_documents_alone(corpus: Path, tmp_path: Path) -> None:
    summary = build(corpus, tmp_path / "out", vocab_size=300)
    assert (summary.vocab_size, summary.tokenizer_kind) == (300, "bpe")
    shards = open_shards(tmp_path / "out")
    for document in shards.rows("validation"):  # what validation holds may change, if training stays
        name = int(shards.text(int(document)).split("file ")[1].split()[0])
        (corpus / f"{name:02}.txt").unlink()
    again = build(corpus, tmp_path / "again", vocab_size=300, validation=0)
    assert again.tokenizer_fingerprint == summary.tokenizer_fingerprint


def test_a_shard_folder_is_replaced_and_anything_else_is_not(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    build(corpus, out, tokenizer="byte")
    first = contents(out)
    meta = json.loads((out / "meta.json").read_text())
    (out / "meta.json").write_text(json.dumps({**meta, "version": 0}))  # ours, from another time
    build(corpus, out, tokenizer="byte", seed=1)
    assert contents(out) != first
    with pytest.raises(DataError, match="no shard folder"):
        build(corpus, corpus, tokenizer="byte")
    with pytest.raises(DataError, match="no shard folder"):
        build(corpus, corpus / "00.txt", tokenizer="byte")
    assert len(list(corpus.iterdir())) == 40


class Stop(BaseException):
    """Stands for a kill: nothing catches it."""


@pytest.mark.parametrize("where", ["add", "finish", "_inexact"])
@pytest.mark.parametrize("earlier", [False, True])
def test_a_build_that_is_stopped_leaves_what_was_there(corpus, tmp_path, monkeypatch, where, earlier) -> None:
    out = tmp_path / "out"
    if earlier:
        build(corpus, out, tokenizer="byte")
    before = contents(out) if earlier else None

    def stop(*_: object) -> None:
        raise Stop

    monkeypatch.setattr(ShardWriter, where, stop)
    with pytest.raises(Stop):
        build(corpus, out, tokenizer="byte", seed=1)
    assert (contents(out) if out.exists() else None) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == (["corpus", "out"] if earlier else ["corpus"])


def test_a_full_disk_is_one_clear_error(corpus: Path, tmp_path: Path, monkeypatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ShardWriter, "add", full)
    with pytest.raises(DataError, match="No space left"):
        build(corpus, tmp_path / "out", tokenizer="byte")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"validation": 1.0}, "validation = 1.0"),
        ({"vocab_size": 100_000}, "100"),
        ({"tokenizer": "byte", "vocab_size": 4096}, "its own 257"),
        ({"tokenizer": "bqe"}, "did you mean 'bpe'"),
        ({"tokenizer": "char", "cut": False, "validation": 0.1}, "one document"),
    ],
)
def test_bad_settings_are_refused_and_nothing_is_left(tmp_path: Path, settings: dict, says: str) -> None:
    (tmp_path / "my.txt").write_text("a short text\nof two lines\n" * 9)
    with pytest.raises(DataError, match=says):
        build(tmp_path / "my.txt", tmp_path / "out", **settings)
    assert [path.name for path in tmp_path.iterdir()] == ["my.txt"]


def test_a_rename_that_fails_puts_the_old_folder_back(corpus: Path, tmp_path: Path, monkeypatch) -> None:
    out = tmp_path / "out"
    build(corpus, out, tokenizer="byte")
    before, rename = contents(out), os.rename

    def refuse(source: Path, target: Path) -> None:
        if ".part-" in Path(source).name:
            raise OSError(5, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(DataError, match="Input/output error"):
        build(corpus, out, tokenizer="byte", seed=1)
    assert contents(out) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus", "out"]


def test_sources_without_text_say_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a").write_bytes(b"\0")
    (tmp_path / "in" / "b").write_bytes(b"\xff")
    with pytest.raises(DataError, match="hold no text: 2 files, of them 1 binary, 1 undecodable"):
        build(tmp_path / "in", tmp_path / "out")


def test_nothing_is_printed_where_no_terminal_watches(corpus: Path, tmp_path: Path, capfd) -> None:
    build(corpus, tmp_path / "out", tokenizer="byte")
    assert capfd.readouterr() == ("", "")


def test_a_terminal_sees_every_stage(corpus: Path, tmp_path: Path, capfd, monkeypatch) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    build(corpus, tmp_path / "out", tokenizer="char")
    shown = capfd.readouterr()
    assert shown.out == ""
    assert all(stage in shown.err for stage in ("reading", "tokenizer", "encoding"))
    build(corpus, tmp_path / "out", tokenizer="byte", quiet=True)
    assert capfd.readouterr() == ("", "")


def test_the_meta_says_what_the_settings_were(corpus: Path, tmp_path: Path) -> None:
    build([corpus], tmp_path / "out", tokenizer="byte", seed=7, validation=0.25, separator="\n\n")
    meta = json.loads((tmp_path / "out" / "meta.json").read_text())
    for name in ("seed", "validation", "separator", "text_field"):
        assert meta[name] == {"seed": 7, "validation": 0.25, "separator": "\n\n", "text_field": "text"}[name]
    assert meta["sources"] == [str(corpus)]
    assert Settings().validation == 0.1
