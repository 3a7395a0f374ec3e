"""Reading tokenizers: tokenizer.json in Hugging Face's form.

What a file asks for and we do not implement is refused, all of it at once; nothing is ignored.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from formers.errors import DataError
from formers.text import hf_format
from formers.text.base import Tokenizer
from formers.text.byte import ByteTokenizer
from formers.text.char import UNKNOWN, CharTokenizer
from formers.text.files import read_json
from formers.text.stand_ins import STAND_INS


def load_tokenizer(path: Path | str) -> Tokenizer:
    """The tokenizer of a folder or of a tokenizer.json.

    Raises:
        DataError: nothing there, a damaged file, or a tokenizer that asks for what is not implemented.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "tokenizer.json"
    if not path.is_file():
        raise DataError(f"there is no {path}", wanted="a folder with tokenizer.json, or the file itself")
    return from_json(read_json(path), str(path))


def from_json(contents: dict[str, Any], name: str = "tokenizer.json") -> Tokenizer:
    """The tokenizer that the parsed tokenizer.json describes; `name` is what errors call it."""
    model = contents.get("model") or {}
    special = {token["content"]: token["id"] for token in contents.get("added_tokens", ())}
    pre_tokenizer = contents.get("pre_tokenizer")
    if model.get("type") == "WordLevel" and pre_tokenizer == hf_format.SINGLE_CHARACTERS:
        return _char(model, special, name)
    if model.get("type") == "BPE" and pre_tokenizer == hf_format.BYTES_ONLY and not model["merges"]:
        return _byte(model, special, name)
    raise DataError(f"{name} holds a tokenizer that is not implemented")


def _byte(model: dict[str, Any], special: dict[str, int], name: str) -> ByteTokenizer:
    tokenizer = ByteTokenizer(sorted(special, key=special.__getitem__))
    expected = {char: value for value, char in enumerate(STAND_INS)} | tokenizer.special_tokens
    if {**model["vocab"], **special} != expected:
        raise DataError(f"{name}: bytes do not have the ids 0 to 255, followed by the special tokens")
    return tokenizer


def _char(model: dict[str, Any], special: dict[str, int], name: str) -> CharTokenizer:
    characters = sorted(model["vocab"].keys() - special.keys(), key=model["vocab"].__getitem__)
    names = sorted(special, key=special.__getitem__)
    tokenizer = CharTokenizer(characters, names, unknown=model.get("unk_token") == UNKNOWN)
    if {**model["vocab"], **special} != tokenizer.vocab | tokenizer.special_tokens:
        raise DataError(f"{name}: special tokens do not come first, or ids have gaps")
    return tokenizer
