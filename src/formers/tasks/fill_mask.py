"""Fill-mask: the most probable tokens for every mask token of a text."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from formers.errors import DataError, TargetError
from formers.tasks.base import Item, Pipeline
from formers.tasks.options import FillMaskOptions
from formers.tasks.results import Choice, Gap
from formers.tasks.rows import Rows, each_row, probabilities
from formers.text import Encodings, WordPieceTokenizer, encode_texts

Best = tuple[list[int], list[float], list[float | None]]
"""Of a gap: ids, probabilities, gains."""


class FillMask(Pipeline[FillMaskOptions, list[Gap]]):
    """A text gives a `Gap` for every mask token in it.

    A text must fit into the model's positions: cutting it might cut the gap off. Raises DataError where it does not, where
    there is no mask token, and where a target is no token of the vocabulary.
    """

    def check_model(self) -> None:
        super().check_model()
        if self.tokenizer.role("mask") is None:
            raise TargetError(
                f"the tokenizer has no mask token (special tokens: {', '.join(self.tokenizer.special_tokens) or 'none'})",
                "[MASK] or <mask>",
                "use the tokenizer that the model was trained with",
            )

    @cached_property
    def mask(self) -> str:
        """How the mask token is written in a text."""
        token_id = self.tokenizer.role("mask")
        return next(name for name, i in self.tokenizer.special_tokens.items() if i == token_id)

    def item(self, place: int, given: object) -> Item:
        item = super().item(place, given)
        if self.mask not in item.text:
            raise DataError(
                f"text {place} has no {self.mask}", "a place to fill", f"write {self.mask} where the word is to be"
            )
        return item

    def answer(self, items: Sequence[Item], options: FillMaskOptions) -> list[list[Gap]]:
        texts = [item.text for item in items]
        encodings = encode_texts(self.tokenizer, texts, allow_special=True, offsets=True)
        self._check_lengths(items, encodings)
        allowed = self._target_ids(options.targets)
        top_k = min(options.top_k, len(allowed))
        without = self._without_text() if options.relative else None

        def read(rows: Rows) -> list[list[Best]]:
            counts = (rows.input_ids == self.tokenizer.role("mask")).sum(1).tolist()
            best = iter(self._best(self._shares(rows), allowed, top_k, without))
            return [list(islice(best, count)) for count in counts]

        found = each_row(self.model, encodings, self.batch_size, read)
        return [self._gaps(item.text, self._places(encodings, i), found[i]) for i, item in enumerate(items)]

    def _check_lengths(self, items: Sequence[Item], encodings: Encodings) -> None:
        limit, lengths = self.limit(None), encodings.mask.sum(1).tolist()
        for item, length in zip(items, lengths, strict=True):
            if limit is not None and length > limit:
                raise DataError(
                    f"text {item.place} has {length} tokens, special ones included",
                    f"at most {limit}, the positions of this model",
                    "shorten it around the gap",
                )

    def _target_ids(self, targets: Sequence[str]) -> Tensor:
        """Ids of the words that may be chosen; without targets all."""
        if not targets:
            return torch.arange(self.tokenizer.vocab_size)  # the model may have more rows, which no token uses
        ids = [self.tokenizer.encode(target) for target in targets]
        named = list(zip(targets, ids, strict=True))
        several = [f"{target!r} ({len(found)} tokens)" for target, found in named if len(found) != 1]
        unknown = [repr(target) for target, found in named if found == [self.tokenizer.role("unknown")]]
        if several or unknown:
            raise DataError(
                "targets that are no token of the vocabulary: " + ", ".join([*several, *unknown]),
                "words that are one token each",
                "choose other words, or leave targets out",
            )
        return torch.tensor([found[0] for found in ids]).unique()

    def _shares(self, rows: Rows) -> Tensor:
        """Probabilities [gaps, vocab]. The head, the widest map of all, runs at the gaps alone."""
        hidden, _ = self.model.body(rows.input_ids, **rows.given)
        gaps = hidden[rows.input_ids == self.tokenizer.role("mask")]
        return probabilities(self.model.head(gaps[None])[0])

    def _without_text(self) -> Tensor:
        """Probabilities [vocab] of a mask token that stands alone."""
        alone = encode_texts(self.tokenizer, [self.mask], allow_special=True)
        return each_row(self.model, alone, 1, lambda rows: list(self._shares(rows)))[0]

    def _best(self, shares: Tensor, allowed: Tensor, top_k: int, without: Tensor | None) -> list[Best]:
        """Of every gap the best ids, their probabilities, and their gains where they are ranked by these."""
        ranks = shares[:, allowed] if without is None else (shares.log() - without.log())[:, allowed]
        values, which = ranks.topk(top_k)
        ids = allowed[which]
        gains: list[list[float | None]] = [[None] * top_k] * len(ids) if without is None else values.tolist()
        return list(zip(ids.tolist(), shares.gather(1, ids).tolist(), gains, strict=True))

    def _places(self, encodings: Encodings, row: int) -> np.ndarray:
        """[gaps, 2], the characters of every mask token."""
        assert encodings.offsets is not None
        return encodings.offsets[row][encodings.input_ids[row] == self.tokenizer.role("mask")]

    def _gaps(self, text: str, places: np.ndarray, found: Sequence[Best]) -> list[Gap]:
        gaps = []
        for (start, end), best in zip(places.tolist(), found, strict=True):
            choices = (self._choice(text, start, end, *one) for one in zip(*best, strict=True))
            gaps.append(Gap(start, end, tuple(choices)))
        return gaps

    def _choice(self, text: str, start: int, end: int, token_id: int, score: float, gain: float | None) -> Choice:
        spelt = self.tokenizer.token_bytes(token_id, show_special=True).decode(errors="replace")
        before = text[:start]
        joins = not spelt.startswith(" ") and self.tokenizer._opens_with_space and token_id not in self._special
        if joins or spelt.startswith(" "):
            before = before.rstrip(" ")
        filled = before + (spelt if before else spelt.lstrip(" ")) + text[end:]
        return Choice(self._name(token_id, spelt), token_id, score, filled, gain)

    def _name(self, token_id: int, spelt: str) -> str:
        if isinstance(self.tokenizer, WordPieceTokenizer):
            return self.tokenizer.names.get(token_id, spelt)
        return spelt.removeprefix(" ")

    @cached_property
    def _special(self) -> frozenset[int]:
        return frozenset(self.tokenizer.special_tokens.values())
