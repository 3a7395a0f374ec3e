"""A tokenizer with further special tokens: the same ids for every text, and new ids behind the vocabulary.

A vocabulary trained for one purpose knows the special tokens of that purpose alone. To mask tokens in text that was cut for a
decoder, or to mark spans in it, a model needs ids that stand for no text; they are added at the end, so the text stays as
it was cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from formers.errors import DataError
from formers.text import hf_format
from formers.text.base import ROLES, Tokenizer, check_special
from formers.text.load import from_json
from formers.text.template import frame, read

FRAMED = {"pad": "[PAD]", "start": "[CLS]", "separator": "[SEP]", "mask": "[MASK]"}
"""What a model of whole texts needs (BERT, 1810.04805, section 3), by role, and the names for what is missing."""


def with_special_tokens(
    tokenizer: Tokenizer, names: Sequence[str], template: dict[str, Any] | None = None
) -> Tokenizer:
    """`tokenizer` with special tokens `names`, whose ids follow its own in this order; without any, the tokenizer itself.

    template  what frames a text from now on, as in tokenizer.json; None: as before

    Raises:
        DataError: names that are taken, or a kind of tokenizer (char) whose special tokens come first.
    """
    if not names:
        return tokenizer
    check_special(list(names), taken=tokenizer.special_tokens)
    if tokenizer.kind == "char":
        raise DataError(
            f"a char tokenizer without {', '.join(names[:4])}, whose special tokens come before its characters",
            "a tokenizer that can be given more of them",
            "build the shards with --tokenizer wordpiece, unigram, bpe or byte",
        )
    contents = tokenizer.to_json()
    size = tokenizer.vocab_size
    contents["added_tokens"] = contents["added_tokens"] + hf_format.added(
        {name: size + place for place, name in enumerate(names)}
    )
    if template is not None:
        contents["post_processor"] = template
    return from_json(contents)


def framed(tokenizer: Tokenizer) -> Tokenizer:
    """`tokenizer` with what a model of whole texts needs: padding, start, separator and mask, and a template that uses them.

    What it has it keeps, by the names it has; the rest gets BERT's names.
    """
    missing = [name for role, name in FRAMED.items() if tokenizer.role(role) is None]
    wider = with_special_tokens(tokenizer, missing)
    start, separator = (named(wider, role) for role in ("start", "separator"))
    if wider.kind == "byte" or begins_with(wider, wider.special_tokens[start]):
        return wider  # a byte tokenizer's file holds no template: who frames texts goes by roles there
    contents = wider.to_json()
    single = f"{start} a {separator}"
    contents["post_processor"] = frame(wider.special_tokens, single, f"{single} b:1 {separator}:1")
    return from_json(contents)


def named(tokenizer: Tokenizer, role: str) -> str:
    """The name of the special token that has a role, which must be there."""
    return next(name for name in ROLES[role] if name in tokenizer.special_tokens)


def begins_with(tokenizer: Tokenizer, token_id: int) -> bool:
    """Whether the template puts this token before every text."""
    return read(tokenizer.template).single[0].token_id == token_id


SENTINELS = 100
"""Sentinels of T5 (1910.10683, section 3.1.4)."""


def sentinel_name(number: int) -> str:
    """As T5's vocabulary calls them."""
    return f"<extra_id_{number}>"


def sentinels(tokenizer: Tokenizer) -> list[int]:
    """The ids of <extra_id_0>, <extra_id_1>, .. as far as the vocabulary has them."""
    found = []
    while (token_id := tokenizer.special_tokens.get(sentinel_name(len(found)))) is not None:
        found.append(token_id)
    return found


def with_sentinels(tokenizer: Tokenizer) -> Tokenizer:
    """`tokenizer` with padding and, where it has none, a hundred sentinels, the first with the last id, as in T5."""
    names = [] if tokenizer.role("pad") is not None else ["<pad>"]
    if not sentinels(tokenizer):
        names += [sentinel_name(number) for number in reversed(range(SENTINELS))]
    return with_special_tokens(tokenizer, names)
