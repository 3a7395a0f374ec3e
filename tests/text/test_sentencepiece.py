"""Sentencepiece's files: read from bytes that the tests write, and the rules that families put around them."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from formers.errors import ConfigError, DataError
from formers.text import load_sentencepiece, load_tokenizer
from formers.text.charsmap import CharsMap
from formers.text.sentencepiece import FAMILIES, USER_DEFINED, parse
from tests.text.words import PIECES, charsmap, sentencepiece_file

ENTRIES = {
    "\t": " ",
    "\n": " ",
    "\u3000": " ",
    "ﬁ": "fi",
    "e\u0301": "é",
    "ª": "a",
    "ｶ": "カ",
    "\x00": "",
    "1\u20442": "½",
    "Ａ": "A",
}
ENTRIES.pop("\x00")
MAP = charsmap(ENTRIES)


@given(text=st.text(st.sampled_from("\t\n\u3000ﬁfie\u0301ªｶ\uff9e1\u20442ＡxyZ 😀\u200d\r")))
def test_a_charsmap_normalises_as_in_the_rust_library(text: str):
    ours, theirs = CharsMap(MAP), tokenizers.normalizers.Precompiled(MAP)
    assert ours(text) == theirs.normalize_str(text)
    assert "".join(new for new, _ in ours.pieces(text)) == ours(text)
    assert sum(used for _, used in ours.pieces(text)) == len(text)


@pytest.mark.parametrize("data", [b"", b"\x01\x00\x00\x00", MAP[:40], b"\x07\x00\x00\x00" * 9])
def test_a_damaged_charsmap_is_one_clear_error(data: bytes):
    with pytest.raises(DataError, match="a charsmap of"):
        CharsMap(data)


def write(folder: Path, data: bytes, model_type: str | None = None) -> Path:
    (folder / "spiece.model").write_bytes(data)
    if model_type:
        (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    return folder / "spiece.model"


def test_the_fields_that_matter_are_read():
    model = parse(sentencepiece_file(PIECES, charsmap=MAP, byte_fallback=True, trims=False))
    assert [(name, pytest.approx(score), kind) for name, score, kind in model.pieces] == PIECES
    assert (model.charsmap, model.byte_fallback, model.remove_extra_whitespaces) == (MAP, True, False)
    assert model.add_dummy_prefix
    assert list(model.of_type(USER_DEFINED)) == ["-"]


def test_by_its_own_rules_white_space_is_collapsed_and_symbols_are_whole(tmp_path: Path):
    path = write(tmp_path, sentencepiece_file(PIECES, charsmap=MAP, byte_fallback=True))
    found = load_tokenizer(path)
    tokens = {**found.names, **{i: name for name, i in found.special_tokens.items()}}  # pyright: ignore
    spell = lambda text: " ".join(tokens[i] for i in found.encode(text))  # noqa: E731
    assert spell("  the\t\u3000the-x ") == "▁the ▁the - x"
    assert spell("x😀") == "▁x <0xF0> <0x9F> <0x98> <0x80>"
    assert found.encode("</s>").count(1) == 0
    assert found.decode(found.encode(" the  the 😀")) == "the the 😀"
    assert load_tokenizer(tmp_path).fingerprint == found.fingerprint


def test_without_trimming_and_prefix_spaces_stay(tmp_path: Path):
    path = write(tmp_path, sentencepiece_file(PIECES, trims=False, prefix=False, byte_fallback=True))
    found = load_sentencepiece(path)
    assert found.decode(found.encode("x  the ")) == "x  the "
    assert found.decode(found.encode(" x")) == " x"


@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_family_makes_is_saved_and_opened_by_the_rust_library(family: str, tmp_path: Path):
    write(tmp_path, sentencepiece_file(PIECES, charsmap=MAP), None if family == "sentencepiece" else family)
    ours = load_tokenizer(tmp_path)
    ours.save(tmp_path / "saved")
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "saved" / "tokenizer.json"))
    for text in ("the-heart (x) ﬁ  the\tx", "", " ", "😀 e\u0301 ｶ", "``the'' Ａ ½"):
        assert ours.encode(text) == theirs.encode(text, add_special_tokens=False).ids
        assert ours.encode_batch([text]) == [ours.encode(text)]
    assert load_tokenizer(tmp_path / "saved").fingerprint == ours.fingerprint


def test_the_families_differ_where_they_say(tmp_path: Path):
    path = write(tmp_path, sentencepiece_file(PIECES, charsmap=MAP))
    found = {family: load_sentencepiece(path, like=family) for family in FAMILIES}
    x, the_x = found["t5"].id_of["x"], found["t5"].id_of["▁x"]
    assert found["sentencepiece"].encode("the-x")[-1] == x
    assert found["albert"].encode("the-x")[-1] == the_x
    assert found["albert"].encode("THE") == found["sentencepiece"].encode("the")
    assert found["deberta-v2"].special_tokens["[MASK]"] == len(PIECES)
    assert found["t5"].special_tokens["<extra_id_0>"] == len(PIECES) + 99
    assert len({f.fingerprint for f in found.values()}) == 4


def test_a_longt5_has_the_words_of_a_t5(tmp_path: Path):
    path = write(tmp_path, sentencepiece_file(PIECES, charsmap=MAP), "longt5")
    assert load_tokenizer(tmp_path).fingerprint == load_sentencepiece(path, like="t5").fingerprint


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "without pieces"),
        (b"hello, this is no protocol buffer", "not a sentencepiece model|breaks off|without pieces"),
        (sentencepiece_file(PIECES)[:-7], "breaks off"),
        (sentencepiece_file(PIECES)[:1000], "breaks off"),
        (sentencepiece_file(PIECES, model_type=2), "a sentencepiece model of type bpe"),
        (sentencepiece_file(PIECES, charsmap=b"12"), "a charsmap of 2 bytes"),
        (b"\x08\x05", "not a sentencepiece model"),
    ],
)
def test_a_damaged_file_is_one_clear_error(data: bytes, says: str, tmp_path: Path):
    with pytest.raises(DataError, match=says):
        load_sentencepiece(write(tmp_path, data))


def test_a_missing_file_and_an_unknown_family_are_one_clear_error(tmp_path: Path):
    with pytest.raises(DataError, match="cannot read"):
        load_sentencepiece(tmp_path / "spm.model")
    with pytest.raises(ConfigError, match="did you mean 'albert'"):
        load_sentencepiece(tmp_path / "spm.model", like="alberta")


def test_the_charsmap_stands_in_the_saved_file_as_it_was(tmp_path: Path):
    found = load_sentencepiece(write(tmp_path, sentencepiece_file(PIECES, charsmap=MAP)))
    step = found.to_json()["normalizer"]["normalizers"][0]
    assert base64.b64decode(step["precompiled_charsmap"]) == MAP


def test_the_sentencepiece_library_agrees_on_plain_text(tmp_path: Path):
    library = pytest.importorskip("sentencepiece")
    path = write(tmp_path, sentencepiece_file(PIECES, byte_fallback=True))
    theirs, ours = library.SentencePieceProcessor(model_file=str(path)), load_sentencepiece(path)
    for text in ("the-heart x", "  the  the ", "😀x", "<0x41>", "</s>", "x - x--x"):
        assert ours.encode(text) == theirs.encode(text)
