"""Foreign text made safe for HTML and for JSON inside HTML. Samples come from models: they can hold anything."""

from __future__ import annotations

import html
import json
from typing import Any

_CONTROLS = {code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n"} | {0x7F: 0x2421}
"""Control characters become their pictures (U+2400 and on): HTML forbids them, and a reader should see them."""

_DIRECTIONS = {code: f"⟨U+{code:04X}⟩" for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A))}
"""Marks that turn the direction of writing become their names: else they could turn the page's own words around."""

_VISIBLE = {**_CONTROLS, **_DIRECTIONS}

_IN_SCRIPT = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"})
"""Enough to keep ``</script>`` and ``<!--`` out of a script element; U+2028 and all else beyond ASCII go as escapes."""


def text(value: object) -> str:
    """Any value as HTML text, also safe inside a quoted attribute. Lone surrogates become question marks."""
    plain = str(value).encode("utf-8", "replace").decode("utf-8")
    return html.escape(plain.translate(_VISIBLE), quote=True)


def clip(value: object, most: int) -> str:
    """HTML text of at most about ``most`` bytes; what was cut off is replaced by an ellipsis."""
    plain = str(value)[:most]
    while len(text(plain).encode()) > most:
        plain = plain[: len(plain) * 9 // 10]
    return text(plain) + ("…" if len(plain) < len(str(value)) else "")


def embed(value: Any) -> str:
    """JSON that can stand inside ``<script type="application/json">``: ASCII, and without ``<``, ``>`` and ``&``."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).translate(_IN_SCRIPT)
