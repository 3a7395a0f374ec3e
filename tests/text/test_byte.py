from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formers.errors import DataError
from formers.text import ByteTokenizer


@given(st.text())
def test_ids_are_the_bytes_and_come_back_as_the_text(text: str):
    tokenizer = ByteTokenizer()
    ids = tokenizer.encode(text)
    assert ids == list(text.encode())
    assert tokenizer.decode(ids) == text
    assert tokenizer.encode_batch([text, ""]) == [ids, []]


def test_special_tokens_follow_the_bytes():
    tokenizer = ByteTokenizer(["<|endoftext|>", "<pad>"])
    assert tokenizer.special_tokens == {"<|endoftext|>": 256, "<pad>": 257}
    assert (tokenizer.vocab_size, tokenizer.end_of_text) == (258, 256)


def test_a_byte_cannot_be_special():
    with pytest.raises(DataError, match="also ordinary"):
        ByteTokenizer(["a"])
