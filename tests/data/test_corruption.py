"""Span corruption: rows that fit exactly, shares that are right, and a text that comes back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from formers.data import SpanCorruption, equip
from formers.data.corruption import Corruption, corrupt, divided, restore
from formers.errors import ConfigError, DataError
from tests.data import texts
from tests.data.statistics import within

SENTINELS = np.arange(10_000, 9_000, -1)


def view(kind: str = "unigram", **changes) -> SpanCorruption:
    shards = equip(texts.shards(kind), "span_corruption")
    return SpanCorruption(shards, **{"batch_size": 8, "seq_len": 64, "split": "train", **changes})


@settings(max_examples=150, deadline=None)
@given(
    ids=st.lists(st.integers(5, 99), min_size=1, max_size=300),
    share=st.floats(0.01, 0.9),
    mean_span=st.floats(1, 9),
    seed=st.integers(0, 1000),
    end=st.sampled_from([None, 1]),
)
def test_what_was_corrupted_is_restored(ids, share, mean_span, seed, end):
    text, corruption = np.array(ids), Corruption(share, mean_span)
    spans = corruption.spans(len(text), np.random.default_rng(seed))
    source, target = corrupt(text, spans, SENTINELS, end)
    assert restore(source, target, SENTINELS, end).tolist() == ids
    lost = sum(stop - begin for begin, stop in spans.tolist())
    assert 1 <= lost <= len(text)
    assert (spans[:, 0] < spans[:, 1]).all()
    assert (spans[1:, 0] > spans[:-1, 1]).all()  # a token stands between two of them
    ends = 0 if end is None else 1
    assert (len(source) + 1 - ends, len(target) + 1 - ends) == corruption.sizes(len(text))
    used = [token for token in source.tolist() if token in SENTINELS]
    assert used == SENTINELS[: len(spans)].tolist()
    assert [token for token in target.tolist() if token in SENTINELS] == SENTINELS[: len(spans) + 1].tolist()


def test_a_source_that_lacks_something_else_is_not_restored():
    text = np.arange(20, 60)
    source, target = corrupt(text, np.array([[3, 6], [10, 11]]), SENTINELS, 1)
    assert restore(source, np.delete(target, 1), SENTINELS, 1).tolist() != text.tolist()


def test_the_figure_of_the_paper():
    words = "Thank you for inviting me to your party last week".split()
    ids = np.arange(len(words))
    source, target = corrupt(ids, np.array([[2, 4], [8, 9]]), np.array([90, 91, 92]), 99)
    names = dict(enumerate(words)) | {90: "<X>", 91: "<Y>", 92: "<Z>", 99: "</s>"}
    assert " ".join(names[i] for i in source.tolist()) == "Thank you <X> me to your party <Y> week </s>"
    assert " ".join(names[i] for i in target.tolist()) == "<X> for inviting <Y> last <Z> </s>"


@pytest.mark.parametrize(("source", "text", "target"), [(512, 568, 115), (128, 141, 30), (114, 126, 27)])
def test_the_text_is_as_long_as_fills_the_source_exactly(source: int, text: int, target: int):
    """T5 reads 512 tokens of 568 and writes 114 (its preprocessor's own arithmetic), and our sentinel at the end."""
    corruption = Corruption()
    assert corruption.longest(source) == text
    assert corruption.sizes(text) == (source, target)
    assert corruption.sizes(text + 1)[0] > source


@pytest.mark.parametrize("kind", ["wordpiece", "unigram", "bpe", "byte"])
def test_rows_of_shards_fit_and_decode_to_their_documents(kind: str):
    made = view(kind)
    tokenizer, full = made.shards.tokenizer, 0
    whole = {int(row): made.shards.document_tokens(int(row))[:-1] for row in made.shards.rows("train")}
    for step in range(6):
        batch = made.batch(step)
        assert batch.source_ids.shape == (8, 64)
        assert batch.input_ids.shape == batch.targets.shape == (8, made.target_len)
        for row in range(8):
            source = batch.source_ids[row][batch.source_index[row] >= 0]
            target = batch.targets[row][batch.targets[row] >= 0]
            assert source[-1] == target[-1] == made.end
            full += len(source) == 64 and len(target) == made.target_len
            read = batch.input_ids[row][: len(target)]
            assert read.tolist() == [tokenizer.role("pad"), *target[:-1].tolist()]  # teacher forcing
            assert (batch.index[row] >= 0).sum() == len(target)
            text = restore(source, target, made.sentinels, made.end)
            document = whole[int(batch.document[row, 0])]
            assert any(np.array_equal(document[p : p + len(text)], text) for p in range(len(document)))
    assert full > 20


def test_fifteen_of_a_hundred_tokens_are_lost_in_spans_of_three():
    corruption, rng = Corruption(), np.random.default_rng(0)
    found = [corruption.spans(200, rng) for _ in range(200)]
    assert all(len(spans) == 10 and (spans[:, 1] - spans[:, 0]).sum() == 30 for spans in found)
    first = sum(int(spans[0, 0] == 0) for spans in found)
    last = sum(int(spans[-1, 1] == 200) for spans in found)
    chance = 10 / 171  # of 170 free tokens and 10 spans: gaps of at least 1 between, 0 at the ends
    assert within(first, 200, chance)
    assert within(last, 200, chance)
    assert min(first, last) > 0
    hidden = np.zeros(200)
    for spans in found:
        for begin, stop in spans:
            hidden[begin:stop] += 1
    assert all(within(int(count), 200, 0.15) for count in hidden[5:-5])


def test_every_division_is_as_likely_as_any_other():
    rng = np.random.default_rng(0)
    seen: dict[tuple[int, ...], int] = {}
    for _ in range(3000):
        parts = tuple(divided(5, 3, rng).tolist())
        seen[parts] = seen.get(parts, 0) + 1
    assert len(seen) == 6
    assert all(sum(parts) == 5 and min(parts) >= 1 for parts in seen)
    assert all(within(count, 3000, 1 / 6) for count in seen.values())


def test_a_batch_is_a_function_of_settings_seed_and_step():
    first, again = view(seed=3), view(seed=3)
    for step in (4, 0, 4):
        ours, theirs = first.batch(step), again.batch(step)
        for name in ("input_ids", "targets", "source_ids", "source_index"):
            assert np.array_equal(getattr(ours, name), getattr(theirs, name)), name
    assert not np.array_equal(first.batch(1).source_ids, view(seed=4).batch(1).source_ids)


def test_evaluation_reads_every_token_once():
    made = view(rows="every", split="validation")
    length = 0
    for step in range(len(made)):
        batch = made.batch(step)
        for row in range(8):
            source = batch.source_ids[row][batch.source_index[row] >= 0]
            target = batch.targets[row][batch.targets[row] >= 0]
            length += len(restore(source, target, made.sentinels, made.end))
    assert length == (made.lengths - 1).sum()


@pytest.mark.parametrize(
    "changes", [{"share": 0.0}, {"share": 1.0}, {"mean_span": 0.5}, {"rows": "packed"}, {"seq_len": 1}]
)
def test_settings_that_cannot_be_are_refused(changes: dict):
    with pytest.raises(ConfigError):
        view(**changes)


def test_too_few_sentinels_are_refused_with_the_number_it_takes():
    with pytest.raises(DataError, match=r"0 sentinels.*\n.*wanted: padding, and 4 sentinels"):
        SpanCorruption(texts.shards("unigram"), batch_size=2, seq_len=64)
    with pytest.raises(DataError, match="100 sentinels"):
        view(seq_len=4000)
