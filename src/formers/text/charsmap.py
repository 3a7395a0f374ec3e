"""The table by which sentencepiece normalises characters, as it stands in .model files and in tokenizer.json.

It is two things in a row: a double array (a trie in one list of 32-bit units; Aoe 1989), which maps bytes to a place, and the
text at that place, ended by a zero byte. `nmt_nfkc`, the table of T5, ALBERT and DeBERTa-v3, is NFKC with white space and
control characters made spaces or nothing.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator

from formers.errors import DataError
from formers.text.patterns import compiled

PRINTABLE = "".join(map(chr, range(0x20, 0x7F)))
LONGEST = 6
"""A cluster of fewer bytes is looked up whole, a longer one character by character."""


class CharsMap:
    """A precompiled character map. Called with a text it gives the normalised text.

    The rule is that of the Rust library, and not quite sentencepiece's: the text is cut into clusters as one sees them (a
    letter with its accents); a short cluster becomes what the *shortest* entry at its beginning says, all of it; a longer one
    is looked up character by character. sentencepiece takes the longest entry at each place of the text instead.
    """

    def __init__(self, data: bytes) -> None:
        self.data = data
        size = struct.unpack_from("<I", data)[0] if len(data) >= 4 else -1
        if size < 4 or size % 4 or 4 + size > len(data) or data[-1]:
            raise DataError(
                f"a charsmap of {len(data)} bytes whose trie should take {size}", "the whole of sentencepiece's table"
            )
        self._units = struct.unpack_from(f"<{size // 4}I", data, 4)
        self._texts = data[4 + size :]
        self._known: dict[str, str] = {}
        plain = all(self._look_up(char) is None for char in PRINTABLE)
        # Where printable ASCII stands for itself, a run of it that another such character follows needs no look-up.
        self._clusters = compiled(r"[\x20-\x7e]+(?=[\x20-\x7e]|$)|\X" if plain else r"\X")

    def __repr__(self) -> str:
        return f"CharsMap({hashlib.sha256(self.data).hexdigest()})"

    def __call__(self, text: str) -> str:
        return "".join(new for new, _ in self.pieces(text))

    def pieces(self, text: str) -> Iterator[tuple[str, int]]:
        """The normalised text in pieces, each with the number of characters of `text` that it stands for."""
        for cluster in self._clusters.findall(text):
            if len(cluster) > 1 and cluster.isascii() and cluster.isprintable():
                yield cluster, len(cluster)
                continue
            whole = self._replacement(cluster) if len(cluster.encode()) < LONGEST else None
            if whole is not None:
                yield whole, len(cluster)
                continue
            for char in cluster:
                new = self._replacement(char)
                yield char if new is None else new, 1

    def _replacement(self, chunk: str) -> str | None:
        if chunk not in self._known:
            found = self._look_up(chunk)
            if found is None:
                return None
            self._known[chunk] = found
        return self._known[chunk]

    def _look_up(self, chunk: str) -> str | None:
        """The text of the shortest entry that `chunk` begins with."""
        units = self._units
        node = _offset(units[0])
        for value in chunk.encode():
            node ^= value
            if node >= len(units) or units[node] & 0x800000FF != value:  # the label of a unit is its byte
                return None
            unit = units[node]
            node ^= _offset(unit)
            if unit >> 8 & 1:  # an entry ends here: the unit that follows holds its place
                start = units[node] & 0x7FFFFFFF
                return self._texts[start : self._texts.find(b"\0", start)].decode(errors="replace")
        return None


def _offset(unit: int) -> int:
    """From a unit to its children: 21 bits, 8 further where a flag says so."""
    return unit >> 10 << ((unit & 1 << 9) >> 6)
