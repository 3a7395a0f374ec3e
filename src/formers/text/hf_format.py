"""The form of Hugging Face's tokenizer.json, which the `tokenizers` library and transformers' AutoTokenizer open.

This module knows the form alone: plain data in, plain data out. Each kind of tokenizer says what goes into it (`to_json`),
`load.py` reads it back. Every kind fits the form without a field of our own:

- byte: a BPE model without merges over the 256 stand-ins, no splitting;
- char: a WordLevel model behind a split into single characters;
- word: a WordLevel model behind the Whitespace step, without a decoder;
- bpe:  a BPE model behind GPT-2's split (the ByteLevel step) or another pattern (a Split step before ByteLevel);
- wordpiece, unigram: the models of these names, behind the steps that `pipeline.py` reads.

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


def wordpiece_model(vocab: Mapping[str, int], unknown: str, inside: str, longest_word: int) -> Json:
    """Greedy longest match; `inside` marks pieces inside a word."""
    return {
        "type": "WordPiece",
        "unk_token": unknown,
        "continuing_subword_prefix": inside,
        "max_input_chars_per_word": longest_word,
        "vocab": _by_id(vocab),
    }


def unigram_model(vocab: Sequence[tuple[str, float]], unknown: int | None, byte_fallback: bool) -> Json:
    """The most probable pieces; a token's id is its place in `vocab`, beside which stands its log-probability."""
    pieces = [list(piece) for piece in vocab]
    return {"type": "Unigram", "unk_id": unknown, "vocab": pieces, "byte_fallback": byte_fallback}


def _by_id(vocab: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(vocab.items(), key=lambda item: item[1]))


def added(tokens: Mapping[str, int], *, special: bool = True) -> list[Json]:
    """Entries of "added_tokens": names that are recognised in text before anything else, by Hugging Face always."""
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return [{"id": i, "content": name, **flags, "special": special} for name, i in _by_id(tokens).items()]


def document(special_tokens: Mapping[str, int], pre_tokenizer: Json | None, decoder: Json, model: Json) -> Json:
    """A whole tokenizer.json."""
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added(special_tokens),
        "normalizer": None,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": None,
        "decoder": decoder or None,
        "model": model,
    }


ROLE_NAMES = {
    "pad": "pad_token",
    "unknown": "unk_token",
    "start": "cls_token",
    "separator": "sep_token",
    "mask": "mask_token",
}
"""What transformers calls the roles of special tokens (`base.ROLES`)."""


def write(folder: Path, contents: Json, roles: Mapping[str, str], max_length: int | None = None) -> None:
    """Write tokenizer.json, and beside it the few lines by which AutoTokenizer knows how to open it.

    `roles`: role -> name, where the vocabulary has such a token. A vocabulary of whole texts (BERT's, T5's, any with a mask)
    says what its tokens are for, and so does one of words; of one for generation only the end is said, as in GPT-2's own file.
    `max_length`: tokens that the model reads.
    """
    config: Json = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    if max_length is not None:
        config["model_max_length"] = max_length
    kind = contents["model"]["type"]
    if kind in ("WordPiece", "Unigram") or (kind == "WordLevel" and "unknown" in roles) or "mask" in roles:
        config |= {ROLE_NAMES[role]: name for role, name in roles.items() if role in ROLE_NAMES}
        typed = '"type_id": 1' in json.dumps(contents["post_processor"])
        config["model_input_names"] = ["input_ids", *(["token_type_ids"] if typed else []), "attention_mask"]
        if roles.get("end") != "[SEP]" and "end" in roles:
            config["eos_token"] = roles["end"]
    elif "end" in roles:
        config |= {"bos_token": roles["end"], "eos_token": roles["end"]}
    write_atomic(folder / "tokenizer.json", json.dumps(contents, ensure_ascii=False, indent=1).encode())
    write_atomic(folder / "tokenizer_config.json", (json.dumps(config, indent=2) + "\n").encode())
