"""Named entities: a tag for every token, and from tags the entities of a text, with their characters.

A text longer than the model's positions is read in windows that overlap; a token of several windows is tagged by the one in
which it has the most text on both sides. (transformers' pipeline, with its `stride`, finds entities window by window and keeps
the longer of two that overlap.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from formers.tasks.base import Item, Pipeline
from formers.tasks.entities import OUTSIDE, begins, split_tag
from formers.tasks.options import Aggregation, EntityOptions
from formers.tasks.results import Entity
from formers.tasks.rows import Rows, each_row, outputs, probabilities
from formers.text import Encodings, Tokenizer, WordPieceTokenizer, encode_texts


@dataclass(frozen=True)
class Tagged:
    """A token or a word: its characters start..end of the text, and the probabilities [labels] of its tags."""

    start: int
    end: int
    shares: np.ndarray

    @property
    def best(self) -> int:
        return int(self.shares.argmax())


class Entities(Pipeline[EntityOptions, list[Entity]]):
    """A text gives its entities, from left to right."""

    def answer(self, items: Sequence[Item], options: EntityOptions) -> list[list[Entity]]:
        limit = self.limit(options.max_length)
        stride = None if limit is None else limit // 4 if options.stride is None else options.stride
        windows = {} if limit is None else {"max_length": limit, "truncation": "only_first", "stride": stride}
        encodings = encode_texts(self.tokenizer, [item.text for item in items], offsets=True, **windows)

        def read(rows: Rows) -> list[np.ndarray]:
            shares = probabilities(outputs(self.model, rows).logits).numpy()
            return [row[:length] for row, length in zip(shares, rows.lengths, strict=True)]

        shares = each_row(self.model, encodings, self.batch_size, read)
        found = []
        for place, item in enumerate(items):
            rows = np.flatnonzero(encodings.sample == place).tolist()
            tokens, ids = joined(encodings, rows, [shares[row] for row in rows], stride or 0)
            found.append(self._entities(item.text, tokens, ids, options.aggregation))
        return found

    def _entities(self, text: str, tokens: list[Tagged], ids: list[int], how: Aggregation) -> list[Entity]:
        if how not in ("none", "simple"):
            groups = words(self.tokenizer, text, tokens, ids)
            tokens = [of_word(group, how) for group in groups]
        tags = [self.labels[token.best] for token in tokens]
        if how == "none":
            return [_entity(text, tag, [token]) for tag, token in zip(tags, tokens, strict=True) if tag != OUTSIDE]
        grouped: list[tuple[str, list[Tagged]]] = []
        for before, tag, token in zip([OUTSIDE, *tags], tags, tokens, strict=False):
            if begins(before, tag):
                grouped.append((split_tag(tag)[1], []))
            if tag != OUTSIDE:
                grouped[-1][1].append(token)
        return [_entity(text, kind, parts) for kind, parts in grouped]


def _entity(text: str, label: str, parts: Sequence[Tagged]) -> Entity:
    start, end = parts[0].start, parts[-1].end
    score = float(np.mean([part.shares.max() for part in parts]))
    return Entity(label, text[start:end], score, start, end)


def joined(
    encodings: Encodings, rows: Sequence[int], shares: Sequence[np.ndarray], stride: int
) -> tuple[list[Tagged], list[int]]:
    """The tokens of a text and their ids, from the rows that are its windows. shares: [row's tokens, labels] of each row."""
    assert encodings.offsets is not None
    ids: dict[int, int] = {}
    tokens: dict[int, Tagged] = {}
    margins: dict[int, int] = {}
    first = 0
    for row, of_row in zip(rows, shares, strict=True):
        places = np.flatnonzero(encodings.which[row] == 0)
        for at, place in enumerate(places.tolist()):
            margin = min(at, len(places) - 1 - at)
            if margin > margins.get(first + at, -1):
                start, end = encodings.offsets[row, place].tolist()
                ids[first + at] = int(encodings.input_ids[row, place])
                tokens[first + at], margins[first + at] = Tagged(start, end, of_row[place]), margin
        first += len(places) - stride
    return [tokens[at] for at in sorted(tokens)], [ids[at] for at in sorted(ids)]


def words(tokenizer: Tokenizer, text: str, tokens: Sequence[Tagged], ids: Sequence[int]) -> list[list[Tagged]]:
    """The tokens word by word."""
    found: list[list[Tagged]] = []
    for token, token_id in zip(tokens, ids, strict=True):
        if found and goes_on(tokenizer, text, found[-1][-1].end, token.start, token_id):
            found[-1].append(token)
        else:
            found.append([token])
    return found


def goes_on(tokenizer: Tokenizer, text: str, end: int, start: int, token_id: int) -> bool:
    """Whether a token that starts at `start` goes on with the word of the one before it, which ends at `end`.

    WordPiece says so itself. In other vocabularies a token does that shares a character with the one before, or that begins
    with a letter or digit right behind another.
    """
    if isinstance(tokenizer, WordPieceTokenizer):
        return tokenizer.names.get(token_id, "").startswith(tokenizer.inside)
    return start < end or (start == end < len(text) and text[end - 1].isalnum() and text[start].isalnum())


def of_word(tokens: Sequence[Tagged], how: Aggregation) -> Tagged:
    """A word from its tokens."""
    if how == "first":
        shares = tokens[0].shares
    elif how == "max":
        shares = max(tokens, key=lambda token: token.shares.max()).shares
    else:
        shares = np.mean([token.shares for token in tokens], axis=0)
    return Tagged(tokens[0].start, tokens[-1].end, shares)
