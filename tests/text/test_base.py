"""What holds for every kind of tokenizer."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formers.errors import DataError
from formers.text import ByteTokenizer, Tokenizer, gpt2, train_tokenizer

TRAINING = "the theatre of the absurd — 東京 😀😀 isn't 12 naïve"
KINDS: dict[str, Tokenizer] = {
    "byte": ByteTokenizer(),
    "char": train_tokenizer("char", TRAINING + "<|endof>", unknown=True),
    "bpe": train_tokenizer("bpe", TRAINING, 280),
    "cl100k": train_tokenizer("bpe", TRAINING, 280, pattern="cl100k", special_tokens=["<|endoftext|>", "<|end|>"]),
    "gpt2": gpt2(),
}
each_kind = pytest.mark.parametrize("tokenizer", KINDS.values(), ids=KINDS.keys())
lossless = pytest.mark.parametrize("tokenizer", [KINDS[k] for k in KINDS if k != "char"])
TEXTS = [
    "",
    TRAINING,
    "\x00\r\n\t",
    "👩‍👩‍👧 שלום",
    "e\u0301 é",
    " " * 10_000,
    "a" * 3000,
    "".join(map(chr, range(256))),
]


@lossless
@given(text=st.text())
def test_every_text_comes_back(tokenizer: Tokenizer, text: str):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode_bytes(ids) == text.encode()
    assert all(0 <= i < tokenizer.vocab_size for i in ids)


@lossless
@pytest.mark.parametrize("text", TEXTS)
def test_strange_texts_come_back(tokenizer: Tokenizer, text: str):
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.encode_batch([text]) == [tokenizer.encode(text)]


@each_kind
@given(text=st.text(st.sampled_from(TRAINING + "<|endof>")))
def test_the_displayed_pieces_are_one_an_id_and_join_to_the_text(tokenizer: Tokenizer, text: str):
    pieces = tokenizer.display(text)
    assert "".join(pieces) == text
    assert len(pieces) == len(tokenizer.encode(text))


@each_kind
@given(data=st.data())
def test_streamed_text_is_the_decoded_text(tokenizer: Tokenizer, data: st.DataObject):
    ids = data.draw(st.lists(st.integers(0, min(tokenizer.vocab_size, 300) - 1)))
    for show in (False, True):
        stream = tokenizer.stream(show_special=show)
        assert "".join([stream.feed(i) for i in ids] + [stream.finish()]) == tokenizer.decode(ids, show_special=show)
        assert stream.feed(ids) + stream.finish() == tokenizer.decode(ids, show_special=show)


def test_a_stream_waits_for_whole_characters():
    stream = KINDS["byte"].stream()
    assert [stream.feed(i) for i in "é😀".encode()] == ["", "é", "", "", "", "😀"]
    stream.feed(0xF0)
    assert stream.finish() == "\ufffd"
    assert stream.feed(97) == "a"


@each_kind
def test_special_tokens_in_text_are_text_unless_asked_for(tokenizer: Tokenizer):
    text = "the<|endoftext|>theatre"
    end = tokenizer.end_of_text
    plain = tokenizer.encode(text)
    assert end not in plain
    assert tokenizer.encode_batch([text]) == [plain]
    special = tokenizer.encode(text, allow_special=True)
    assert special == [*tokenizer.encode("the"), end, *tokenizer.encode("theatre")]
    assert tokenizer.decode(special) == "thetheatre"
    assert tokenizer.decode(special, show_special=True) == text
    assert tokenizer.decode_bytes(special) == b"thetheatre"


def test_of_two_special_tokens_the_longer_one_is_meant():
    tokenizer = ByteTokenizer(["<|a|>", "<|a|><|b|>"])
    assert tokenizer.encode("<|a|><|b|><|a|>", allow_special=True) == [257, 256]


@each_kind
def test_an_id_outside_the_vocabulary_is_one_clear_error(tokenizer: Tokenizer):
    for wrong in (tokenizer.vocab_size, -100):
        with pytest.raises(DataError, match=f"token id {wrong} is not in the vocabulary"):
            tokenizer.decode([wrong])


@each_kind
@pytest.mark.parametrize(
    ("text", "says"), [("a\ud800", r"lone surrogate U\+D800 at character 1"), (b"bytes", "found bytes"), (None, "None")]
)
def test_what_is_no_text_is_one_clear_error(tokenizer: Tokenizer, text, says: str):
    with pytest.raises(DataError, match=says):
        tokenizer.encode(text)
    with pytest.raises(DataError, match=says):
        tokenizer.encode_batch(["fine", text])


@each_kind
def test_one_text_is_not_a_batch(tokenizer: Tokenizer):
    with pytest.raises(DataError, match="found one text"):
        tokenizer.encode_batch("text")


def test_fingerprints_tell_tokenizers_apart():
    more = [
        ByteTokenizer(["<pad>"]),
        train_tokenizer("char", TRAINING),
        train_tokenizer("char", TRAINING, special_tokens=["<|eot|>"]),
        train_tokenizer("bpe", TRAINING, 279),
        train_tokenizer("bpe", TRAINING, 280, pattern="cl100k"),
        train_tokenizer("bpe", TRAINING, 280, special_tokens=["<|eot|>"]),
    ]
    found = [tokenizer.fingerprint for tokenizer in [*KINDS.values(), *more]]
    assert len(set(found)) == len(found)
    assert all(len(fingerprint) == 64 for fingerprint in found)


def test_equal_tokenizers_have_equal_fingerprints():
    assert train_tokenizer("bpe", TRAINING, 280).fingerprint == KINDS["bpe"].fingerprint


def test_importing_formers_text_loads_nothing_heavy():
    heavy = "[name for name in ('torch', 'numpy', 'tokenizers', 'regex') if name in sys.modules]"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys, formers.text; print({heavy})"], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
