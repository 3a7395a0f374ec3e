"""A page that shows where the tokens of a document looked: hover a word, see what it remembered. One file, no network.

The document stands on the page as text. Its look-ups go along as small binary arrays, at most `LIMIT` bytes of them: of a
document with more, fewer tokens are shown, and the page says so.
"""

from __future__ import annotations

import base64
import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from .escaping import embed, text
from .page import paragraphs
from .shell import check_out, fill, policy, resource, version, write

TOKENS = 4000
"""Tokens shown, by default."""

LIMIT = 3_000_000
"""Bytes of look-ups on a page. The text comes on top."""

OUTSIDE = 4000
"""Entries that stand before the first token shown and whose text is kept: the strongest."""

AROUND = 40
"""Tokens on either side of an entry, of which the page shows as many characters."""


class Layer(Protocol):
    """One memory layer; what these are says formers.inspection.looked.LayerLookups."""

    @property
    def layer(self) -> int: ...
    @property
    def name(self) -> str: ...
    @property
    def gates(self) -> np.ndarray | None: ...
    @property
    def shares(self) -> np.ndarray: ...
    @property
    def index(self) -> np.ndarray: ...
    @property
    def score(self) -> np.ndarray: ...
    @property
    def weight(self) -> np.ndarray: ...


class Document(Protocol):
    """A document and its look-ups; see formers.inspection.looked.Lookups."""

    @property
    def pieces(self) -> Sequence[str]: ...
    @property
    def loss(self) -> np.ndarray: ...
    @property
    def loss_without(self) -> np.ndarray | None: ...
    @property
    def segment_length(self) -> int: ...
    @property
    def layers(self) -> Sequence[Layer]: ...


def write_lookups(
    found: Document, out: Path | str, *, title: str = "document", first: int = 0, most: int = TOKENS, length: int = 0
) -> Path:
    """Write the page and return its path.

    title   what is read, for the heading        length  tokens of the whole document, where not all of it was read
    first   the first token shown                most    at most so many are shown

    Raises RunError where `out` cannot be a file.
    """
    out = check_out(out)
    write(out, render(found, title=title, first=first, most=most, length=length))
    return out


def render(found: Document, *, title: str, first: int = 0, most: int = TOKENS, length: int = 0) -> str:
    """The whole page as text."""
    shown = _shown(found, first, most)
    script = resource("lookups.js")
    fields = {
        "policy": policy(script),
        "style": resource("report.css") + resource("lookups.css"),
        "title": text(f"What the memory remembered: {title}"),
        "summary": paragraphs(_summary(found)),
        "tiles": _tiles(found),
        "cut": paragraphs(_cut(shown, len(found.pieces), length)),
        "layers": _layer_options(found.layers),
        "paid": "" if found.loss_without is not None else "hidden",
        "document": _document(found, shown),
        "data": embed(_data(found, shown)),
        "script": script,
        "written": text(f"{datetime.datetime.now().astimezone():%d %B %Y, %H:%M %Z}"),
        "version": text(version()),
    }
    return fill(resource("lookups.html"), fields)


def _shown(found: Document, first: int, most: int) -> slice:
    """The tokens on the page."""
    each = sum(layer.shares.shape[1] * (6 + 10 * layer.index.shape[2]) for layer in found.layers) * 4 / 3
    first = max(0, min(first, len(found.pieces) - 1))
    return slice(first, min(len(found.pieces), first + max(1, min(most, int(LIMIT / each)))))


# --- words ----------------------------------------------------------------------------------------------------------


def _memory_share(layer: Layer) -> float:
    return float(layer.shares[..., 2].mean())


def _saved(found: Document) -> float | None:
    if found.loss_without is None or len(found.loss) < 2:
        return None
    return float(found.loss_without[1:].mean() - found.loss[1:].mean())


def _summary(found: Document) -> list[str]:
    shares = [f"{100 * _memory_share(layer):.0f} % of the attention of layer {layer.layer}" for layer in found.layers]
    said = [
        f"{len(found.pieces):,} tokens, read in segments of {found.segment_length:,}. {' and '.join(shares)} went to the "
        "memory, on average over tokens and heads; the rest went to what is near by."
    ]
    saved = _saved(found)
    if saved is not None:
        verb = "took off" if saved >= 0 else "added"
        said.append(
            f"On this text the memory {verb} {abs(saved):.4f} nats a token: the same weights read it once more without "
            "any memory."
        )
    return said


def _tiles(found: Document) -> str:
    loss = float(found.loss[1:].mean()) if len(found.loss) > 1 else None
    without = None if found.loss_without is None or loss is None else float(found.loss_without[1:].mean())
    tiles = [
        ("Tokens", f"{len(found.pieces):,}", f"segments of {found.segment_length:,}"),
        ("Loss", loss and f"{loss:.3f}", "nats per token"),
        ("Without memory", without and f"{without:.3f}", "same weights"),
        ("Memory in layer", ", ".join(str(layer.layer) for layer in found.layers), "counted from 0"),
    ]
    return (
        '<dl class="tiles">'
        + "".join(f"<div><dt>{n}</dt><dd>{text(v)}</dd><dd class=note>{text(m)}</dd></div>" for n, v, m in tiles if v)
        + "</dl>"
    )


def _cut(shown: slice, read: int, length: int) -> list[str]:
    length = max(length, read)
    if (shown.start, shown.stop) == (0, length):
        return []
    return [
        f"Tokens {shown.start:,} to {shown.stop - 1:,} of {length:,} are shown. Those before were read and are remembered; "
        "of passages found there, the text stands here without a link. Others: --first and --most."
    ]


def _layer_options(layers: Sequence[Layer]) -> str:
    return "".join(f'<option value="{i}">layer {layer.layer}</option>' for i, layer in enumerate(layers))


# --- the document and its data --------------------------------------------------------------------------------------


def _document(found: Document, shown: slice) -> str:
    """A span a token. Line ends and pieces without text of their own get a mark by their class."""
    spans = []
    for i in range(shown.start, shown.stop):
        piece = found.pieces[i]
        kind = ' class="end"' if "\n" in piece else "" if piece else ' class="part"'
        edge = f'<i class="edge" data-at="{i:,}"></i>' if i % found.segment_length == 0 else ""
        spans.append(f'{edge}<span id="t{i}"{kind}>{text(piece)}</span>')
    return "".join(spans)


def _data(found: Document, shown: slice) -> dict[str, Any]:
    without = found.loss_without
    return {
        "first": shown.start,
        "count": shown.stop - shown.start,
        "segment": found.segment_length,
        "loss": _packed(found.loss[shown.start : shown.stop + 1], "<f4"),
        "without": None if without is None else _packed(without[shown.start : shown.stop + 1], "<f4"),
        "next": text_of(found.pieces, shown.stop, shown.stop + 1),
        "layers": [_layer_data(layer, shown, found.segment_length) for layer in found.layers],
        "outside": _outside(found, shown),
    }


def _layer_data(layer: Layer, shown: slice, segment_length: int) -> dict[str, Any]:
    shares = layer.shares[shown, :, :3]
    later = layer.shares[segment_length:, :, 2]
    return {
        "layer": layer.layer,
        "heads": shares.shape[1],
        "kept": layer.index.shape[2],
        "gates": None if layer.gates is None else [round(float(gate), 4) for gate in layer.gates],
        "steady": bool(len(later) and later.std(0).max() < 1e-3),
        "shares": _packed(np.rint(shares * 65535), "<u2"),
        "index": _packed(layer.index[shown], "<i4"),
        "score": _packed(layer.score[shown], "<f4"),
        "weight": _packed(np.rint(np.clip(layer.weight[shown], 0, 1) * 65535), "<u2"),
    }


def _outside(found: Document, shown: slice) -> dict[str, list[str]]:
    """What was found before the first token shown: its text, for the strongest entries."""
    strongest: dict[int, float] = {}
    for layer in found.layers:
        index, weight = layer.index[shown].ravel(), layer.weight[shown].ravel()
        there = (index >= 0) & (index < shown.start)
        for i, w in zip(index[there].tolist(), weight[there].tolist(), strict=True):
            strongest[i] = max(w, strongest.get(i, 0.0))
    kept = sorted(strongest, key=strongest.__getitem__, reverse=True)[:OUTSIDE]
    pieces = found.pieces
    before, after = (lambda i: text_of(pieces, i - AROUND, i)), (lambda i: text_of(pieces, i + 1, i + 1 + AROUND))
    return {str(i): [before(i)[-AROUND:], pieces[i], after(i)[:AROUND]] for i in kept}


def text_of(pieces: Sequence[str], start: int, stop: int) -> str:
    return "".join(pieces[max(start, 0) : stop])


def _packed(values: np.ndarray, kind: str) -> str:
    """Little-endian numbers in base64: what a page reads into a typed array."""
    return base64.b64encode(np.ascontiguousarray(values).astype(kind).tobytes()).decode()
