"""Batches: framing, truncation, windows and padding as the Rust library does them, and errors that say what to do."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
import tokenizers

from formers.errors import ConfigError, DataError
from formers.text import Tokenizer, encode_texts, gpt2, train_tokenizer
from formers.text.template import read
from tests.text.words import TEXT, unigram, wordpiece

WORDS = TEXT.split()
KINDS = {"wordpiece": wordpiece(), "unigram": unigram(), "bpe": train_tokenizer("bpe", TEXT, 280)}
each_kind = pytest.mark.parametrize("ours", KINDS.values(), ids=KINDS)


def rust(ours: Tokenizer) -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_str(json.dumps(ours.to_json()))


def texts(count: int, longest: int, seed: int) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randrange(longest))) for _ in range(count)]


def rows_equal(batch, row: int, wanted: tokenizers.Encoding, *, ids_alone: bool = False) -> None:
    kept = batch.mask[row]
    assert batch.input_ids[row][kept].tolist() == wanted.ids
    if ids_alone:
        return
    assert batch.token_types[row][kept].tolist() == wanted.type_ids
    assert batch.which[row][kept].tolist() == [-1 if which is None else which for which in wanted.sequence_ids]
    assert batch.index[row][kept].tolist() == list(range(len(wanted.ids)))


@each_kind
def test_texts_and_pairs_are_framed_as_in_the_rust_library(ours: Tokenizer):
    one, two = texts(12, 9, 1), texts(12, 9, 2)
    for row, found in enumerate(rust(ours).encode_batch(one)):
        rows_equal(encode_texts(ours, one), row, found)
    for row, found in enumerate(rust(ours).encode_batch(list(zip(one, two, strict=True)))):
        rows_equal(encode_texts(ours, one, two), row, found)


@each_kind
@pytest.mark.parametrize("truncation", ["longest_first", "only_first", "only_second"])
def test_pairs_are_truncated_as_in_the_rust_library(ours: Tokenizer, truncation: str):
    theirs, compared = rust(ours), 0
    for max_length in (9, 10, 17, 31):
        theirs.enable_truncation(max_length, strategy=truncation)
        for one, two in zip(texts(25, 12, 3), texts(25, 12, 4), strict=True):
            try:
                batch = encode_texts(ours, [one], [two], max_length=max_length, truncation=truncation)
            except DataError:
                continue
            rows_equal(batch, 0, theirs.encode(one, two))
            compared += 1
    assert compared > 40


@each_kind
@pytest.mark.parametrize("stride", [0, 1, 5])
@pytest.mark.parametrize("pair", [False, True])
def test_long_texts_become_windows_as_in_the_rust_library(ours: Tokenizer, stride: int, pair: bool):
    theirs, truncation = rust(ours), "only_second" if pair else "longest_first"
    theirs.enable_truncation(20, stride=stride, strategy=truncation)
    question = ["the actors"] if pair else []
    for text in texts(20, 90, 5):
        arguments = (question, [text]) if pair else ([text],)
        batch = encode_texts(ours, *arguments, max_length=20, truncation=truncation, stride=stride, offsets=True)
        wanted = theirs.encode(*question, text)
        assert len(batch.input_ids) == 1 + len(wanted.overflowing)
        for row, found in enumerate([wanted, *wanted.overflowing]):
            # The library leaves its default types in further windows of pairs, and says not which text they are of.
            rows_equal(batch, row, found, ids_alone=pair and ours.kind != "wordpiece")
        cover_the_text(batch, text, 1 if pair else 0)


def cover_the_text(batch, text: str, which: int) -> None:
    """Every character that is no space stands in some window, where the offsets say."""
    covered = np.zeros(len(text), bool)
    for start, end in batch.offsets[batch.which == which]:
        covered[start:end] = True
    assert "".join(char for char, seen in zip(text, covered, strict=True) if not seen).strip() == ""


def test_rows_know_their_sample_and_windows_their_place():
    batch = encode_texts(wordpiece(), ["the end", TEXT, "ran"], max_length=16, truncation="only_first", stride=2)
    assert batch.sample[0] == 0
    assert batch.sample[-1] == 2
    assert set(batch.sample[1:-1]) == {1}
    assert batch.offsets is None


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_is_marked_and_changes_nothing_else(side: str):
    ours = wordpiece()
    batch = encode_texts(ours, ["the", TEXT], pad_side=side, multiple_of=8, offsets=True)
    assert batch.input_ids.shape[1] % 8 == 0
    assert batch.input_ids.dtype == batch.index.dtype == batch.sample.dtype == np.int64
    length = int(batch.mask[0].sum())
    here = slice(0, length) if side == "right" else slice(-length, None)
    alone = encode_texts(ours, ["the"])
    assert (batch.input_ids[0, here] == alone.input_ids[0]).all()
    assert batch.index[0, here].tolist() == list(range(length))
    out = ~batch.mask[0]
    assert (batch.input_ids[0, out] == ours.role("pad")).all()
    assert (batch.index[0, out] == -1).all()
    assert (batch.which[0, out] == -1).all()
    assert encode_texts(ours, ["the"], max_length=30, padding="max_length").input_ids.shape == (1, 30)


def test_special_tokens_can_be_left_out_or_let_in():
    ours = wordpiece()
    assert encode_texts(ours, ["the ran"], special=False).input_ids[0].tolist() == ours.encode("the ran")
    mask = ours.role("mask")
    assert mask in encode_texts(ours, ["the [MASK]"], allow_special=True).input_ids
    assert mask in encode_texts(ours, ["the [MASK]"], allow_special=True, offsets=True).input_ids
    assert mask not in encode_texts(ours, ["the [MASK]"]).input_ids


def test_offsets_of_byte_level_tokens_are_characters():
    text = "naïve 😀 x"
    batch = encode_texts(gpt2(), [text], offsets=True)
    theirs = tokenizers.Tokenizer.from_str(json.dumps(gpt2().to_json())).encode(text)
    assert batch.offsets is not None
    assert [tuple(span) for span in batch.offsets[0].tolist()] == theirs.offsets


def test_a_bert_post_processor_is_the_same_frame():
    old = {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]}
    assert read(old) == read(wordpiece().template)


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"texts": []}, DataError, "a batch of nothing"),
        ({"texts": "the"}, DataError, "found one text"),
        ({"texts": ["the", 5]}, DataError, "found int"),
        ({"texts": ["the"], "pairs": ["a", "b"]}, DataError, "1 texts and 2 to pair them with"),
        ({"texts": ["ran", TEXT], "max_length": 20}, DataError, r"text 1 has \d+ tokens\n  wanted: at most 18"),
        ({"texts": [TEXT], "max_length": 2, "truncation": "only_first"}, DataError, "leaves 0 tokens"),
        ({"texts": [TEXT], "max_length": 9, "truncation": "only_first", "stride": 7}, DataError, "7 of overlap"),
        (
            {"texts": [TEXT], "pairs": ["x"], "max_length": 9, "truncation": "only_second"},
            DataError,
            "text 0: max_length 9",
        ),
        ({"texts": ["x"], "truncation": "longest"}, ConfigError, "did you mean 'longest_first'"),
        ({"texts": ["x"], "truncation": "only_first"}, ConfigError, "truncation without max_length"),
        ({"texts": ["x"], "padding": "max_length"}, ConfigError, "max_length without max_length"),
        ({"texts": ["x"], "max_length": 9, "stride": 3}, ConfigError, "stride=3 with truncation=None"),
        ({"texts": ["x"], "max_length": 9, "truncation": "only_second"}, ConfigError, "only_second without pairs"),
        (
            {"texts": ["x"], "pairs": ["y"], "max_length": 9, "truncation": "longest_first", "stride": 1},
            ConfigError,
            "windows of pairs",
        ),
        ({"texts": ["x"], "pad_side": "up", "multiple_of": 0}, ConfigError, "pad_side='up'.*multiple_of=0"),
    ],
)
def test_what_cannot_be_encoded_is_one_clear_error(arguments: dict, error: type, says: str):
    with pytest.raises(error, match=says):
        encode_texts(wordpiece(), **arguments)


def test_empty_texts_are_rows_of_special_tokens():
    batch = encode_texts(wordpiece(), ["", "the"])
    assert batch.mask.sum(1).tolist() == [2, 2 + len(wordpiece().encode("the"))]
    assert encode_texts(wordpiece(), [""], special=False).input_ids.shape == (1, 0)
