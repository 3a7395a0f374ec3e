"""The byte tokenizer: a token is a byte of UTF-8, so every text has ids, no training is needed and nothing is unknown.

Ids 0 to 255 are the byte values; special tokens follow. It is the simplest tokenizer there is and the longest sequences.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Any

from formers.text import hf_format
from formers.text.base import END_OF_TEXT, Tokenizer, check_special
from formers.text.stand_ins import STAND_INS


class ByteTokenizer(Tokenizer):
    """Byte b has id b; special tokens have the ids from 256 on, in the order given."""

    kind = "byte"

    def __init__(self, special_tokens: Iterable[str] = (END_OF_TEXT,)) -> None:
        names = tuple(special_tokens)
        check_special(names, taken=STAND_INS)
        super().__init__({name: 256 + place for place, name in enumerate(names)})

    def _ids(self, text: str) -> list[int]:
        return list(text.encode())

    @cached_property
    def _tokens(self) -> dict[int, bytes]:
        return {value: bytes([value]) for value in range(256)}

    def _content(self) -> dict[str, object]:
        return {}

    def to_json(self) -> dict[str, Any]:
        vocab = {STAND_INS[value]: value for value in range(256)}
        model = hf_format.bpe_model(vocab | self.special_tokens, merges=[])
        return hf_format.document(self.special_tokens, hf_format.BYTES_ONLY, hf_format.BYTE_DECODER, model)
