"""GPT-2's own vocabulary, its two files, and tiktoken's ranks."""

from __future__ import annotations

import base64
import hashlib
import json
from importlib import resources
from pathlib import Path

import pytest

from formers.errors import DataError
from formers.text import CL100K_SPECIAL, BPETokenizer, gpt2, load_gpt2_files, load_tiktoken, load_tokenizer
from formers.text.byte_bpe import train_bpe

ENCODER_SHA256 = "140f02bb05c0d82c3e45f14050c6be40a9b6fe2773b7dfce0fbb815918c30199"
"""Of the 50,257 (name, id) pairs of the published encoder.json, sorted by id, as JSON."""


def test_gpt2s_vocabulary_is_the_published_one():
    vocab = gpt2().to_json()["model"]["vocab"]
    assert hashlib.sha256(json.dumps(list(vocab.items())).encode()).hexdigest() == ENCODER_SHA256
    assert (gpt2().vocab_size, gpt2().end_of_text, len(gpt2().merges)) == (50257, 50256, 50_000)


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("Hello world", [15496, 995]),
        ("Hello, I'm a language model,", [15496, 11, 314, 1101, 257, 3303, 2746, 11]),
        ("<|endoftext|>", [27, 91, 437, 1659, 5239, 91, 29]),
        (" \n", [220, 198]),
        ("", []),
    ],
)
def test_known_texts_have_their_known_ids(text: str, ids: list[int]):
    assert gpt2().encode(text) == ids


def test_the_licence_and_the_source_lie_beside_the_vocabulary():
    folder = resources.files("formers.text") / "vocabularies" / "gpt2"
    assert "OpenAI" in (folder / "LICENSE").read_text(encoding="utf-8")
    assert "openai/gpt-2" in (folder / "SOURCE.txt").read_text(encoding="utf-8")
    assert len((folder / "vocab.bpe.gz").read_bytes()) < 500_000


@pytest.mark.parametrize("names", [("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe")])
def test_the_two_files_of_gpt2_are_read_from_a_folder(tmp_path: Path, names: tuple[str, str]):
    model = gpt2().to_json()["model"]
    (tmp_path / names[0]).write_text(json.dumps(model["vocab"]))
    lines = ["#version: 0.2", *map(" ".join, model["merges"]), ""]
    (tmp_path / names[1]).write_text("\n".join(lines), encoding="utf-8")
    assert load_tokenizer(tmp_path).fingerprint == gpt2().fingerprint


@pytest.mark.parametrize(
    ("vocab", "merges", "says"),
    [
        ("{}", "a b c", "merge 0 reads 'a b c'"),
        ("{}", "a b", "merge names 'a', which is not in the vocabulary"),
        ("{", "a b", "is not JSON"),
        ("[]", "a b", "holds a JSON list"),
    ],
)
def test_files_that_do_not_fit_are_one_clear_error(tmp_path: Path, vocab: str, merges: str, says: str):
    (tmp_path / "v").write_text(vocab)
    (tmp_path / "m").write_text(merges)
    with pytest.raises(DataError, match=says):
        load_gpt2_files(tmp_path / "v", tmp_path / "m")


def ranks(tokenizer: BPETokenizer) -> str:
    """A rank file as tiktoken publishes them."""
    rows = sorted(tokenizer.tokens.items())
    return "".join(f"{base64.b64encode(token).decode()} {rank}\n" for rank, token in rows)


def test_merges_are_recovered_from_ranks(tmp_path: Path):
    (tmp_path / "gpt2.tiktoken").write_text(ranks(gpt2()))
    found = load_tiktoken(tmp_path / "gpt2.tiktoken", pattern="gpt2")
    assert found.merges == gpt2().merges
    assert found.special_tokens == gpt2().special_tokens
    assert found.encode("Hello world 😀") == gpt2().encode("Hello world 😀")


def test_ranks_with_gpt4s_pattern_and_special_tokens(tmp_path: Path, stdlib):
    trained = train_bpe(stdlib(50_000), 800, special_tokens=[], pattern="cl100k")
    (tmp_path / "x.tiktoken").write_text(ranks(trained))
    found = load_tiktoken(tmp_path / "x.tiktoken", pattern="cl100k", special_tokens=CL100K_SPECIAL)
    assert found.merges == trained.merges
    assert found.end_of_text == 100257
    assert found.vocab_size == 100277
    assert found.encode("DON'T 12345\n\n") == trained.encode("DON'T 12345\n\n")


@pytest.mark.parametrize(
    ("contents", "says"),
    [
        ("IQ== zero\n", "is not a rank file"),
        ("?? 0\n", "is not a rank file"),
        ("IQ== 0\n", "lacks 255 of the 256 bytes"),
    ],
)
def test_what_is_no_rank_file_is_one_clear_error(tmp_path: Path, contents: str, says: str):
    (tmp_path / "x").write_text(contents)
    with pytest.raises(DataError, match=says):
        load_tiktoken(tmp_path / "x", pattern="gpt2")


def test_ranks_that_merging_cannot_make_are_refused(tmp_path: Path):
    lines = [f"{base64.b64encode(bytes([value])).decode()} {value}" for value in range(256)]
    (tmp_path / "x").write_text("\n".join([*lines, f"{base64.b64encode(b'the').decode()} 256"]))
    with pytest.raises(DataError, match="ends as 3 parts"):
        load_tiktoken(tmp_path / "x", pattern="gpt2")
