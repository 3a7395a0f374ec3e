"""Pairs of texts: from a JSON-lines file to rows with teacher forcing, and every way to get the file wrong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from formers.data import SourceToTarget, build_pairs, cached_pairs, equip, open_shards
from formers.errors import DataError
from tests.data import texts

PAIRS = [(text, " ".join(reversed(text.split()))[:80]) for text in texts.documents(number=40, longest=3, seed=7)]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.jsonl"
    lines = [json.dumps({"source": source, "target": target, "more": 1}) for source, target in PAIRS]
    path.write_text("\n".join([*lines[:20], "", *lines[20:], lines[0]]) + "\n")  # an empty line, and a pair twice
    return path


def view(shards, **settings) -> SourceToTarget:
    made = equip(shards, "source_to_target")
    return SourceToTarget(made, **{"batch_size": 4, "seq_len": 400, "split": "train", **settings})


def built(file: Path, out: Path, **settings):
    build_pairs([file], out, **{"tokenizer": "byte", **settings})
    return open_shards(out, verify=True)


def pairs_of(made: SourceToTarget, steps: range) -> list[tuple[str, str]]:
    found = []
    for step in steps:
        batch = made.batch(step)
        for row in range(len(batch.source_ids)):
            source = batch.source_ids[row][batch.source_index[row] >= 0]
            target = batch.targets[row][batch.targets[row] >= 0]
            if len(source):
                assert source[-1] == target[-1] == made.shards.tokenizer.end_of_text
                assert batch.input_ids[row][: len(target)].tolist() == [made.start, *target[:-1].tolist()]
                decode = made.shards.tokenizer.decode
                found.append((decode(source.tolist()), decode(target.tolist())))
    return found


def test_rows_are_the_pairs_of_the_file(file: Path, tmp_path: Path):
    shards = built(file, tmp_path / "shards")
    held_out = pairs_of(view(shards, split="validation", rows="every"), range(20))
    trained = pairs_of(view(shards, rows="every"), range(20))
    assert sorted(held_out + trained) == sorted(PAIRS)
    assert not {source for source, _ in held_out} & {source for source, _ in trained}
    assert shards.meta["duplicates"] == 1


def test_every_pair_comes_once_an_epoch_in_another_order(file: Path, tmp_path: Path):
    made = view(built(file, tmp_path / "shards"), batch_size=1)
    first, second = (pairs_of(made, range(epoch * made.pairs, (epoch + 1) * made.pairs)) for epoch in (0, 1))
    assert sorted(first) == sorted(second)
    assert first != second
    assert len(set(first)) == made.pairs


def test_a_batch_is_a_function_of_settings_seed_and_step(file: Path, tmp_path: Path):
    shards = built(file, tmp_path / "shards")
    first, again = view(shards, seed=3), view(shards, seed=3)
    for step in (30, 0, 30):
        assert np.array_equal(first.batch(step).source_ids, again.batch(step).source_ids)
    assert not np.array_equal(first.batch(0).source_ids, view(shards, seed=4).batch(0).source_ids)


def test_a_tokenizer_is_trained_on_both_sides(file: Path, tmp_path: Path):
    shards = built(file, tmp_path / "shards", tokenizer="unigram", vocab_size=50)
    assert shards.vocab_size == 50
    assert len(view(shards, rows="every")) > 5


def test_pairs_of_one_source_are_held_out_together(tmp_path: Path):
    lines = [{"source": f"text {n // 3}", "target": f"answer {n}"} for n in range(90)]
    (tmp_path / "p.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    shards = built(tmp_path / "p.jsonl", tmp_path / "shards", validation=0.3)
    sides = [
        {source for source, _ in pairs_of(view(shards, split=split, rows="every"), range(30))}
        for split in ("train", "validation")
    ]
    assert not sides[0] & sides[1]
    assert len(sides[0] | sides[1]) == 30


def test_long_texts_are_cut_with_a_warning(file: Path, tmp_path: Path):
    shards = built(file, tmp_path / "shards")
    with pytest.warns(UserWarning, match=r"pairs \d+ sources are cut to 40 tokens and \d+ targets to 20"):
        batch = view(shards, seq_len=40, target_len=20).batch(0)
    assert batch.source_ids.shape == (4, 40)
    assert batch.targets.shape == (4, 20)
    end, full = shards.tokenizer.end_of_text, batch.source_index[:, -1] >= 0
    assert full.any()
    assert (batch.source_ids[full, -1] == end).all()  # as a pipeline hands a long source to the model
    assert (batch.source_ids[full, :-1] != end).all()


def test_the_cache_finds_what_was_built(file: Path, tmp_path: Path):
    first = cached_pairs([file], tokenizer="byte", cache=tmp_path / "cache")
    written = (first / "meta.json").stat().st_mtime_ns
    assert cached_pairs([file], tokenizer="byte", cache=tmp_path / "cache") == first
    assert (first / "meta.json").stat().st_mtime_ns == written
    file.write_text(file.read_text() + json.dumps({"source": "new", "target": "one"}) + "\n")
    assert cached_pairs([file], tokenizer="byte", cache=tmp_path / "cache") != first


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", r"line 2 is no JSON"),
        ("[1]", r"line 2: \[1\]"),
        ('{"source": "a"}', r"line 2.*\n.*wanted: an object such as"),
        ('{"source": "a", "target": ""}', "both not empty"),
        ('{"source": "a", "target": 3}', "line 2"),
    ],
)
def test_a_damaged_line_is_named(tmp_path: Path, line: str, said: str):
    (tmp_path / "p.jsonl").write_text(json.dumps({"source": "a", "target": "b"}) + "\n" + line)
    with pytest.raises(DataError, match=said):
        build_pairs([tmp_path / "p.jsonl"], tmp_path / "shards", tokenizer="byte")
    assert not (tmp_path / "shards").exists()


def test_no_pairs_no_file_and_shards_of_texts_are_refused(tmp_path: Path):
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(DataError, match="no pairs"):
        build_pairs([tmp_path / "empty.jsonl"], tmp_path / "shards", tokenizer="byte")
    with pytest.raises(DataError, match="cannot be read"):
        build_pairs([tmp_path / "missing.jsonl"], tmp_path / "shards", tokenizer="byte")
    with pytest.raises(DataError, match="hold texts, not pairs"):
        view(texts.shards("unigram"))
