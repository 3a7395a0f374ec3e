"""Vocabularies of many sizes: what is measured, on what, and what is not done twice."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from formers.errors import ConfigError, DataError
from formers.experiments import vocabulary
from formers.experiments.vocabulary import VocabularySettings, corpus_of, measure, run
from formers.text import train_tokenizer

WORDS = "the theatre ran out of actors and the singers ran into other halls where nobody sang".split()


@pytest.fixture
def files(tmp_path: Path) -> Path:
    rng = random.Random(5)
    for number in range(23):
        text = " ".join(rng.choice(WORDS) + rng.choice(("", "s", "ing", ",")) for _ in range(97))
        (tmp_path / "texts").mkdir(exist_ok=True)
        (tmp_path / "texts" / f"{number}.txt").write_text(text)
    return tmp_path / "texts"


def test_files_are_held_out_whole_and_no_tokenizer_is_trained_on_them(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = VocabularySettings(kinds=("bpe",), sizes=(280,), validation=0.2)
    corpus = corpus_of([files], settings)
    whole = {path.read_text() for path in files.iterdir()}
    assert {*corpus.train, *corpus.held_out} == whole
    assert not {*corpus.train} & {*corpus.held_out}
    assert 1 <= len(corpus.held_out) < len(corpus.train)
    seen: list[str] = []

    def spied(kind: str, texts: list[str], size: int):
        seen.extend(texts)
        return train_tokenizer(kind, texts, size)

    monkeypatch.setattr(vocabulary, "train_tokenizer", spied)
    run(corpus, tmp_path / "out", settings)
    assert seen == corpus.train


def test_too_much_text_is_thinned_and_what_is_held_out_stays(files: Path) -> None:
    every, some = (corpus_of([files], VocabularySettings(train_on=most)) for most in (64, 0.006))
    assert 0 < len(some.train) < len(every.train)
    assert set(some.train) < set(every.train)
    assert some.held_out == every.held_out
    assert some.key != every.key


def test_what_is_measured_is_counted_by_hand() -> None:
    tokenizer = train_tokenizer("wordpiece", "ab ab ab abc", 5 + 4)  # a, ##b, ##c and one merge
    found = measure(tokenizer, ["ab abc", "é ab zz"])
    assert [tokenizer.encode(text) for text in ("ab", "abc", "zz")] == [[8], [8, 7], [1]]
    assert found["bytes_per_token"] == 14 / 6
    assert found["tokens_per_1000_bytes"] == 1000 * 6 / 14
    assert found["whole_words"] == 2 / 5
    assert found["unknown"] == 2 / 6


def test_a_row_for_each_kind_and_size_larger_ones_take_fewer_tokens_and_nothing_is_made_twice(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = VocabularySettings(kinds=("bpe", "wordpiece"), sizes=(20, 60, 265, 290))
    corpus, out = corpus_of([files], settings), tmp_path / "out"
    rows = run(corpus, out, settings)["rows"]
    assert [(row["kind"], row["size"], "refused" in row) for row in rows] == [
        *(("bpe", size, size < 257) for size in settings.sizes),
        *(("wordpiece", size, size != 60) for size in settings.sizes),
    ]
    assert rows[2]["bytes_per_token"] < rows[3]["bytes_per_token"]
    assert "smaller than the alphabet" in rows[4]["refused"]
    assert "at most" in rows[6]["refused"]
    assert (out / "bpe-290" / "tokenizer.json").is_file()

    made: list[int] = []
    monkeypatch.setattr(vocabulary, "measure", lambda tokenizer, texts: made.append(tokenizer.vocab_size) or {})
    assert run(corpus, out, settings)["rows"] == rows
    assert made == []
    (out / "bpe-265" / "tokenizer.json").write_text("{")  # damaged: made again
    run(corpus, out, settings)
    assert made == [265]
    other = corpus_of([files], VocabularySettings(seed=1))
    run(other, out, VocabularySettings(kinds=("bpe",), sizes=(290,)))
    assert made == [265, 290]


def test_what_cannot_be_is_one_error(files: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"kinds are \['bp'\][\s\S]*sizes are \(9, 8\)[\s\S]*validation is 1"):
        VocabularySettings(kinds=("bp",), sizes=(9, 8), validation=1)
    with pytest.raises(DataError, match="1 documents that differ"):
        corpus_of([files / "0.txt"], VocabularySettings())
    settings = VocabularySettings(kinds=("bpe",), sizes=(100,))
    with pytest.raises(DataError, match="no tokenizer could be trained"):
        run(corpus_of([files], settings), tmp_path / "out", settings)
