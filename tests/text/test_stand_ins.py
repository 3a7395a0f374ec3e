from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from tokenizers import pre_tokenizers

from formers.text.stand_ins import BYTE_ORDER, STAND_INS, from_stand_ins, to_stand_ins


def test_the_order_of_bytes_is_that_of_gpt2s_first_ids():
    places = {bytes([value]): place for place, value in enumerate(BYTE_ORDER)}
    known = {b"!": 0, b'"': 1, b"a": 64, b"\xff": 187, b"\x00": 188, b" ": 220}
    assert {token: places[token] for token in known} == known


def test_the_stand_ins_are_those_of_the_rust_library_and_sort_in_byte_order():
    assert sorted(STAND_INS) == sorted(pre_tokenizers.ByteLevel.alphabet())
    assert sorted(STAND_INS) == [STAND_INS[value] for value in BYTE_ORDER]
    assert to_stand_ins(b" \n") == "ĠĊ"


@given(st.binary())
def test_bytes_come_back_from_stand_ins(data: bytes):
    assert from_stand_ins(to_stand_ins(data)) == data
