"""The same shards for every objective: what a tokenizer lacks it is given, and the text stays as it was cut."""

from __future__ import annotations

import pytest

from formers.data import equip
from formers.data.texts import Frame
from formers.errors import ConfigError, DataError
from formers.text import encode_texts, load_tokenizer, train_tokenizer
from formers.text.extend import sentinels, with_special_tokens
from tests.data import texts

KINDS = ["wordpiece", "unigram", "bpe", "byte"]
OBJECTIVES = ["masked_token", "span_corruption", "source_to_target"]


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("kind", KINDS)
def test_text_keeps_its_ids_and_new_ones_come_behind(kind: str, objective: str):
    plain = texts.shards(kind)
    made = equip(plain, objective)
    own, wider = plain.tokenizer, made.tokenizer
    assert wider.special_tokens.items() >= own.special_tokens.items()
    assert min([*(wider.special_tokens.items() - own.special_tokens.items())] or [("", 0)], key=lambda t: t[1])[1] in (
        0,
        own.vocab_size,
    )
    assert made.vocab_size == wider.vocab_size
    assert [wider.encode(text) for text in texts.documents()] == [own.encode(text) for text in texts.documents()]
    assert wider.encode_batch(texts.documents()) == own.encode_batch(texts.documents())
    assert wider.end_of_text == own.end_of_text
    made.check_tokenizer(wider.fingerprint)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("kind", KINDS)
def test_whoever_opens_the_shards_again_finds_the_same_tokenizer(kind: str, objective: str, tmp_path):
    made = equip(texts.shards(kind), objective)
    assert equip(texts.shards(kind), objective).tokenizer.fingerprint == made.tokenizer.fingerprint
    made.tokenizer.save(tmp_path)
    assert load_tokenizer(tmp_path).fingerprint == made.tokenizer.fingerprint
    assert equip(made, objective) is made


def test_what_is_there_is_used():
    plain = texts.shards("wordpiece")
    assert equip(plain, "masked_token") is plain
    assert equip(plain, "source_to_target") is plain
    assert equip(plain, "next_token") is plain


@pytest.mark.parametrize("kind", KINDS)
def test_a_frame_is_start_text_separator(kind: str):
    tokenizer = equip(texts.shards(kind), "masked_token").tokenizer
    start, end = tokenizer.role("start"), tokenizer.role("separator")
    ids, types = Frame(tokenizer).around(*([7, 8], [9]))
    assert ids.tolist() == [start, 7, 8, end, 9, end]
    assert types.tolist() == [0, 0, 0, 0, 1, 1]
    assert Frame(tokenizer).added(pair=False) == 2


@pytest.mark.parametrize("kind", ["wordpiece", "unigram", "bpe"])
def test_texts_for_fine_tuning_are_framed_alike(kind: str):
    tokenizer = equip(texts.shards(kind), "masked_token").tokenizer
    text = texts.documents()[0]
    framed, _ = Frame(tokenizer).around(tokenizer.encode(text))
    assert encode_texts(tokenizer, [text]).input_ids[0].tolist() == framed.tolist()


def test_sentinels_count_down_from_the_end():
    tokenizer = equip(texts.shards("unigram"), "span_corruption").tokenizer
    found = sentinels(tokenizer)
    assert found == list(range(tokenizer.vocab_size - 1, tokenizer.vocab_size - 101, -1))
    assert tokenizer.decode([found[0]], show_special=True) == "<extra_id_0>"


def test_a_char_tokenizer_and_taken_names_are_refused():
    char = train_tokenizer("char", ["ab c"])
    with pytest.raises(DataError, match="--tokenizer wordpiece"):
        with_special_tokens(char, ["[MASK]"])
    with pytest.raises(DataError, match="doubled"):
        with_special_tokens(texts.tokenizer("wordpiece"), ["[MASK]"])


def test_an_unknown_objective_gets_a_suggestion():
    with pytest.raises(ConfigError, match="did you mean 'masked_token'"):
        equip(texts.shards("wordpiece"), "masked_tokens")
