"""Printable characters that stand for bytes, so that byte-level vocabularies can be written in text files.

GPT-2's files write each of the 256 bytes as one visible character: bytes that already print stand for themselves, the other
68 (controls, space, 127 to 160, 173) borrow U+0100 and on, in byte order. So a space reads "Ġ" and a newline "Ċ".
Source: Radford et al. 2019, the published vocabulary of GPT-2.
"""

from __future__ import annotations

PRINTABLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
BYTE_ORDER = PRINTABLE + [value for value in range(256) if value not in PRINTABLE]
"""The bytes in the order of their stand-ins, which is the order of GPT-2's first 256 ids: "!" is 0, "a" 64, space 220."""

STAND_INS = [chr(v) if v in PRINTABLE else chr(256 + BYTE_ORDER.index(v) - len(PRINTABLE)) for v in range(256)]
"""byte -> character."""

BYTES = {char: value for value, char in enumerate(STAND_INS)}
"""character -> byte."""


def to_stand_ins(data: bytes) -> str:
    """``b" the"`` -> ``"Ġthe"``."""
    return "".join([STAND_INS[value] for value in data])


def from_stand_ins(text: str) -> bytes:
    """``"Ġthe"`` -> ``b" the"``. KeyError: a character that stands for no byte."""
    return bytes([BYTES[char] for char in text])
