"""Labelled files: what is read, what is refused, and what is held out together."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from pathlib import Path

import pytest

from formers.data.labelled import Rated, Sentence, held_out, pair_lines, read_conll, read_ratings, read_text_pairs
from formers.data.seq2seq import read_pairs
from formers.errors import DataError

CONLL = """-DOCSTART- O

Ada I-PER
met O
Bob\tI-PER

London I-LOC

-DOCSTART- X O

Rome I-LOC
"""


def written(folder: Path, text: str, name: str = "file.txt") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_sentences_of_an_article_are_one_group(tmp_path: Path) -> None:
    assert read_conll(written(tmp_path, CONLL)) == [
        Sentence(("Ada", "met", "Bob"), ("I-PER", "O", "I-PER"), "article 1"),
        Sentence(("London",), ("I-LOC",), "article 1"),
        Sentence(("Rome",), ("I-LOC",), "article 2"),
    ]


def test_without_articles_every_sentence_is_its_own_group(tmp_path: Path) -> None:
    found = read_conll(written(tmp_path, "a B-X\n\n\n\nb O\nc I-X"))
    assert [(sentence.words, sentence.group) for sentence in found] == [
        (("a",), "sentence 0"),
        (("b", "c"), "sentence 1"),
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [("a O\nb\n", "line 2: 'b' has no tag"), ("\n\n", "holds no sentence"), ("-DOCSTART- O\n", "no sent")],
)
def test_a_file_that_is_no_conll_is_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        read_conll(written(tmp_path, text))


def test_ratings_group_sentences_by_their_text_and_keep_equal_texts_once(tmp_path: Path) -> None:
    found = read_ratings(written(tmp_path, "1_1\t-0.9\tno picture\n1_2\t2\tfine\n2_1\t3\tfine\n", "a.txt"))
    assert found == [Rated("no picture", -0.9, "a.txt 1"), Rated("fine", 2.0, "a.txt 1")]


def test_an_archive_and_the_folder_in_it_are_the_same(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    written(inside, "1\t1.5\tgood\n", "x_GroundTruth.txt")
    written(inside, "1\t-1.5\tbad\n", "y_GroundTruth.txt")
    written(inside, "this is no table", "_README_.txt")
    with tarfile.open(tmp_path / "all.tar.gz", "w:gz") as archive:
        archive.add(inside, "inside")
    assert read_ratings(tmp_path / "all.tar.gz") == read_ratings(inside)
    assert [rated.rating for rated in read_ratings(inside)] == [1.5, -1.5]


@pytest.mark.parametrize("line", ["1\t2", "1\tmuch\ttext", "1\tnan\ttext", "1\t1\t "])
def test_a_line_that_is_no_rating_is_named(tmp_path: Path, line: str) -> None:
    with pytest.raises(DataError, match="line 2"):
        read_ratings(written(tmp_path, f"1\t1\tgood\n{line}\n"))


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    broken = tmp_path / "broken.tar.gz"
    broken.write_bytes(b"no archive")
    latin = tmp_path / "latin.txt"
    latin.write_bytes("caf\xe9 O".encode("latin-1"))
    for read, path in (
        (read_ratings, broken),
        (read_conll, latin),
        (read_ratings, tmp_path / "none"),
        (read_conll, tmp_path),
    ):
        with pytest.raises(DataError, match="cannot be read"):
            read(path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no rated text"):
        read_ratings(tmp_path / "empty")


ROWS = [{"en": "a\nb", "de": "ä", "split": "train"}, {"en": "c", "de": "d", "split": "test"}]


def test_pairs_are_read_packed_or_not_and_go_on_as_build_reads_them(tmp_path: Path) -> None:
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    (tmp_path / "p.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    found = read_text_pairs(tmp_path / "p.jsonl.gz", "en", "de")
    assert found == read_text_pairs(written(tmp_path, lines), "en", "de")
    (tmp_path / "again.jsonl").write_bytes(pair_lines(found))
    assert list(read_pairs(tmp_path / "again.jsonl")) == [("a\nb", "ä"), ("c", "d")]


@pytest.mark.parametrize(
    ("line", "said"),
    [("{", "no JSON"), ('{"en": "a", "de": ""}', "none of them empty"), (json.dumps(ROWS[0]), "holds train")],
)
def test_pairs_without_a_field_or_a_test_are_refused(tmp_path: Path, line: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        read_text_pairs(written(tmp_path, line + "\n"), "en", "de")


def test_a_damaged_gzip_is_refused(tmp_path: Path) -> None:
    whole = gzip.compress(b"x" * 1000)
    (tmp_path / "p.jsonl.gz").write_bytes(io.BytesIO(whole).read(len(whole) // 2))
    with pytest.raises(DataError, match="cannot be read"):
        read_text_pairs(tmp_path / "p.jsonl.gz", "en", "de")


def sentences(groups: int, each: int) -> list[Sentence]:
    return [Sentence((f"{g} {k}",), ("O",), f"article {g}") for g in range(groups) for k in range(each)]


def test_groups_are_held_out_whole_by_the_seed_alone() -> None:
    items = sentences(20, 3)
    train, test = held_out(items, 0.2, 0)
    assert not {item.group for item in train} & {item.group for item in test}
    assert len({item.group for item in test}) == 4
    assert sorted(train + test, key=items.index) == items
    assert held_out(list(reversed(items)), 0.2, 0)[1] == list(reversed(test))
    assert held_out(items, 0.2, 1)[1] != test


def test_something_is_left_to_train_and_two_groups_to_test() -> None:
    for share, sizes in ((0.001, (8, 2)), (0.999, (1, 9))):
        assert tuple(map(len, held_out(sentences(10, 1), share, 0))) == sizes
    for items, share in ((sentences(2, 5), 0.2), (sentences(5, 1), 0.0), (sentences(5, 1), 1.0)):
        with pytest.raises(DataError, match="groups"):
            held_out(items, share, 0)
