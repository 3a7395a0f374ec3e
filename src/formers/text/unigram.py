"""Unigram: of all ways to cut a word into pieces, the most probable. What T5, ALBERT and DeBERTa-v3 use (Kudo 2018).

Each piece has a log-probability, and a cut has the sum of its pieces'. A character that no piece covers is unknown, at 10 below
the worst piece; unknown characters in a row are one token, or, in vocabularies with `byte_fallback`, their bytes. Words
carry the space before them as "▁" (`normalise.METASPACE`).
"""

from __future__ import annotations

import math
import random
import struct
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from formers.errors import ConfigError, DataError
from formers.text import hf_format
from formers.text.base import check_text
from formers.text.lattice import Path, best_path, lattice, random_path
from formers.text.normalise import METASPACE
from formers.text.pipeline import Pipeline
from formers.text.worded import Cut, WordTokenizer

UNKNOWN_PENALTY = 10.0
BYTE_NAMES = [f"<0x{value:02X}>" for value in range(256)]


class UnigramTokenizer(WordTokenizer):
    """Unigram over a given vocabulary; arguments as in :class:`WordTokenizer`, and:

    Args:
        scores: id -> log-probability, for every id of `names`.
        byte_fallback: spell unknown characters in the 256 byte tokens, which then no text can name.
    """

    kind = "unigram"

    def __init__(
        self,
        names: Mapping[int, str],
        scores: Mapping[int, float],
        special_tokens: Mapping[str, int],
        pipeline: Pipeline,
        *,
        unknown: str | None = "<unk>",
        byte_fallback: bool = False,
        **rest: Any,
    ) -> None:
        self.scores, self.byte_fallback = dict(scores), byte_fallback
        super().__init__(names, special_tokens, pipeline, unknown=unknown, **rest)
        self._opens_with_space = pipeline.adds_prefix
        self._byte_ids = [self.id_of[name] for name in BYTE_NAMES] if byte_fallback else []
        apart = set(self._byte_ids)
        self._pieces = {n: (self.scores[i], i) for i, n in self.names.items() if i not in apart}
        self._longest = max(map(len, self._pieces), default=1)
        self._unknown_score = min((score for score, _ in self._pieces.values()), default=0.0) - UNKNOWN_PENALTY

    def _check(self, words: Any) -> None:
        super()._check(words)
        if self.scores.keys() != self.names.keys() or not all(map(math.isfinite, self.scores.values())):
            raise DataError(
                "scores that are missing, left over or not finite", wanted="a log-probability for every token"
            )
        if self.byte_fallback and not set(BYTE_NAMES) <= self.id_of.keys():
            raise DataError("byte_fallback without all bytes in the vocabulary", wanted="<0x00> to <0xFF>")

    def lattice(self, word: str) -> list[list[tuple[int, float, int | None]]]:
        """The pieces that fit into a word, by where they start (see :mod:`formers.text.lattice`)."""
        return lattice(word, self._pieces, self._longest, self._unknown_score)

    def cut_word(self, word: str) -> list[Cut]:
        """The most probable pieces."""
        return self._known(word, best_path(self.lattice(word)))

    def sample(self, text: str, draw: random.Random, *, alpha: float = 0.1) -> list[int]:
        """Ids of one of the ways to cut `text`, drawn with probability proportional to its own to the power of `alpha`.

        `alpha` 1 draws as the model thinks, 0 any way alike; the larger, the nearer to `encode`. Kudo trains with 0.1 to 0.5.

        Raises:
            ConfigError: a negative alpha.
        """
        check_text(text)
        if not alpha >= 0:
            raise ConfigError(f"alpha is {alpha}", wanted="0 or more")
        return [i for word in self.pipeline.words(text) for i, _, _ in self._sampled(word, alpha, draw)]

    def _sampled(self, word: str, alpha: float, draw: random.Random) -> list[Cut]:
        return self._known(word, random_path(self.lattice(word), alpha, draw))

    def _known(self, word: str, path: Path[int]) -> list[Cut]:
        """A path as tokens: what is unknown becomes one token a run, or one a byte."""
        cuts: list[Cut] = []
        since = None
        for start, end, token_id in [*path, (len(word), len(word), -1)]:
            if token_id is None:
                since = start if since is None else since
                continue
            if since is not None:
                cuts += self._unknown_run(word, since, start)
                since = None
            cuts.append((token_id, start, end))
        return cuts[:-1]

    def _unknown_run(self, word: str, start: int, end: int) -> list[Cut]:
        if self.byte_fallback:
            places = range(start, end)
            return [(self._byte_ids[value], p, p + 1) for p in places for value in word[p].encode()]
        if self.unknown_id is None:
            raise DataError(
                f"the vocabulary lacks {word[start:end]!r} and has no unknown token",
                wanted="characters of the training text",
                do="leave them out, or use a vocabulary with an unknown token or byte_fallback",
            )
        return [(self.unknown_id, start, end)]

    def _only_here(self, text: str) -> bool:
        # There a byte token is a piece like any other, and without a metaspace the special tokens cannot be hidden.
        return (self.byte_fallback and "<0x" in text) or not self.pipeline.has_metaspace

    # -- decoding -------------------------------------------------------------------------------------------------------

    @cached_property
    def _tokens(self) -> dict[int, bytes]:
        spelled = {token_id: name.replace(METASPACE, " ").encode() for token_id, name in self.names.items()}
        return spelled | {token_id: bytes([value]) for value, token_id in enumerate(self._byte_ids)}

    # -- files ----------------------------------------------------------------------------------------------------------

    def _content(self) -> dict[str, object]:
        # As 32-bit numbers: the Rust library reads decimals to within the last bit of 64.
        scores = struct.pack(f"<{len(self.scores)}f", *(score for _, score in sorted(self.scores.items()))).hex()
        return super()._content() | {"scores": scores, "byte_fallback": self.byte_fallback}

    def _model(self, *, special: bool) -> dict[str, Any]:
        """The form holds a list without gaps, so special tokens stay in it; a space in a name, and no word spells it."""
        hidden = {i: name if special else f" {name}" for name, i in self.special_tokens.items()}
        size = max(self.names, default=-1) + 1
        if self.unknown_id is not None:
            size = max(size, self.unknown_id + 1)
        vocab = [(self.names.get(i) or hidden.get(i) or f" {i}", self.scores.get(i, 0.0)) for i in range(size)]
        return hf_format.unigram_model(vocab, self.unknown_id, self.byte_fallback)

    def _decoder(self) -> dict[str, Any]:
        scheme = "always" if self.pipeline.adds_prefix else "never"
        metaspace = {"type": "Metaspace", "replacement": METASPACE, "prepend_scheme": scheme, "split": True}
        if not self.byte_fallback:
            return metaspace
        return {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, metaspace]}
