"""WordPiece: the golden cuts of BERT's own tests, and the Rust library on strange text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from formers.errors import ConfigError, DataError
from formers.text import load_tokenizer, load_vocab_txt, train_tokenizer
from formers.text.wordpiece import bert_pipeline, from_vocabulary
from tests.text.words import TEXT, wordpiece

WORDS = "[UNK] un ##aff ##able want ##ed runn ##ing , a ##b c ! u".split()
GOLDEN = from_vocabulary(WORDS, bert_pipeline(lower=True))
BOTH = pytest.mark.parametrize("lower", [True, False], ids=["uncased", "cased"])


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("unaffable", "un ##aff ##able"),
        ("UNwantéd,running", "[UNK] , runn ##ing"),
        ("abc", "[UNK]"),
        ("abx", "[UNK]"),
        ("a\u200bb", "a ##b"),
        ("a!b", "a ! [UNK]"),
        ("東a", "[UNK] a"),
        ("a" + "b" * 99, "a" + " ##b" * 99),
        ("a" + "b" * 100, "[UNK]"),
        ("", ""),
        (" \t\n", ""),
    ],
)
def test_words_are_cut_greedily_or_unknown(text: str, pieces: str):
    names = GOLDEN.names | {i: name for name, i in GOLDEN.special_tokens.items()}
    assert [names[i] for i in GOLDEN.encode(text)] == pieces.split()


@BOTH
@given(text=st.text(st.sampled_from(TEXT + " [MASK]#'\u0301\u0307İΣßéÅ\u00ad\u2028\x85\x1c가ﬁ")))
def test_every_text_has_the_ids_of_the_rust_library(lower: bool, text: str):
    ours = wordpiece(lower=lower)
    assert ours.encode_batch([text]) == [ours.encode(text)]
    theirs = tokenizers.Tokenizer.from_str(json.dumps(ours.to_json(special=False)))
    assert theirs.encode(text, add_special_tokens=False).ids == ours.encode(text)


@BOTH
def test_strange_texts_have_the_ids_of_the_rust_library(lower: bool, strange_texts: list[str]):
    ours = wordpiece(lower=lower)
    strange_texts = strange_texts[:300]
    here = [text for text in strange_texts if ours._backend.differing.in_text(text)]
    theirs = ours._backend.encode(strange_texts)
    wrong = [text for text, ids in zip(strange_texts, theirs, strict=True) if ids != ours.encode(text)]
    assert set(wrong) <= set(here)
    assert len(here) < 30
    assert ours.encode_batch(strange_texts) == [ours.encode(text) for text in strange_texts]


@BOTH
def test_transformers_opens_the_folder_and_agrees(lower: bool, tmp_path: Path):
    transformers = pytest.importorskip("transformers")
    ours = wordpiece(lower=lower)
    ours.save(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    for opener in (transformers.AutoTokenizer, transformers.PreTrainedTokenizerFast):
        theirs = opener.from_pretrained(tmp_path)
        found = theirs("Straßen [MASK] é!", "the theatre")
        first, second = ours.encode("Straßen [MASK] é!", allow_special=True), ours.encode("the theatre")
        assert found["input_ids"] == [2, *first, 3, *second, 3]
        assert found["token_type_ids"] == [0] * (len(first) + 2) + [1] * (len(second) + 1)
        assert (theirs.mask_token, theirs.pad_token, theirs.cls_token) == ("[MASK]", "[PAD]", "[CLS]")
        assert theirs.decode(ours.encode(TEXT)) == ours.decode(ours.encode(TEXT))
    theirs.save_pretrained(tmp_path / "theirs")
    assert load_tokenizer(tmp_path / "theirs").fingerprint == ours.fingerprint
    assert load_tokenizer(tmp_path).fingerprint == ours.fingerprint


def test_offsets_cut_the_original_text():
    text = "  Náïve 東京, (ran)"
    ids, spans = wordpiece().encode_offsets(text)
    assert ids == wordpiece().encode(text)
    words = [text[start:end] for start, end in spans]
    assert "".join(words) == "Náïve東京,(ran)"
    assert "".join(wordpiece().display(text)) == text
    assert len(wordpiece().display(text)) == len(ids)


def test_special_tokens_are_text_unless_asked_for():
    mask = wordpiece().special_tokens["[MASK]"]
    assert mask not in wordpiece().encode("the [MASK] ran")
    assert wordpiece().encode("the [MASK] ran", allow_special=True).count(mask) == 1
    assert wordpiece().role("mask") == mask
    assert wordpiece().end_of_text == wordpiece().special_tokens["[SEP]"]


@pytest.mark.parametrize(("config", "lower"), [(None, True), ({"do_lower_case": False}, False)])
def test_a_vocab_txt_is_read(tmp_path: Path, config: dict | None, lower: bool):
    names = wordpiece().names | {i: name for name, i in wordpiece().special_tokens.items()}
    (tmp_path / "vocab.txt").write_text("".join(f"{names[i]}\n" for i in range(len(names))))
    if config is not None:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    found = load_tokenizer(tmp_path)
    assert (found.fingerprint == wordpiece().fingerprint) == lower
    assert load_vocab_txt(tmp_path / "vocab.txt").fingerprint == wordpiece().fingerprint


@pytest.mark.parametrize(
    "settings",
    [
        {"do_lower_case": True, "strip_accents": False},
        {"do_lower_case": False, "strip_accents": True},
        {"tokenize_chinese_chars": False},
        {"do_lower_case": None, "strip_accents": None},
    ],
    ids=str,
)
def test_what_a_vocab_txt_leaves_open_is_told_beside_it(tmp_path: Path, settings: dict):
    """As German and Japanese BERTs have it: their umlauts are letters, their words no single characters."""
    transformers = pytest.importorskip("transformers")
    words = [*"[PAD] [UNK] [CLS] [SEP] [MASK] Größe größe große Grosse grosse Grose grose".split(), "東京", "東", "京"]
    (tmp_path / "vocab.txt").write_text("".join(f"{word}\n" for word in words), encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    ours, said = load_tokenizer(tmp_path), {name: value for name, value in settings.items() if value is not None}
    theirs = transformers.BertTokenizer(vocab={w: i for i, w in enumerate(words)}, **{"do_lower_case": False} | said)
    for text in ("Größe große Grosse", "GRÖSSE größe", "東京 東 京", "東京Größe"):
        assert ours.encode(text) == theirs(text, add_special_tokens=False)["input_ids"]


def test_a_vocab_txt_with_capitals_is_cased(tmp_path: Path):
    (tmp_path / "vocab.txt").write_text("[UNK]\nThe\nthe\n##s\n")
    assert load_tokenizer(tmp_path).encode("The thes") == [1, 2, 3]
    (tmp_path / "vocab.txt").write_text("the\n")
    with pytest.raises(DataError, match=r"no \[UNK\]"):
        load_tokenizer(tmp_path)


def test_training_merges_the_most_frequent_pairs_first():
    found = train_tokenizer("wordpiece", "aab aab aab ab cab", 12)
    assert [found.names[i] for i in range(5, 12)] == ["a", "c", "##a", "##b", "##ab", "aab", "ab"]
    larger = train_tokenizer("wordpiece", "aab aab aab ab cab", 13)
    assert {name: i for i, name in larger.names.items() if i < 12} == {name: i for i, name in found.names.items()}


def test_the_alphabet_can_be_limited():
    found = train_tokenizer("wordpiece", "aaa bbb ccc aa bb a", 10, alphabet=2)
    assert found.encode("ccc") == [found.special_tokens["[UNK]"]]
    assert found.special_tokens["[UNK]"] not in found.encode("aaa bbb")


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"vocab_size": None}, ConfigError, "without vocab_size"),
        ({"vocab_size": 8}, DataError, "smaller than the alphabet"),
        ({"vocab_size": 9000}, DataError, r"larger than this text supports\n  wanted: at most \d\d"),
        ({"vocab_size": 50, "special_tokens": ["[CLS]"]}, ConfigError, r"without \[UNK\]"),
        ({"vocab_size": 50, "pattern": "gpt2"}, ConfigError, "has no options"),
        ({"vocab_size": 50, "texts": " "}, DataError, "the text is empty"),
    ],
)
def test_what_cannot_be_trained_is_one_clear_error(options: dict, error: type, says: str):
    with pytest.raises(error, match=says):
        train_tokenizer("wordpiece", **{"texts": "the theatre ran and ran to the end", **options})


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"normalizer": {"type": "Nmt"}}, "the normalizer Nmt"),
        ({"pre_tokenizer": {"type": "Digits", "individual_digits": True}}, "the pre_tokenizer Digits"),
        ({"decoder": {"type": "BPEDecoder"}}, "the decoder BPEDecoder"),
        ({"added_tokens": [{"id": 7, "content": "zzz", "special": False}]}, "'zzz', added to the vocabulary"),
        ({"added_tokens": [{"id": 999, "content": "the", "special": True}]}, "one id in the vocabulary"),
        ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "=!"}}, "that is not base64"),
        ({"normalizer": {"type": "Replace", "pattern": {"Regex": "("}, "content": ""}}, "the normalizer Replace"),
    ],
)
def test_a_file_that_asks_for_more_is_refused(changes: dict, says: str, tmp_path: Path):
    (tmp_path / "tokenizer.json").write_text(json.dumps(wordpiece().to_json() | changes))
    with pytest.raises(DataError, match=says):
        load_tokenizer(tmp_path)
