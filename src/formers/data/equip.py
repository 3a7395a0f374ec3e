"""The same shards for every objective: where their tokenizer lacks the special tokens that one needs, it is given them.

The text stays as it was cut; new ids come behind the vocabulary. A model that is trained on such shards has rows for them, and
is saved with the tokenizer that knows them. Shards and objective alone decide what is added, so whoever opens the shards
again (to go on, to evaluate) finds the same ids.
"""

from __future__ import annotations

import dataclasses

from formers.data.shards import Shards
from formers.data.texts import end_of_text
from formers.errors import ConfigError, suggest

FRAMED = ("masked_token", "next_sentence", "sentence_order", "replaced_token")
"""Objectives of models that read whole texts: they need padding, a mask, and a frame."""
SENTINELS = ("span_corruption",)
SOURCES = ("source_to_target",)
"""A decoder begins with padding."""
OBJECTIVES = ("next_token", *FRAMED, *SENTINELS, *SOURCES)


def equip(shards: Shards, objective: str) -> Shards:
    """The shards with a tokenizer that has what `objective` needs; the shards themselves where it has it already.

    Raises:
        ConfigError: an unknown objective.
        DataError: a tokenizer that cannot be given special tokens (char).
    """
    if objective not in OBJECTIVES:
        raise ConfigError(f"objective {objective!r}", ", ".join(OBJECTIVES), suggest(objective, OBJECTIVES))
    if objective == "next_token":
        return shards
    from formers.text import extend

    own = shards.tokenizer
    if objective in FRAMED:
        wider = extend.framed(own)
    elif objective in SENTINELS:
        wider = extend.with_sentinels(own)
    else:
        wider = extend.with_special_tokens(own, ["<pad>"] if own.role("pad") is None else [])
    if wider is own:
        return shards
    facts = {
        "vocab_size": wider.vocab_size,
        "text_vocab_size": own.vocab_size,
        "tokenizer_fingerprint": wider.fingerprint,
        "end_of_text": end_of_text(shards),
    }
    return dataclasses.replace(shards, meta={**shards.meta, **facts}, given_tokenizer=wider)
