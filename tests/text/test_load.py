"""tokenizer.json, written and read by us, by `tokenizers` and by transformers."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import tokenizers

from formers.errors import DataError
from formers.text import BPETokenizer, Tokenizer, gpt2, load_tokenizer, train_tokenizer
from formers.text.load import from_json

TEXT = "the theatre — 東京\n\n 😀\tit's DON'T 12345  é \r\n "
ONE_BYTE = [bytes([value]) for value in range(256)]
KINDS: dict[str, Tokenizer] = {
    "byte": train_tokenizer("byte", special_tokens=["<|endoftext|>", "<pad>"]),
    "char": train_tokenizer("char", TEXT),
    "char with unknown": train_tokenizer("char", TEXT, unknown=True),
    "bpe": train_tokenizer("bpe", TEXT, 280),
    "bpe without merges": train_tokenizer("bpe", TEXT, 257),
    "cl100k": train_tokenizer("bpe", TEXT, 280, pattern="cl100k", special_tokens=["<s>", "</s>", "<pad>"]),
    "whole pieces": BPETokenizer(dict(enumerate([*ONE_BYTE, b" theatre"])), [], {"</s>": 257}, whole_pieces=True),
}
each_kind = pytest.mark.parametrize("tokenizer", KINDS.values(), ids=KINDS.keys())
each_kind_and_gpt2 = pytest.mark.parametrize("tokenizer", [*KINDS.values(), gpt2()], ids=[*KINDS, "gpt2"])


@each_kind_and_gpt2
def test_what_is_saved_is_loaded_again(tokenizer: Tokenizer, tmp_path: Path):
    tokenizer.save(tmp_path / "deep" / "folder")
    for place in (tmp_path / "deep" / "folder", tmp_path / "deep" / "folder" / "tokenizer.json"):
        loaded = load_tokenizer(place)
        assert type(loaded) is type(tokenizer)
        assert loaded.fingerprint == tokenizer.fingerprint
        assert loaded.end_of_text == tokenizer.end_of_text
        assert loaded.encode(TEXT) == tokenizer.encode(TEXT)


@each_kind
def test_saving_leaves_no_half_written_files(tokenizer: Tokenizer, tmp_path: Path):
    tokenizer.save(tmp_path)
    tokenizer.save(str(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tokenizer.json", "tokenizer_config.json"]


@each_kind
def test_the_rust_library_opens_our_file(tokenizer: Tokenizer, tmp_path: Path):
    tokenizer.save(tmp_path)
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    ids = tokenizer.encode(TEXT)
    assert theirs.encode(TEXT).ids == ids
    assert theirs.decode(ids) == TEXT
    assert theirs.get_vocab_size() == tokenizer.vocab_size


def test_the_rust_library_treats_unknown_characters_as_we_do(tmp_path: Path):
    KINDS["char with unknown"].save(tmp_path)
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert theirs.encode("théX").ids == KINDS["char with unknown"].encode("théX")
    KINDS["char"].save(tmp_path)
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    with pytest.raises(Exception, match="UNK"):
        theirs.encode("X")


@each_kind_and_gpt2
def test_transformers_opens_our_folder(tokenizer: Tokenizer, tmp_path: Path):
    transformers = pytest.importorskip("transformers")
    tokenizer.save(tmp_path)
    transformers_agrees(transformers.AutoTokenizer.from_pretrained(tmp_path), tokenizer)


@pytest.mark.parametrize("model_type", ["gpt2", "llama"])
def test_the_tokenizer_class_of_a_model_does_not_take_over(model_type: str, tmp_path: Path):
    transformers = pytest.importorskip("transformers")
    KINDS["cl100k"].save(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    for opener in (transformers.AutoTokenizer, transformers.PreTrainedTokenizerFast):
        transformers_agrees(opener.from_pretrained(tmp_path), KINDS["cl100k"])


def transformers_agrees(theirs, ours: Tokenizer) -> None:
    ids = ours.encode(TEXT)
    assert theirs(TEXT)["input_ids"] == ids
    assert theirs.decode(ids) == TEXT
    assert theirs.eos_token_id == ours.end_of_text
    assert len(theirs) == ours.vocab_size


@each_kind
def test_what_transformers_saves_is_the_same_tokenizer(tokenizer: Tokenizer, tmp_path: Path):
    transformers = pytest.importorskip("transformers")
    tokenizer.save(tmp_path / "ours")
    transformers.AutoTokenizer.from_pretrained(tmp_path / "ours").save_pretrained(tmp_path / "theirs")
    assert load_tokenizer(tmp_path / "theirs").fingerprint == tokenizer.fingerprint


def test_a_tokenizer_trained_with_the_rust_library_is_read(tmp_path: Path):
    theirs = tokenizers.ByteLevelBPETokenizer()
    theirs.train_from_iterator([TEXT], vocab_size=290, min_frequency=1, special_tokens=["<s>", "</s>"])
    theirs.save(str(tmp_path / "tokenizer.json"))
    ours = load_tokenizer(tmp_path)
    assert ours.encode(TEXT) == theirs.encode(TEXT).ids
    assert ours.special_tokens == {"<s>": 0, "</s>": 1}
    assert ours.end_of_text == 1


def test_merges_in_the_older_form_are_read():
    contents = KINDS["bpe"].to_json()
    contents["model"]["merges"] = [" ".join(pair) for pair in contents["model"]["merges"]]
    assert from_json(contents).fingerprint == KINDS["bpe"].fingerprint


def test_a_template_that_adds_tokens_is_kept_and_not_applied(tmp_path: Path):
    contents = KINDS["cl100k"].to_json()
    contents["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}},
    }
    ours = from_json(contents)
    ours.save(tmp_path)
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert theirs.encode(TEXT).ids == [0, *ours.encode(TEXT)]
    assert ours.encode_batch([TEXT]) == [ours.encode(TEXT)]
    assert ours.fingerprint == KINDS["cl100k"].fingerprint


def test_everything_that_is_not_implemented_is_named_at_once():
    contents = copy.deepcopy(KINDS["bpe"].to_json())
    contents["normalizer"] = {"type": "NFC"}
    contents["pre_tokenizer"] = {"type": "Metaspace"}
    contents["decoder"] = {"type": "Metaspace"}
    contents["model"] |= {"dropout": 0.1, "byte_fallback": True}
    contents["model"]["vocab"]["▁the"] = 999
    contents["added_tokens"] += [{"id": 1000, "content": "  ", "special": False, "lstrip": True}]
    with pytest.raises(DataError) as caught:
        from_json(contents, "their.json")
    named = ("their.json", "NFC", "pre_tokenizer Metaspace", "decoder Metaspace", "dropout = 0.1", "byte_fallback")
    for words in (*named, "1 tokens that are not byte-level, such as ['▁the']", "'  ', recognised", "'  ' with lstrip"):
        assert words in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model": {"type": "Unigram"}}, "is damaged: KeyError .vocab."),
        ({"model": {"type": "Lattice"}}, "a model of type .Lattice."),
        ({"model": None}, "a model of type None"),
        ({"model": {"type": "BPE"}}, "is damaged: KeyError 'vocab'"),
        ({"added_tokens": [{}]}, "is damaged|'content'"),
        ({"added_tokens": 5}, "is damaged: TypeError"),
        ({"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True}}, "the pre_tokenizer ByteLevel"),
        ({"pre_tokenizer": None}, "the pre_tokenizer None"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_clear_error(changes: dict, says: str):
    with pytest.raises(DataError, match=says):
        from_json(KINDS["bpe"].to_json() | changes)


def test_what_is_not_there_is_one_clear_error(tmp_path: Path):
    for place in (tmp_path, tmp_path / "nothing", tmp_path / "x.json"):
        with pytest.raises(DataError, match=r"there is no .*\n  wanted: a folder with tokenizer.json"):
            load_tokenizer(place)


@pytest.mark.parametrize(("data", "says"), [(b"", "is not JSON"), (b'{"model', "is not JSON"), (b"\xff", "not UTF-8")])
def test_a_damaged_file_is_one_clear_error(tmp_path: Path, data: bytes, says: str):
    (tmp_path / "tokenizer.json").write_bytes(data)
    with pytest.raises(DataError, match=says):
        load_tokenizer(tmp_path)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    KINDS["byte"].save(tmp_path)
    before = (tmp_path / "tokenizer.json").read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        KINDS["bpe"].save(tmp_path)
    assert (tmp_path / "tokenizer.json").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 2
