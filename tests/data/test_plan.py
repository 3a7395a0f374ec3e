"""Which documents are kept, and who is held out."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from formers.data.plan import (
    cut_documents,
    cuts,
    digest,
    follow,
    needs_cutting,
    piece_size,
    survey,
    whole_documents,
)
from formers.errors import DataError

texts = st.text(alphabet="ab c\né", min_size=1, max_size=400)


def split_of(documents: list[str], validation: float = 0.3, seed: int = 0) -> dict[str, int]:
    plan = whole_documents([digest(text) for text in documents], validation, seed)
    return {text: plan[digest(text)][0].split for text in documents}


def test_equal_documents_are_kept_once() -> None:
    found = survey(["a", "é", "a", "a"])
    assert found.duplicates == 2
    assert list(found.sizes.values()) == [(1, 1), (1, 2)]


def test_adding_documents_moves_no_other() -> None:
    documents = [f"document {n}" for n in range(300)]
    before, after = split_of(documents[100:]), split_of(documents)
    assert all(after[text] == split for text, split in before.items())
    assert 50 < sum(after.values()) < 130, "about 30% of 300"


def test_another_seed_holds_out_others() -> None:
    documents = [f"document {n}" for n in range(300)]
    assert split_of(documents, seed=0) != split_of(documents, seed=1)


@given(st.integers(2, 12), st.sampled_from([1e-9, 0.1, 0.999999]), st.integers(0, 20))
def test_both_splits_have_a_document(number, validation, seed) -> None:
    splits = split_of([str(n) for n in range(number)], validation, seed)
    assert set(splits.values()) == {0, 1}


def test_without_validation_nothing_is_held_out() -> None:
    assert set(split_of(["a", "b"], validation=0).values()) == {0}
    assert split_of(["a"], validation=0) == {"a": 0}


def test_a_single_whole_document_cannot_be_split() -> None:
    with pytest.raises(DataError, match="one document"):
        split_of(["a"])


def test_few_documents_are_cut() -> None:
    assert needs_cutting(1, 0.1)
    assert needs_cutting(9, 0.1)
    assert not needs_cutting(10, 0.1)
    assert not needs_cutting(1, 0.0)


@settings(max_examples=60, deadline=None)
@given(texts, st.integers(1, 50))
def test_cuts_rebuild_the_text_and_fall_on_lines_where_they_can(text, size) -> None:
    places = list(cuts(text, size))
    assert "".join(text[start:stop] for start, stop in places) == text
    for start, stop in places:
        piece = text[start:stop]
        assert 0 < len(piece) <= size
        if stop < len(text) and "\n" in text[start : start + size]:
            assert piece.endswith("\n")
        elif stop < len(text) and " " in text[start : start + size]:
            assert piece.endswith(" ")


@pytest.mark.parametrize(("characters", "size"), [(10, 64), (4096, 128), (100_000, 2048), (10**9, 65536)])
def test_the_piece_is_a_power_of_two_of_a_thirty_second_of_the_text(characters, size) -> None:
    assert piece_size(characters) == size


def test_one_file_is_cut_into_both_splits_and_joined_again() -> None:
    text = "".join(f"line {n} of one long file\n" for n in range(4000))
    plan = cut_documents([text], len(text), 0.1, seed=0)
    parts = list(follow(plan, [text]))
    assert "".join(part for part, _ in parts) == text
    assert all(a[1] != b[1] for a, b in pairwise(parts)), "neighbours of one split are joined"
    assert all(part.endswith("\n") for part, _ in parts)
    share = sum(len(part) for part, split in parts if split) / len(text)
    assert 0.05 < share <= 0.1


def test_a_growing_file_keeps_its_cuts() -> None:
    lines = [f"line {n} of one long file\n" for n in range(4000)]
    short, long = "".join(lines[:3900]), "".join(lines)
    assert piece_size(len(short)) == piece_size(len(long))
    size = piece_size(len(short))
    assert list(cuts(short, size))[:-1] == list(cuts(long, size))[: len(list(cuts(short, size))) - 1]


def test_equal_pieces_never_stand_on_both_sides() -> None:
    blocks = [f"{n % 7}{'x' * 126}\n" for n in range(40)]  # each just one piece of 128 characters
    text = "".join(blocks)
    assert piece_size(len(text)) == 128
    sides: list[set[str]] = [set(), set()]
    for part, split in follow(cut_documents([text], len(text), 0.3, seed=1), [text]):
        sides[split] |= set(part.splitlines())
    assert all(sides)
    assert not sides[0] & sides[1]


def test_a_text_that_repeats_itself_says_so() -> None:
    with pytest.raises(DataError, match="cannot be cut"):
        cut_documents([("x" * 127 + "\n") * 32], 128 * 32, 0.1, seed=0)


def test_the_big_piece_is_not_held_out_when_only_two_differ() -> None:
    text = "hello world\n" * 999 + "bye"
    parts = list(follow(cut_documents([text], len(text), 0.1, seed=0), [text]))
    assert sum(len(part) for part, split in parts if split) < 0.1 * len(text)


def test_sources_that_change_under_way_are_noticed() -> None:
    plan = whole_documents([digest("a"), digest("b")], 0.5, 0)
    for changed in (["a"], ["a", "c"]):
        with pytest.raises(DataError, match="changed"):
            list(follow(plan, changed))
