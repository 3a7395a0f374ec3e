"""From sources to documents: what is read, what is skipped and counted, what is refused."""

from __future__ import annotations

import json
import os
import sys
import sysconfig
import types
from pathlib import Path

import pytest

from formers.data.readers import Reader
from formers.data.sources import HubDataset, find, stdlib_files
from formers.errors import DataError


def read(*sources, **options) -> list[str]:
    return list(Reader(list(sources), **options))


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_a_file_is_a_document_with_its_newlines_and_without_its_byte_order_mark(tmp_path: Path) -> None:
    file = write(tmp_path / "a.txt", b"\xef\xbb\xbfone\r\ntw\xc3\xb6\rthree\n")
    assert read(file) == ["one\r\ntwö\rthree\n"]


def test_a_separator_divides_a_file(tmp_path: Path) -> None:
    file = write(tmp_path / "a.txt", "one\n---\ntwo\n---\n\n---\nthree")
    reader = Reader([file], separator="\n---\n")
    assert list(reader) == ["one", "two", "three"]
    assert reader.skipped == {"empty": 1}


def test_a_folder_is_read_by_name_without_hidden_files(tmp_path: Path) -> None:
    for name in ("b.txt", "a/z.txt", "a/y/x.txt", ".git/config", ".hidden", "__pycache__/m.txt"):
        write(tmp_path / name, name)
    assert read(tmp_path) == ["b.txt", "a/z.txt", "a/y/x.txt"]


def test_what_is_no_text_in_a_folder_is_skipped_and_counted(tmp_path: Path) -> None:
    write(tmp_path / "good.txt", "good")
    write(tmp_path / "binary.bin", b"ab\0cd")
    write(tmp_path / "latin.txt", "å".encode("latin-1"))
    write(tmp_path / "utf16.txt", "hello".encode("utf-16"))
    write(tmp_path / "latin.jsonl", '{"text": "å"}'.encode("latin-1"))
    write(tmp_path / "empty.py", "")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe")
    for source in (tmp_path, str(tmp_path / "*")):
        reader = Reader([source])
        assert list(reader) == ["good"]
        assert dict(reader.skipped) == {"binary": 2, "undecodable": 2, "empty": 1, "unreadable": 2}
        assert str(tmp_path / "latin.txt") in reader.skipped_files


@pytest.mark.parametrize(
    ("content", "says"), [(b"ab\0cd", "zero byte at 2"), (b"ab\xe5", "byte 0xe5 at 2 is not UTF-8")]
)
def test_a_named_file_that_is_no_text_is_refused(tmp_path: Path, content: bytes, says: str) -> None:
    with pytest.raises(DataError, match=says):
        read(write(tmp_path / "a.txt", content))


def test_a_file_without_permission_is_refused_if_named_and_counted_if_found(tmp_path: Path, monkeypatch) -> None:
    file = write(tmp_path / "a.txt", "secret")
    write(tmp_path / "b.txt", "open")

    def refuse(path: Path, real=Path.read_bytes) -> bytes:
        if path.name == "a.txt":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(DataError, match=r"a\.txt cannot be used: Permission denied"):
        read(file)
    reader = Reader([tmp_path])
    assert list(reader) == ["open"]
    assert reader.skipped == {"unreadable": 1}


def test_globs_take_files_and_folders_by_name(tmp_path: Path) -> None:
    for name in ("one.txt", "two.md", "deep/three.txt"):
        write(tmp_path / name, name)
    assert read(str(tmp_path / "*.txt")) == ["one.txt"]
    assert sorted(read(str(tmp_path / "**" / "*.txt"))) == ["deep/three.txt", "one.txt"]
    assert sorted(read(str(tmp_path / "*"))) == ["deep/three.txt", "one.txt", "two.md"]


def test_a_name_with_a_bracket_is_a_file_before_it_is_a_glob(tmp_path: Path) -> None:
    assert read(str(write(tmp_path / "a[1].txt", "text"))) == ["text"]


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("nowhere.txt", "no file or folder 'nowhere.txt'"),
        ("stdlb", "did you mean 'stdlib'"),
        ("no*thing", "matches nothing"),
        ("hf:", "no data set is named"),
        ("x" * 5000, "cannot be read"),
    ],
)
def test_a_source_that_is_not_there_is_refused(source: str, says: str) -> None:
    with pytest.raises(DataError, match=says):
        find([source])


def test_no_source_an_empty_folder_and_an_empty_separator_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no source"):
        find([])
    with pytest.raises(DataError, match="holds no files"):
        find([tmp_path])
    with pytest.raises(DataError, match="separator is empty"):
        Reader([write(tmp_path / "a", "a")], separator="")


def test_the_standard_library_is_its_own_source_in_a_fixed_order() -> None:
    files = [file.path for file in stdlib_files()]
    root = Path(sysconfig.get_paths()["stdlib"])
    assert {root / "os.py", root / "json" / "decoder.py"} <= set(files)
    assert not any({"site-packages", "__pycache__", "test"} & set(file.relative_to(root).parts) for file in files)
    assert files == [file.path for file in stdlib_files()]
    assert all(file.suffix == ".py" for file in files)


def test_json_lines_give_a_document_a_line(tmp_path: Path) -> None:
    lines = [json.dumps({"text": "é\nx", "n": 1}), "", json.dumps({"text": "two"})]
    file = write(tmp_path / "a.jsonl", b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    assert read(file) == ["é\nx", "two"]
    other = write(tmp_path / "b.jsonl", '{"body": "three"}')
    assert read(other, text_field="body") == ["three"]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"text": ', r"a\.jsonl:2: no JSON"),
        (b'{"text": "\xe5"}', r"a\.jsonl:2: no JSON"),
        ('["text"]', r"a\.jsonl:2: a JSON list"),
        ('{"body": "x"}', r"a\.jsonl:2: no field 'text' among 'body'"),
        ('{"text": null}', r"a\.jsonl:2: the field 'text' is NoneType"),
        ('{"text": "\\ud800"}', r"a\.jsonl:2: half of a surrogate pair"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, line: str | bytes, says: str) -> None:
    data = line.encode() if isinstance(line, str) else line
    with pytest.raises(DataError, match=says):
        read(write(tmp_path / "a.jsonl", b'{"text": "fine"}\n' + data))


def write_parquet(path: Path, columns: dict[str, list]) -> Path:
    arrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    parquet.write_table(arrow.table(columns), path)
    return path


def test_parquet_gives_a_document_a_row(tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "a.parquet", {"text": ["one", None, "zwö"], "n": [1, 2, 3]})
    reader = Reader([file])
    assert list(reader) == ["one", "zwö"]
    assert reader.skipped == {"empty": 1}


@pytest.mark.parametrize(
    ("field", "says"), [("body", "no column 'body'; its columns: 'text', 'n'"), ("n", "holds int64")]
)
def test_parquet_without_the_column_of_text_is_refused(tmp_path: Path, field: str, says: str) -> None:
    file = write_parquet(tmp_path / "a.parquet", {"text": ["one"], "n": [1]})
    with pytest.raises(DataError, match=says):
        read(file, text_field=field)


def test_damaged_parquet_and_missing_pyarrow_are_refused(tmp_path: Path, monkeypatch) -> None:
    pytest.importorskip("pyarrow")
    file = write(tmp_path / "a.parquet", "PAR1 not really")
    with pytest.raises(DataError, match="no Parquet"):
        read(file)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(DataError, match=r"pyarrow is not installed(.|\n)*formers\[data\]"):
        read(file)


class FakeRows(list):
    column_names = ("text", "n")


def fake_datasets(monkeypatch, rows) -> list[tuple]:
    asked: list[tuple] = []

    def load_dataset(name, config, split):
        asked.append((name, config, split))
        if isinstance(rows, Exception):
            raise rows
        return FakeRows(rows)

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    return asked


def test_a_data_set_is_loaded_by_name_config_and_split(monkeypatch) -> None:
    asked = fake_datasets(monkeypatch, [{"text": "one", "n": 1}, {"text": None, "n": 2}])
    assert read("hf:some/stories:en@test") == ["one"]
    assert read("hf:some/stories") == ["one"]
    assert asked == [("some/stories", "en", "test"), ("some/stories", None, "train")]
    assert HubDataset.parse("hf:a:b@c[:1%]") == HubDataset("a", "b", "c[:1%]")


def test_a_data_set_that_cannot_be_used_is_refused(monkeypatch) -> None:
    fake_datasets(monkeypatch, [{"text": "one", "n": 1}])
    with pytest.raises(DataError, match="no column 'body'"):
        read("hf:x", text_field="body")
    with pytest.raises(DataError, match="is int, not text"):
        read("hf:x", text_field="n")
    fake_datasets(monkeypatch, FileNotFoundError("x is not there"))
    with pytest.raises(DataError, match="cannot be loaded: x is not there"):
        read("hf:x")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"datasets is not installed(.|\n)*formers\[data\]"):
        read("hf:x")
