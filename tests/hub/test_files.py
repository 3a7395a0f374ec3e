from __future__ import annotations

import errno
from pathlib import Path

import pytest

from formers.errors import RunError
from formers.hub import write_folder
from formers.hub.files import main_dtype


def test_a_folder_appears_only_when_all_of_it_is_written(tmp_path: Path) -> None:
    with write_folder(tmp_path / "new") as aside:
        (aside / "a").write_text("1")
        assert not (tmp_path / "new").exists()
    assert (tmp_path / "new" / "a").read_text() == "1"
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def write_and_stop(path: Path, error: type[BaseException]) -> None:
    with write_folder(path, replace=True) as aside:
        (aside / "a").write_text("2")
        raise error


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_whatever_ends_the_writing_leaves_what_stood_there(error: type[BaseException], tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "a").write_text("1")
    with pytest.raises(error):
        write_and_stop(tmp_path / "old", error)
    assert (tmp_path / "old" / "a").read_text() == "1"
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


def test_a_folder_that_holds_files_is_replaced_only_when_told_so(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    with pytest.raises(RunError, match="holds files already"), write_folder(tmp_path):
        raise AssertionError("the block may not begin")
    with pytest.raises(RunError, match="is a file"), write_folder(tmp_path / "a"):
        raise AssertionError("the block may not begin")


def test_a_full_disk_is_one_clear_error(tmp_path: Path) -> None:
    with (
        pytest.raises(RunError, match=r"No space left on device(.|\n)*free some space"),
        write_folder(tmp_path / "new"),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert not list(tmp_path.iterdir())


def test_the_main_type_of_no_tensors_is_float32() -> None:
    assert main_dtype({}) == "float32"
