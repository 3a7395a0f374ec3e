"""The form of Hugging Face's tokenizer.json, which the `tokenizers` library and transformers' AutoTokenizer open.

This module knows the form alone: plain data in, plain data out. Each kind of tokenizer says what goes into it (`to_json`),
`load.py` reads it back. All three kinds fit the form without a field of our own:

- byte: a BPE model without merges over the 256 stand-ins, no splitting;
- char: a WordLevel model behind a split into single characters;
- bpe:  a BPE model behind GPT-2's split (the ByteLevel step) or another pattern (a Split step before ByteLevel).

One difference lies in the libraries, not in the file: Hugging Face recognises special tokens in any text, formers never does
unless asked.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from formers.files import write_atomic

Json = dict[str, Any]


def byte_level(use_regex: bool) -> Json:
    """The ByteLevel step: bytes to stand-ins, with GPT-2's split before it if `use_regex`."""
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


def split(pattern: str) -> Json:
    """The step that cuts text at the matches of a regular expression and keeps all of it."""
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


BYTES_ONLY = byte_level(use_regex=False)
GPT2_SPLIT = byte_level(use_regex=True)
SINGLE_CHARACTERS = split(r"[\s\S]")
BYTE_DECODER = byte_level(use_regex=True)
CHARACTER_DECODER = {"type": "Fuse"}


def split_bytes(pattern: str) -> Json:
    """Split by `pattern`, then bytes: how every pattern but GPT-2's is written."""
    return {"type": "Sequence", "pretokenizers": [split(pattern), BYTES_ONLY]}


def bpe_model(vocab: Mapping[str, int], merges: Sequence[Sequence[str]], ignore_merges: bool = False) -> Json:
    """A BPE model over stand-ins. `ignore_merges`: a piece that is a token is taken whole."""
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": ignore_merges,
        "vocab": _by_id(vocab),
        "merges": [list(pair) for pair in merges],
    }


def word_level_model(vocab: Mapping[str, int], unknown: str) -> Json:
    """One id a word. A missing word becomes `unknown`; it is an error if that is "", which no vocabulary holds."""
    return {"type": "WordLevel", "vocab": _by_id(vocab), "unk_token": unknown}


def _by_id(vocab: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(vocab.items(), key=lambda item: item[1]))


def document(special_tokens: Mapping[str, int], pre_tokenizer: Json, decoder: Json, model: Json) -> Json:
    """A whole tokenizer.json."""
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    added = [{"id": i, "content": name, **flags, "special": True} for name, i in _by_id(special_tokens).items()]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": None,
        "decoder": decoder,
        "model": model,
    }


def write(folder: Path, contents: Json, end_of_text: str | None) -> None:
    """Write tokenizer.json, and beside it the few lines by which AutoTokenizer knows how to open it."""
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    if end_of_text is not None:
        config |= {"bos_token": end_of_text, "eos_token": end_of_text}
    write_atomic(folder / "tokenizer.json", json.dumps(contents, ensure_ascii=False, indent=1).encode())
    write_atomic(folder / "tokenizer_config.json", (json.dumps(config, indent=2) + "\n").encode())
