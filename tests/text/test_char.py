from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formers.errors import DataError
from formers.text import CharTokenizer, train_tokenizer
from formers.text.char import train_char


@given(st.text(min_size=1))
def test_text_comes_back(text: str):
    tokenizer = train_char(text)
    ids = tokenizer.encode(text)
    assert len(ids) == len(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.display(text) == list(text)


def test_characters_come_by_falling_count_after_the_special_tokens():
    tokenizer = train_char("bbbaacc", special_tokens=["<|endoftext|>", "<pad>"])
    assert tokenizer.vocab == {"b": 2, "a": 3, "c": 4}
    assert tokenizer.vocab_size == 5


def test_unknown_characters_are_one_error_that_names_them_all():
    with pytest.raises(DataError, match=r"2 characters .*'!' \(U\+0021\), 'é' \(U\+00E9\)"):
        train_char("hello").encode("hélé!")


def test_of_many_unknown_characters_twenty_are_named():
    with pytest.raises(DataError, match=r"30 characters.* and 10 more"):
        train_char("hello").encode("".join(chr(0x4E00 + i) for i in range(30)))


def test_unknown_characters_become_u_fffd_where_that_was_asked_for():
    tokenizer = train_char("hello", unknown=True)
    assert tokenizer.decode(tokenizer.encode("help!")) == "hel\ufffd\ufffd"
    assert tokenizer.display("help!") == list("help!")


def test_u_fffd_in_the_text_is_a_character_and_no_leave_to_replace_others():
    with pytest.raises(DataError, match="lacks"):
        train_char("a\ufffd").encode("b")


def test_a_smaller_vocabulary_is_a_prefix_of_a_larger_one():
    text = "the rain in spain stays mainly in the plain"
    sizes = [list(train_char(text, size, unknown=True).vocab.items()) for size in (4, 7, None)]
    assert sizes[0] == sizes[1][:3] == sizes[2][:3]
    assert sizes[1] == sizes[2][:6]


@pytest.mark.parametrize(
    ("text", "size", "says"),
    [
        ("abc", 99, "larger than this text supports\n  wanted: at most 4"),
        ("abc", 3, "no room for the 3 characters"),
        ("", None, "the text is empty"),
        (["", ""], None, "the text is empty"),
    ],
)
def test_a_size_that_the_text_does_not_support_is_one_clear_error(text, size: int | None, says: str):
    with pytest.raises(DataError, match=says):
        train_tokenizer("char", text, size)


def test_a_vocabulary_that_replaces_must_hold_the_replacement():
    with pytest.raises(DataError, match=r"U\+FFFD"):
        CharTokenizer("abc", unknown=True)
