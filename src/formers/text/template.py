"""How special tokens frame a text or a pair: read from a tokenizer.json's post-processor, or written down in a few letters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from formers.errors import DataError

Json = dict[str, Any]

TEXTS = {"A": 0, "B": 1}


@dataclass(frozen=True)
class Slot:
    """A place in a frame: a text (0 first, 1 second) or a special token's id, and the type id of what stands there."""

    text: int | None
    token_id: int | None
    type_id: int


@dataclass(frozen=True)
class Template:
    """The frame of a single text and that of a pair."""

    single: tuple[Slot, ...]
    pair: tuple[Slot, ...]

    def num_special(self, *, pair: bool) -> int:
        """How many tokens the frame adds."""
        return sum(slot.text is None for slot in (self.pair if pair else self.single))


BARE = Template((Slot(0, None, 0),), (Slot(0, None, 0), Slot(1, None, 1)))
"""No special tokens; a second text has type 1, as in the Rust library."""


def frame(special_tokens: Mapping[str, int], single: str, pair: str) -> Json:
    """A post-processor in the form of tokenizer.json: ``frame(ids, "[CLS] a [SEP]", "[CLS] a [SEP] b:1 [SEP]:1")``.

    "a" and "b" are the texts, anything else a special token; ":1" gives a place type id 1.
    """
    slots = [_written(word) for words in (single, pair) for word in words.split()]
    used = sorted({slot["SpecialToken"]["id"] for slot in slots if "SpecialToken" in slot})
    return {
        "type": "TemplateProcessing",
        "single": slots[: len(single.split())],
        "pair": slots[len(single.split()) :],
        "special_tokens": {name: {"id": name, "ids": [special_tokens[name]], "tokens": [name]} for name in used},
    }


def _written(word: str) -> Json:
    name, _, type_id = word.partition(":")
    kind = "Sequence" if name in ("a", "b") else "SpecialToken"
    return {kind: {"id": name.upper() if kind == "Sequence" else name, "type_id": int(type_id or 0)}}


def read(template: Json | None) -> Template:
    """The template that a post-processor describes; `BARE` for none.

    Raises:
        DataError: a post-processor of another type, or a damaged one.
    """
    try:
        match template:
            case None | {"type": "ByteLevel"}:
                return BARE
            case {"type": "TemplateProcessing"}:
                ids = {name: token["ids"] for name, token in template["special_tokens"].items()}
                single, pair = (tuple(s for part in template[k] for s in _slots(part, ids)) for k in ("single", "pair"))
                return Template(single, pair)
            case {"type": "BertProcessing", "cls": [_, cls], "sep": [_, sep]}:
                single = (Slot(None, cls, 0), Slot(0, None, 0), Slot(None, sep, 0))
                return Template(single, (*single, Slot(1, None, 1), Slot(None, sep, 1)))
            case {"type": "RobertaProcessing", "cls": [_, cls], "sep": [_, sep]}:
                single = (Slot(None, cls, 0), Slot(0, None, 0), Slot(None, sep, 0))
                return Template(single, (*single, Slot(None, sep, 0), Slot(1, None, 0), Slot(None, sep, 0)))
    except (KeyError, TypeError) as error:
        raise DataError(f"the post_processor is damaged: {type(error).__name__} {error}") from None
    raise DataError(
        f"a post_processor of type {template.get('type')!r}",
        wanted="TemplateProcessing, BertProcessing or RobertaProcessing",
        do="encode the texts alone (special=False), or rewrite it as a template",
    )


def _slots(part: Json, ids: Mapping[str, list[int]]) -> list[Slot]:
    if "Sequence" in part:
        return [Slot(TEXTS[part["Sequence"]["id"]], None, part["Sequence"]["type_id"])]
    token = part["SpecialToken"]
    return [Slot(None, token_id, token["type_id"]) for token_id in ids[token["id"]]]
