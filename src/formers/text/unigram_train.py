"""Training a Unigram vocabulary: begin with far too many pieces, fit their probabilities, drop those that matter least.

Kudo 2018, section 3.2. The pieces to begin with are the substrings of words that occur often; expectation-maximisation fits
their probabilities; the share that costs the likelihood least is dropped; and so on until `vocab_size` is reached. Characters
are never dropped, so every word of the training text can be cut.

Departures: substrings are counted, not read from a suffix array (words are short, and each distinct one is counted once). What
dropping a piece costs is the score it has, less the score of the best way to cut it without it, times its occurrences: the
fall of the likelihood with all other probabilities held. The mean of log-probabilities under a sparse prior (digamma)
takes the place of the plain share, as in sentencepiece; it empties pieces that hardly occur.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from formers.errors import ConfigError, DataError
from formers.text.base import check_special
from formers.text.lattice import best_path, expected_edges, lattice
from formers.text.normalise import METASPACE
from formers.text.pipeline import Pipeline
from formers.text.template import frame
from formers.text.unigram import BYTE_NAMES, UnigramTokenizer
from formers.text.wordpiece import count_words

SPECIAL = ("<pad>", "</s>", "<unk>")
LONGEST_PIECE = 16
SEEDS_PER_PIECE, FEWEST_SEEDS = 10, 10_000
ROUNDS = 2
"""Expectation-maximisation rounds between two prunings."""
KEEP = 0.75
LEEWAY = 1.1
"""Pruning by what pieces cost stops here; the last tenth goes by probability."""
EMPTY = 0.5
"""A piece that is expected less often is dropped."""
IMPOSSIBLE = -1e9
"""For a character that no piece covers: there is none, in training."""

Scores = dict[str, float]
"""Piece -> log-probability."""


def train_unigram(
    texts: Iterable[str] | str,
    vocab_size: int | None = None,
    *,
    special_tokens: Iterable[str] = SPECIAL,
    lower: bool = False,
    alphabet: int | None = None,
    byte_fallback: bool = False,
) -> UnigramTokenizer:
    """Learn a vocabulary of `vocab_size` ids: special tokens, byte tokens if any, then pieces by falling probability.

    Args:
        lower: lower-case the text.
        alphabet: how many characters to keep, the most frequent; others are unknown. None keeps all.
        byte_fallback: spell unknown characters in bytes, which takes 256 ids.

    Raises:
        ConfigError: no vocab_size, or special tokens without "<unk>".
        DataError: no text, or a vocab_size that the text does not support.
    """
    special = tuple(special_tokens)
    fixed = [*special, *(BYTE_NAMES if byte_fallback else ())]
    pipeline = plain_pipeline(lower=lower)
    room = _room(fixed, special, vocab_size)
    counts = count_words(texts, pipeline)
    characters = _characters(counts, alphabet)
    counts = {word: count for word, count in counts.items() if characters.issuperset(word)}
    if room < len(characters):
        raise DataError(
            f"vocab_size {vocab_size} is smaller than the alphabet",
            wanted=f"at least {len(fixed) + len(characters)}: {len(characters)} characters, {len(fixed)} fixed tokens",
            do="ask for more, or keep fewer characters: alphabet=1000",
        )
    scores = fit(counts, characters, room)
    if len(scores) < room:
        raise DataError(
            f"vocab_size {vocab_size} is larger than this text supports",
            wanted=f"at most {len(fixed) + len(scores)}",
            do="ask for a smaller vocabulary, or train on more text",
        )
    return _tokenizer(scores, special, fixed, pipeline, byte_fallback)


def _room(fixed: list[str], special: tuple[str, ...], vocab_size: int | None) -> int:
    check_special(fixed)
    if "<unk>" not in special:
        raise ConfigError(f"special tokens {list(special)} without <unk>", wanted='"<unk>", for unknown characters')
    if vocab_size is None:
        raise ConfigError("a unigram tokenizer without vocab_size", wanted="a number of ids, such as 8192")
    return vocab_size - len(fixed)


def plain_pipeline(*, lower: bool) -> Pipeline:
    """NFKC, words at white space, each with a metaspace before it: T5's way but for the control characters."""
    steps: list[dict[str, Any]] = [{"type": "NFKC"}, *([{"type": "Lowercase"}] if lower else [])]
    metaspace = {"type": "Metaspace", "replacement": METASPACE, "prepend_scheme": "always", "split": True}
    return Pipeline(
        {"type": "Sequence", "normalizers": steps},
        {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, metaspace]},
    )


def _tokenizer(
    scores: Scores, special: tuple[str, ...], fixed: list[str], pipeline: Pipeline, byte_fallback: bool
) -> UnigramTokenizer:
    by_score = sorted(scores, key=lambda piece: (-scores[piece], piece))
    special_tokens = {name: place for place, name in enumerate(special)}
    names = dict(enumerate([*fixed, *by_score]))
    names = {token_id: name for token_id, name in names.items() if token_id >= len(special)}
    values = {token_id: scores.get(name, 0.0) for token_id, name in names.items()}
    end = frame(special_tokens, "a </s>", "a </s> b </s>") if "</s>" in special else None
    return UnigramTokenizer(names, values, special_tokens, pipeline, byte_fallback=byte_fallback, template=end)


# -- the fit ------------------------------------------------------------------------------------------------------------


def fit(counts: Mapping[str, int], characters: set[str], size: int) -> Scores:
    """Up to `size` pieces with their log-probabilities; fewer where the words do not hold so many."""
    scores = seeds(counts, characters, max(SEEDS_PER_PIECE * size, FEWEST_SEEDS))
    while True:
        for _ in range(ROUNDS):
            scores, _ = maximise(counts, scores, characters)
        if len(scores) <= LEEWAY * size:
            break
        scores = prune(counts, scores, characters, max(int(LEEWAY * size), int(KEEP * len(scores))))
    spare = sorted(scores.keys() - characters, key=lambda piece: (-scores[piece], piece))
    kept = characters | set(spare[: size - len(characters)])
    scores = {piece: scores[piece] for piece in sorted(kept)}
    for _ in range(ROUNDS):
        scores, _ = maximise(counts, scores, kept)
    return {piece: round(score, 6) for piece, score in scores.items()}


def _characters(counts: Mapping[str, int], most: int | None) -> set[str]:
    frequency: Counter[str] = Counter()
    for word, count in counts.items():
        for char in word:
            frequency[char] += count
    return set(sorted(frequency, key=lambda char: (-frequency[char], char))[:most])


def seeds(counts: Mapping[str, int], characters: set[str], most: int) -> Scores:
    """All characters, and the `most` substrings with the largest count times length among those that occur twice."""
    found: Counter[str] = Counter()
    for word, count in counts.items():
        for start in range(len(word)):
            for end in range(start + 1, min(len(word), start + LONGEST_PIECE) + 1):
                found[word[start:end]] += count
    weights = {piece: count * len(piece) for piece, count in found.items() if count > 1 and len(piece) > 1}
    chosen = sorted(weights, key=lambda piece: (-weights[piece], piece))[:most]
    kept = {piece: weights[piece] for piece in chosen} | {char: found[char] for char in characters}
    total = math.log(sum(kept.values()))
    return {piece: math.log(weight) - total for piece, weight in sorted(kept.items())}


def maximise(counts: Mapping[str, int], scores: Scores, keep: set[str]) -> tuple[Scores, float]:
    """One round of expectation-maximisation: new log-probabilities, and the log-likelihood under the old ones.

    Pieces that are expected less than `EMPTY` times are dropped, but for those in `keep`.
    """
    expected, likelihood = expectation(counts, scores)
    filled = {piece: max(expected[piece], EMPTY) for piece in scores if piece in keep or expected[piece] >= EMPTY}
    total = digamma(sum(filled.values()))
    return {piece: digamma(count) - total for piece, count in filled.items()}, likelihood


def expectation(counts: Mapping[str, int], scores: Scores) -> tuple[dict[str, float], float]:
    """How often each piece is expected over all ways to cut the words, and the log-likelihood of the words."""
    pieces, longest = _table(scores)
    expected: dict[str, float] = defaultdict(float)
    likelihood = 0.0
    for word, count in counts.items():
        log_probability, edges = expected_edges(lattice(word, pieces, longest, IMPOSSIBLE))
        likelihood += count * log_probability
        for piece, probability in edges:
            if piece is not None:
                expected[piece] += count * probability
    return expected, likelihood


def _table(scores: Scores) -> tuple[dict[str, tuple[float, str]], int]:
    return {piece: (score, piece) for piece, score in scores.items()}, max(map(len, scores))


def prune(counts: Mapping[str, int], scores: Scores, characters: set[str], size: int) -> Scores:
    """The `size` pieces whose loss the words would feel most; characters always."""
    pieces, longest = _table(scores)
    used: Counter[str] = Counter()
    for word, count in counts.items():
        for start, end, _ in best_path(lattice(word, pieces, longest, IMPOSSIBLE)):
            used[word[start:end]] += count
    cost = {
        piece: used[piece] * (scores[piece] - _without(piece, pieces, longest)) for piece in scores.keys() - characters
    }
    spare = sorted(cost, key=lambda piece: (-cost[piece], -scores[piece], piece))
    kept = characters | set(spare[: size - len(characters)])
    return {piece: score for piece, score in scores.items() if piece in kept}


def _without(piece: str, pieces: dict[str, tuple[float, str]], longest: int) -> float:
    """The log-probability of the best way to cut `piece` into others."""
    edges = lattice(piece, pieces, longest, IMPOSSIBLE)
    edges[0] = [edge for edge in edges[0] if edge[0] < len(piece)]
    return sum(pieces[piece[start:end]][0] for start, end, _ in best_path(edges))


def digamma(x: float) -> float:
    """The derivative of log gamma, for x > 0: up the recurrence to 7, then the asymptotic series (to 1e-10)."""
    shift = 0.0
    while x < 7:
        shift, x = shift - 1 / x, x + 1
    square = 1 / (x * x)
    series = square * (1 / 12 - square * (1 / 120 - square * (1 / 252 - square * (1 / 240 - square / 132))))
    return shift + math.log(x) - 0.5 / x - series
