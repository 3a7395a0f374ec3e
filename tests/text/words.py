"""Small vocabularies of the tests' own making, and a writer of sentencepiece's file form."""

from __future__ import annotations

import struct
from functools import cache

from formers.text import UnigramTokenizer, WordPieceTokenizer, train_tokenizer
from formers.text.sentencepiece import BYTE, CONTROL, NORMAL, UNKNOWN, USER_DEFINED

TEXT = """The theatre was unaffable, the actors were wanting; they ran running to the theatre's end.
Naïve été À 東京 3,5 (x-y) isn't "quoted" don't 12 12 123 ﬁne
und die Straße war größer als die Straßen, größere Straßen und Theater
"""


@cache
def wordpiece(*, lower: bool = True) -> WordPieceTokenizer:
    """125 tokens for `TEXT`."""
    found = train_tokenizer("wordpiece", TEXT, 125, lower=lower)
    assert isinstance(found, WordPieceTokenizer)
    return found


@cache
def unigram(*, byte_fallback: bool = False) -> UnigramTokenizer:
    """Pieces of `TEXT`."""
    found = train_tokenizer("unigram", TEXT, 70 + 256 * byte_fallback, byte_fallback=byte_fallback)
    assert isinstance(found, UnigramTokenizer)
    return found


PIECES = [
    ("<pad>", 0.0, CONTROL),
    ("</s>", 0.0, CONTROL),
    ("<unk>", 0.0, UNKNOWN),
    ("[CLS]", 0.0, CONTROL),
    ("[SEP]", 0.0, CONTROL),
    ("-", 0.0, USER_DEFINED),
    *((f"<0x{value:02X}>", 0.0, BYTE) for value in range(256)),
    *((piece, -2.0 - place / 8, NORMAL) for place, piece in enumerate("▁ ▁the ▁the▁a t h e a r s x 1 2 ▁x".split())),
]


def sentencepiece_file(
    pieces: list[tuple[str, float, int]],
    *,
    model_type: int = 1,
    byte_fallback: bool = False,
    charsmap: bytes = b"",
    trims: bool = True,
    prefix: bool = True,
) -> bytes:
    """The protocol buffer of a model: pieces (1), trainer settings (2), normaliser settings (3)."""
    data = b"".join(
        _field(1, _field(1, name.encode()) + b"\x15" + struct.pack("<f", score) + _field(3, kind))
        for name, score, kind in pieces
    )
    data += _field(2, _field(3, model_type) + _field(35, int(byte_fallback)) + _field(99, b"of a later version"))
    return data + _field(3, _field(2, charsmap) + _field(3, int(prefix)) + _field(4, int(trims)))


def _field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    data = b""
    while value >= 0x80:
        data, value = data + bytes([value & 0x7F | 0x80]), value >> 7
    return data + bytes([value])


def charsmap(entries: dict[str, str]) -> bytes:
    """A precompiled charsmap of a few entries: a double array laid out the slow and simple way."""
    texts, places = b"", {}
    for old, new in entries.items():
        places[old.encode()] = len(texts)
        texts += new.encode() + b"\0"
    units, taken = {0: 0}, {0}

    def lay(prefix: bytes, node: int) -> None:
        children = sorted({key[len(prefix)] for key in places if key.startswith(prefix) and len(key) > len(prefix)})
        leaf = prefix in places
        base = next(
            b
            for b in range(256, 1 << 20, 256)
            if not any((b ^ node ^ c) in taken for c in [*children, *([0] if leaf else [])])
        )
        units[node] |= (base << 10 if base < 1 << 21 else 0) | (1 << 8 if leaf else 0)
        start = node ^ base
        if leaf:
            taken.add(start)
            units[start] = places[prefix] | 1 << 31
        for child in children:
            taken.add(start ^ child)
            units[start ^ child] = child
        for child in children:
            lay(prefix + bytes([child]), start ^ child)

    lay(b"", 0)
    size = max(units) + 256
    array = struct.pack(f"<{size}I", *(units.get(i, 0) for i in range(size)))
    return struct.pack("<I", len(array)) + array + texts
