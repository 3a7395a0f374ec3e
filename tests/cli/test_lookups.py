"""`formers lookups`: a page and its data from a run with a memory, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

import formers as library
from formers.text import train_tokenizer
from tests.cli.commands import Formers

TEXT = "The otter sleeps by the river — the river of the otter. " * 3


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A decoder of fresh weights with a memory, as `formers graft` leaves it."""
    folder = tmp_path_factory.mktemp("grafted")
    decoder = library.build("gpt2", preset="nano", vocab_size=257, d_model=16, max_length=32)
    library.save(library.graft_memory(decoder, [1], 100, segment_length=16, merge="gate"), folder / "model",
                 tokenizer=train_tokenizer("byte", [], 257))  # fmt: skip
    return folder / "model"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "otter.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


def test_lookups_writes_a_page_of_the_text(formers: Formers, model: Path, file: Path):
    outcome = formers("lookups", model, file)
    assert outcome.code == 0
    assert "of the attention went to the memory" in outcome.out
    page = Path("lookups.html").read_text(encoding="utf-8")
    assert "What the memory remembered: otter.txt" in page
    assert 'id="t20"' in page
    assert formers("lookups", model, file, "--out", "b.html", "--first", "40", "--most", "10").code == 0
    assert "Tokens 40 to 49 of 174 are shown" in Path("b.html").read_text(encoding="utf-8")


def test_lookups_as_json_is_the_data_and_writes_no_page(formers: Formers, model: Path, file: Path):
    found = formers("lookups", model, file, "--json", "--top", "2").json
    assert not Path("lookups.html").exists()
    assert "".join(found["pieces"]) == TEXT
    (layer,) = found["layers"]
    assert all(abs(sum(head) - 1) < 1e-4 for token in layer["shares"] for head in token)
    assert {len(head) for token in layer["index"] for head in token} == {2}
    assert found["loss"][0] is None
    assert formers("lookups", model, file, "--json", "--set", "memory_size=20", "--out", "c.html").code == 0
    assert Path("c.html").exists()


def test_lookups_refuses_what_it_cannot_read(formers: Formers, model: Path, file: Path, tmp_path: Path):
    assert "has no memory" in formers.refuses("lookups", "gpt2.nano", file)
    assert "has no tokenizer" in formers.refuses("lookups", "memorizing.nano", file)
    assert "cannot be read" in formers.refuses("lookups", model, "nowhere.txt")
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    assert "is empty" in formers.refuses("lookups", model, "empty.txt")
    assert "not UTF-8" in formers.refuses("lookups", model, "latin.txt")
    assert "is a folder" in formers.refuses("lookups", model, file, "--out", tmp_path)
    for option, value in (("--first", 999), ("--first", -1), ("--most", 0), ("--top", 0)):
        assert option in formers.refuses("lookups", model, file, option, value)
