"""Matrices of shares as one SVG file, a picture each: dark where the share is large. No library, no script."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from formers.comparison.escaping import text

SIDE, GAP, LINE, TOP = 128, 10, 18, 34
"""Points of a picture's sides, between pictures, of a line of text, and above the first row."""

STYLE = """
  svg { font: 13px system-ui, sans-serif; background: #fff; fill: #222 } image { image-rendering: pixelated }
  @media (prefers-color-scheme: dark) { svg { background: #161616; fill: #ddd } }
"""

Row = tuple[str, Sequence[NDArray[np.float32]]]
"""A name, and pictures that stand side by side below it: matrices [queries, keys] of shares, 0 to 1."""


def svg(title: str, rows: Sequence[Row], notes: Sequence[str] = ()) -> str:
    """The rows below one another as the text of an SVG file; `notes` stand at its foot, a line each."""
    height = SIDE + GAP + LINE
    body = [f'<text x="{GAP}" y="20" font-weight="600">{text(title)}</text>']
    for number, (name, matrices) in enumerate(rows):
        y = TOP + number * height
        body.append(f'<text x="{GAP}" y="{y + LINE - 5}">{text(name)}</text>')
        body += [_picture(matrix, GAP + place * (SIDE + GAP), y + LINE) for place, matrix in enumerate(matrices)]
    foot = TOP + len(rows) * height + GAP
    body += [f'<text x="{GAP}" y="{foot + LINE * (place + 1)}">{text(note)}</text>' for place, note in enumerate(notes)]
    wide = max([len(matrices) for _, matrices in rows], default=0) * (SIDE + GAP) + GAP
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {max(wide, 720)} {foot + LINE * (len(notes) + 1)}" role="img" '
        f'aria-label="{text(title)}"><style>{STYLE}</style>\n' + "\n".join(body) + "\n</svg>\n"
    )


def _picture(matrix: NDArray[np.float32], x: int, y: int) -> str:
    data = base64.b64encode(png(matrix)).decode()
    place = f'x="{x}" y="{y}" width="{SIDE}" height="{SIDE}" preserveAspectRatio="none"'
    return f'<image {place} href="data:image/png;base64,{data}"/>'


def png(matrix: NDArray[np.float32]) -> bytes:
    """A grey PNG, a pixel a cell; the root of the share is shown, so that small shares are seen as well."""
    dark = np.sqrt(np.clip(np.nan_to_num(matrix), 0.0, 1.0))
    pixels = np.rint(255 * (1.0 - dark)).astype(np.uint8)
    lines = np.pad(pixels, ((0, 0), (1, 0))).tobytes()  # each line begins with 0: no filter
    header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 8, 0, 0, 0, 0)
    chunks = (_chunk(b"IHDR", header), _chunk(b"IDAT", zlib.compress(lines, 9)), _chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
