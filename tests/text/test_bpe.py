from __future__ import annotations

import time
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formers.text import bpe

LETTERS = {letter: place for place, letter in enumerate("abcdefz_")}
words = st.dictionaries(
    st.lists(st.integers(0, 3), min_size=1, max_size=12).map(tuple), st.integers(1, 4), min_size=1, max_size=8
)


def counted(text: str) -> dict[tuple[int, ...], int]:
    """Words of a line; all but the first begin with the space before them, here "_"."""
    first, *rest = text.split(" ")
    return Counter(tuple(LETTERS[letter] for letter in word) for word in [first, *("_" + word for word in rest)])


def spelt(merges: list[bpe.Pair]) -> list[str]:
    names = list(LETTERS)
    for left, right in merges:
        names.append(names[left] + names[right])
    return [f"{names[left]}+{names[right]}" for left, right in merges]


@pytest.mark.parametrize("train", [bpe.train, bpe.train_slowly])
def test_ties_go_to_the_smallest_left_then_right_id(train):
    merges = train(counted("ab ab cd cd ef ef zz"), 6, len(LETTERS))
    assert spelt(merges) == ["a+b", "c+d", "e+f", "_+cd", "_+ef", "z+z"]


@pytest.mark.parametrize("train", [bpe.train, bpe.train_slowly])
def test_overlapping_pairs_are_counted_twice_and_merged_from_the_left(train):
    merges = train(counted("aaaa aaaa aaaaa"), 4, len(LETTERS))
    assert spelt(merges) == ["a+a", "aa+aa", "_+aaaa", "_aaaa+a"]


@pytest.mark.parametrize("encode", [bpe.encode, bpe.encode_slowly])
def test_the_earliest_merge_is_applied_first(encode):
    merges = bpe.train(counted("aaaa aaaa aaaaa"), 4, len(LETTERS))
    table = bpe.merge_table(merges, range(len(LETTERS), len(LETTERS) + 4))
    assert encode([0] * 7, table) == [len(LETTERS) + 1, len(LETTERS), 0]  # aaaa|aa|a


@given(words, st.integers(1, 30), st.integers(1, 3))
def test_both_trainers_learn_the_same_merges(words, num_merges: int, min_count: int):
    assert bpe.train(words, num_merges, 4, min_count) == bpe.train_slowly(words, num_merges, 4, min_count)


@given(words, st.lists(st.integers(0, 3), max_size=80))
def test_both_encoders_give_the_same_ids(words, symbols: list[int]):
    merges = bpe.train(words, 30, 4)
    table = bpe.merge_table(merges, range(4, 4 + len(merges)))
    assert bpe.encode(symbols, table) == bpe.encode_slowly(symbols, table)


@given(words)
def test_training_stops_when_nothing_is_left_to_merge(words):
    merges = bpe.train(words, 10_000, 4)
    table = bpe.merge_table(merges, range(4, 4 + len(merges)))
    assert [len(bpe.encode(word, table)) for word in words] == [1] * len(words)


def test_a_rare_pair_is_not_merged():
    words = {(0, 1): 3, (2, 3): 2}
    assert bpe.train(words, 9, 4, min_count=3) == bpe.train_slowly(words, 9, 4, min_count=3) == [(0, 1)]


QUICK = 10.0
"""Seconds. What grows with the square takes minutes here (10^5 symbols, 10^10 steps), what does not takes one."""


def test_a_piece_of_100_000_equal_letters_is_learnt_and_encoded_quickly():
    start = time.perf_counter()
    merges = bpe.train({(0,) * 100_000: 1, (1, 2) * 50_000: 1}, 20, 3)
    table = bpe.merge_table(merges, range(3, 23))
    assert len(bpe.encode([0] * 100_000, table)) < 100_000
    assert time.perf_counter() - start < QUICK
