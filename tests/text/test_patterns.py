from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formers.errors import ConfigError
from formers.text import split
from tests.text.conftest import ASSIGNED, SPLITTERS, rust_pieces

MIXED = "I'm HERE, DON'T 12345!!\n\n  x"
SHORT = "we're I've they'll he'd it's don't I'm"
SHORT_PIECES = ["we", "'re", " I", "'ve", " they", "'ll", " he", "'d", " it", "'s", " don", "'t", " I", "'m"]
GOLDEN = {
    "gpt2": {
        SHORT: SHORT_PIECES,
        "Hello  world": ["Hello", " ", " world"],
        MIXED: ["I", "'m", " HERE", ",", " DON", "'", "T", " 12345", "!!", "\n\n ", " x"],
        "a   \n b": ["a", "   \n", " b"],
        "tabs\t\tend ": ["tabs", "\t", "\t", "end", " "],
        "don’t": ["don", "’", "t"],
        "_foo_bar": ["_", "foo", "_", "bar"],
        "x\u00a0y": ["x", "\u00a0", "y"],
        "東京 123": ["東京", " 123"],
        "": [],
    },
    "cl100k": {
        SHORT: SHORT_PIECES,
        MIXED: ["I", "'m", " HERE", ",", " DON", "'T", " ", "123", "45", "!!\n\n", " ", " x"],
        "tabs\t\tend ": ["tabs", "\t", "\tend", " "],
        "don’t": ["don", "’t"],
        "_foo_bar": ["_foo", "_bar"],
        "x\u00a0y": ["x", "\u00a0y"],
        "東京 123": ["東京", " ", "123"],
        "\n ": ["\n", " "],  # the original form of the pattern; tiktoken's later one gives ["\n "]
        "": [],
    },
}
CASES = [(name, text, pieces) for name, cases in GOLDEN.items() for text, pieces in cases.items()]
strange = st.text(st.one_of(st.sampled_from(SPLITTERS), st.sampled_from("abstmdrelvSTLV"), st.sampled_from(ASSIGNED)))


@pytest.mark.parametrize(("name", "text", "pieces"), CASES)
def test_text_is_split_where_the_papers_pattern_splits_it(name: str, text: str, pieces: list[str]):
    assert split(text, name) == pieces
    assert rust_pieces(text, name) == pieces


@pytest.mark.parametrize("name", GOLDEN)
@given(text=strange)
def test_the_rust_library_splits_alike(name: str, text: str):
    assert split(text, name) == rust_pieces(text, name)


@pytest.mark.parametrize("name", GOLDEN)
def test_a_thousand_strange_texts_are_split_as_in_rust(name: str, strange_texts: list[str]):
    assert [split(text, name) for text in strange_texts] == [rust_pieces(text, name) for text in strange_texts]


@pytest.mark.parametrize("name", [*GOLDEN, r"\w+", r"(a)|b", "x*"])
@given(text=st.text())
def test_the_pieces_joined_are_the_text(name: str, text: str):
    pieces = split(text, name)
    assert "".join(pieces) == text
    assert "" not in pieces


def test_what_a_pattern_of_ones_own_leaves_out_is_a_piece_too():
    assert split("ab, cd", r"\w+") == ["ab", ", ", "cd"]


def test_a_broken_pattern_is_one_clear_error():
    with pytest.raises(ConfigError, match="is not a split pattern"):
        split("text", "(")
