"""The word-level tokenizer: Hugging Face's words, its trainer's vocabulary, its ids."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import models, pre_tokenizers, trainers

from formers.data import build, open_shards
from formers.errors import ConfigError, DataError
from formers.text import WordLevelTokenizer, encode_texts, load_tokenizer, train_tokenizer
from formers.text.word import train_word
from tests.text.words import TEXT

SPECIAL = ["[PAD]", "[UNK]", "<|endoftext|>"]
OURS, SMALL = train_word(TEXT), train_word(TEXT, 17)


def rust_trained(texts: list[str], size: int) -> tokenizers.Tokenizer:
    """What a user of the `tokenizers` library would write."""
    found = tokenizers.Tokenizer(models.WordLevel(unk_token="[UNK]"))
    found.pre_tokenizer = pre_tokenizers.Whitespace()
    found.train_from_iterator(
        texts, trainers.WordLevelTrainer(vocab_size=size, special_tokens=SPECIAL, show_progress=False)
    )
    return found


@pytest.mark.parametrize("size", [17, 700])
def test_its_vocabulary_is_the_one_of_the_rust_librarys_trainer(size: int, stdlib):
    texts = [TEXT, *stdlib(20_000)]
    ours, theirs = train_tokenizer("word", texts, size), rust_trained(texts, size)
    assert isinstance(ours, WordLevelTokenizer)
    assert ours.vocab_size == size
    assert ours.id_of | ours.special_tokens == theirs.get_vocab()


def test_ids_are_those_of_the_rust_library_on_varied_lines(stdlib, strange_texts: list[str]):
    texts = stdlib(20_000)
    ours, theirs = train_word(texts, 500), rust_trained(texts, 500)
    lines = ["\n".join(texts).splitlines()[number] for number in range(400)] + TEXT.splitlines()
    assert [ours.encode(line) for line in lines] == [found.ids for found in theirs.encode_batch(lines)]
    backend = ours._backend
    plain = [text for text in strange_texts if not backend.differing.in_text(text)]
    assert len(plain) > 900
    assert [ours.encode(text) for text in plain] == backend.encode(plain)
    assert ours.encode_batch(strange_texts) == [ours.encode(text) for text in strange_texts]


@given(text=st.text(st.sampled_from(TEXT + "[UNK]_\u0301\u200d\u00a0\u2028\x1cİ①²ⓐ")))
def test_every_text_has_the_ids_of_the_rust_library(text: str):
    theirs = tokenizers.Tokenizer.from_str(json.dumps(SMALL.to_json(special=False)))
    assert theirs.encode(text, add_special_tokens=False).ids == SMALL.encode(text)


def test_words_come_back_with_single_spaces_and_unknown_ones_are_unknown():
    ids = OURS.encode("  the actors\nran , 東京\tnowhere")
    assert OURS.decode(ids) == "the actors ran , 東京"
    assert OURS.decode(ids, show_special=True) == "the actors ran , 東京[UNK]"
    assert ids[-1] == OURS.role("unknown") == 1
    assert (OURS.role("pad"), OURS.end_of_text) == (0, 2)
    assert "".join(OURS.display("  the actors\tnowhere ")) == "  the actors\tnowhere "
    assert OURS.encode("[UNK] <|endoftext|>", allow_special=True) == [1, 2]
    assert 2 not in OURS.encode("the <|endoftext|>")


def test_lower_case_and_rare_words():
    assert train_tokenizer("word", "The the a A the", lower=True).encode("THE a") == [3, 4]
    assert train_tokenizer("word", "a b a", min_frequency=2).encode("a b") == [3, 1]


def test_texts_are_padded_to_one_length():
    batch = encode_texts(OURS, ["the actors ran", "the"])
    first, second = OURS.encode("the actors ran"), OURS.encode("the")
    assert batch.input_ids.tolist() == [first, [*second, 0, 0]]
    assert batch.index.tolist() == [[0, 1, 2], [0, -1, -1]]


@pytest.mark.parametrize("tokenizer", [SMALL, train_word(TEXT, special_tokens=(), lower=True)])
def test_what_is_saved_is_loaded_and_opens_elsewhere(tokenizer: WordLevelTokenizer, tmp_path: Path):
    tokenizer.save(tmp_path)
    assert load_tokenizer(tmp_path).fingerprint == tokenizer.fingerprint
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    ids = tokenizer.encode(TEXT)
    assert theirs.encode(TEXT).ids == ids
    assert theirs.decode(ids) == tokenizer.decode(ids)


def test_transformers_opens_the_folder_and_knows_what_its_tokens_are_for(tmp_path: Path):
    transformers = pytest.importorskip("transformers")
    SMALL.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert (theirs.pad_token, theirs.unk_token, theirs.eos_token) == tuple(SPECIAL)
    assert theirs("the actors ran")["input_ids"] == SMALL.encode("the actors ran")


def test_shards_are_built_with_it(tmp_path: Path):
    for name in "abcdefghij":
        (tmp_path / f"{name}.txt").write_text(f"the {name} ran to the theatre, {TEXT}")
    summary = build(sorted(tmp_path.glob("*.txt")), tmp_path / "shards", tokenizer="word", vocab_size=20, quiet=True)
    assert (summary.tokenizer_kind, summary.vocab_size) == ("word", 20)
    shards = open_shards(tmp_path / "shards")
    assert shards.tokenizer.decode(shards.document_tokens(0)).startswith("the")


def test_what_cannot_be_is_said():
    strict = train_tokenizer("word", "a b", special_tokens=())
    for encode in (strict.encode, lambda text: strict.encode_batch([text])):
        with pytest.raises(DataError, match=r"the word 'c'.*lacks"):
            encode("a c")
    with pytest.raises(ConfigError, match=r"without \[UNK\]"):
        train_tokenizer("word", "a b b", 1, special_tokens=())
    with pytest.raises(DataError, match="4 to 5: 2 words"):
        train_tokenizer("word", "a b", 6)
    with pytest.raises(DataError, match="4 to 5"):
        train_tokenizer("word", "a b", 3)
    with pytest.raises(DataError, match="empty"):
        train_tokenizer("word", " \n")
    contents = SMALL.to_json()
    contents["decoder"] = {"type": "BPEDecoder"}
    from formers.text.load import from_json

    with pytest.raises(DataError, match="the decoder BPEDecoder"):
        from_json(contents)
