"""Pairs of segments: labels that are true, types and frames in their places, and nothing beside the text that tells."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from formers.data import SentencePairs, equip
from formers.data.masking import Letters
from formers.data.pairs import cuts
from formers.errors import ConfigError, DataError
from tests.data import texts
from tests.data.statistics import within

LONG = texts.documents(number=12, longest=90, seed=1)


def view(kind: str = "wordpiece", documents=None, **settings) -> SentencePairs:
    shards = equip(texts.shards(kind, documents), "next_sentence")
    return SentencePairs(shards, **{"batch_size": 8, "seq_len": 64, "split": "train", **settings})


def rows(made: SentencePairs, steps: range):
    """(label, first segment, second segment) of every row, unmasked."""
    separator = made.shards.tokenizer.role("separator")
    for step in steps:
        batch = made.batch(step)
        ids = np.where(batch.targets >= 0, batch.targets, batch.input_ids)
        for row, types, index, label in zip(ids, batch.token_types, batch.index, batch.pair, strict=True):
            there = row[index >= 0]
            if len(there):
                assert there[0] == made.shards.tokenizer.role("start")
                (middle, end) = np.flatnonzero(there == separator)
                assert end == len(there) - 1
                assert types[: middle + 1].tolist() == [0] * (middle + 1)
                assert types[middle + 1 : end + 1].tolist() == [1] * (end - middle)
                yield int(label), there[1:middle], there[middle + 1 : end]


def stands(text: np.ndarray, whole: list[np.ndarray]) -> set[int]:
    """The documents that hold `text`."""
    needle = text.astype("<u4").tobytes()
    found = set()
    for number, document in enumerate(whole):
        hay = document.astype("<u4").tobytes()
        at = hay.find(needle)
        while at >= 0 and at % 4:
            at = hay.find(needle, at + 1)
        if at >= 0:
            found.add(number)
    return found


def train_documents(made: SentencePairs) -> list[np.ndarray]:
    return [made.shards.document_tokens(int(row))[:-1] for row in made.shards.rows(made.split)]


@pytest.mark.parametrize("kind", ["wordpiece", "unigram", "bpe"])
def test_next_means_that_the_second_stands_behind_the_first(kind: str):
    made = view(kind, pairs="next")
    whole, seen = train_documents(made), [0, 0]
    for label, first, second in rows(made, range(12)):
        together = stands(np.concatenate([first, second]), whole)
        seen[label] += 1
        if label == 0:
            assert together
        else:
            assert stands(first, whole)
            assert stands(second, whole)
            assert not together
    assert min(seen) > 20


def test_what_does_not_follow_is_of_another_document():
    words = np.array_split(texts.WORDS, 3)
    apart = [" ".join([*some, "."] * 9) for some in words]
    made, seen = view(documents=apart, pairs="next", seq_len=48), 0
    whole = train_documents(made)
    for label, first, second in rows(made, range(12)):
        one, other = stands(first, whole), stands(second, whole)
        if len(one) == len(other) == 1:  # a segment of a full stop is of all of them
            assert (one == other) == (label == 0)
            seen += label
    assert seen > 20


@pytest.mark.parametrize("kind", ["wordpiece", "unigram", "bpe", "byte"])
def test_order_means_that_the_two_were_swapped(kind: str):
    made = view(kind, pairs="order")
    whole, seen = train_documents(made), [0, 0]
    for label, first, second in rows(made, range(12)):
        seen[label] += 1
        written = [first, second] if label == 0 else [second, first]
        assert stands(np.concatenate(written), whole)
    assert min(seen) > 20


@pytest.mark.parametrize("pairs", ["next", "order"])
def test_half_of_the_rows_have_each_label(pairs: str):
    made = view(pairs=pairs)
    labels = np.concatenate([made.batch(step).pair for step in range(40)])
    assert within(int(labels.sum()), len(labels), 0.5)


@pytest.mark.parametrize("pairs", ["next", "order"])
def test_segments_are_whole_sentences_whatever_the_label(pairs: str):
    made = view(pairs=pairs, rows="every", batch_size=4, seq_len=160, documents=LONG)  # no row is shortened at random
    letters, counts = Letters(made.shards.tokenizer), {0: [0, 0, 0], 1: [0, 0, 0]}
    for label, first, second in rows(made, range(len(made))):
        counts[label][0] += 1
        counts[label][1] += int(letters.stops[first[-1]])
        counts[label][2] += int(letters.stops[second[-1]])
    for number, *ends in counts.values():
        assert min(ends) > 0.9 * number  # the rest are rows of less than two whole sentences


def test_a_segment_from_elsewhere_is_as_long_as_the_one_whose_place_it_takes():
    made = view(pairs="next", seq_len=160, documents=LONG)
    lengths = {0: [], 1: []}
    for label, _, second in rows(made, range(20)):
        lengths[label].append(len(second))
    followed, other = (np.mean(lengths[label]) for label in (0, 1))
    assert abs(followed - other) < 0.15 * followed


def test_a_stretch_without_the_end_of_a_sentence_is_cut_at_words_and_then_at_tokens():
    tokenizer = texts.tokenizer("bpe")
    letters = Letters(tokenizer)

    def at(text: str, opens: bool = False, closes: bool = False) -> list[str]:
        ids = np.array(tokenizer.encode(text))
        places = cuts(letters, ids, opens, closes).tolist()
        return [tokenizer.decode(ids[a:b].tolist()) for a, b in pairwise(places)]

    assert at("a fox. runs home. to", opens=True) == ["a fox.", " runs home."]
    assert at("a fox. runs home. to", opens=True, closes=True) == ["a fox.", " runs home.", " to"]
    assert at(" fox runs home") == [" fox", " runs"]  # the last word may go on
    assert at(" fox runs home", closes=True) == [" fox", " runs", " home"]
    assert len(at("qqqq")) == len(tokenizer.encode("qqqq"))


def test_both_segments_have_masks_and_frames_have_none():
    made, hit = view(share=0.5), np.zeros(2)
    special = set(made.shards.tokenizer.special_tokens.values())
    for step in range(5):
        batch = made.batch(step)
        chosen = batch.targets >= 0
        assert not special & set(batch.targets[chosen].tolist())
        hit += [(chosen & (batch.token_types == 0)).sum(), (chosen & (batch.token_types == 1)).sum()]
    assert hit.min() > 50


def test_a_batch_is_a_function_of_settings_seed_and_step():
    first, again = view(seed=3), view(seed=3)
    for step in (4, 0, 4):
        ours, theirs = first.batch(step), again.batch(step)
        for name in ("input_ids", "targets", "token_types", "pair", "index"):
            assert np.array_equal(getattr(ours, name), getattr(theirs, name)), name
    assert not np.array_equal(first.batch(1).input_ids, view(seed=4).batch(1).input_ids)


def test_evaluation_ends_and_its_rows_behind_the_end_have_no_label():
    made = view(rows="every", split="validation", batch_size=64)
    labels = np.concatenate([made.batch(step).pair for step in range(len(made))])
    index = np.concatenate([made.batch(step).index for step in range(len(made))])
    assert set(labels.tolist()) == {-100, 0, 1}
    assert np.array_equal(labels == -100, (index < 0).all(1))
    assert (made.batch(len(made)).pair == -100).all()


def test_one_document_has_no_other_but_an_order():
    alone = [texts.documents()[0]] * 1
    with pytest.raises(DataError, match="sentence_order"):
        view(documents=alone, pairs="next")
    assert view(documents=alone, pairs="order").batch(0).pair.min() >= 0


@pytest.mark.parametrize(("settings", "said"), [({"pairs": "nxt"}, "'next'"), ({"rows": "packed"}, "windows, every")])
def test_settings_that_cannot_be_are_refused(settings: dict, said: str):
    with pytest.raises(ConfigError, match=said):
        view(**settings)
