"""All the ways to cut a word into pieces, and sums over them: the mathematics of Unigram (Kudo 2018, section 3).

A cut has the probability of its pieces multiplied. The ways are paths through a lattice: a node between any two characters,
an edge for every piece of the vocabulary that fits between two nodes. `paths` lists them one by one, as the definition says;
the other functions give the best, the sum, the expected counts and a random path in a time that grows with the edges.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

Key = TypeVar("Key")
Edge = tuple[int, float, Key | None]
"""Where a piece ends, its log-probability, and what it is; None for a character that no piece covers."""
Lattice = Sequence[Sequence[tuple[int, float, Key | None]]]
"""For each place the edges that start there, shorter ones first."""
Path = list[tuple[int, int, Key | None]]
"""Pieces as (start, end, what)."""


def lattice(
    word: str, pieces: Mapping[str, tuple[float, Key]], longest: int, unknown: float
) -> list[list[tuple[int, float, Key | None]]]:
    """Every piece that stands in `word`; a character that is no piece itself may be unknown, at `unknown`."""
    edges: list[list[tuple[int, float, Key | None]]] = []
    for start in range(len(word)):
        ends = range(start + 1, min(len(word), start + longest) + 1)
        here: list[tuple[int, float, Key | None]] = [
            (end, *pieces[piece]) for end in ends if (piece := word[start:end]) in pieces
        ]
        if not here or here[0][0] > start + 1:
            here.insert(0, (start + 1, unknown, None))
        edges.append(here)
    return edges


def paths(edges: Lattice[Key], start: int = 0) -> Iterator[tuple[float, Path[Key]]]:
    """Every path from `start` to the end with its log-probability. There may be exponentially many: for tests."""
    if start == len(edges):
        yield 0.0, []
    for end, score, key in edges[start] if start < len(edges) else ():
        for rest, path in paths(edges, end):
            yield score + rest, [(start, end, key), *path]


def best_path(edges: Lattice[Key]) -> Path[Key]:
    """The most probable path (Viterbi). Of equals, the one whose last piece starts first, as in the Rust library."""
    best = [0.0] + [-math.inf] * len(edges)
    back: list[tuple[int, Key | None]] = [(0, None)] * (len(edges) + 1)
    for start, here in enumerate(edges):
        so_far = best[start]
        for end, score, key in here:
            if score + so_far > best[end]:
                best[end], back[end] = score + so_far, (start, key)
    return _trace(back)


def _trace(back: Sequence[tuple[int, Key | None]]) -> Path[Key]:
    path: Path[Key] = []
    end = len(back) - 1
    while end:
        start, key = back[end]
        path.append((start, end, key))
        end = start
    return path[::-1]


def log_sums(edges: Lattice[Key], alpha: float = 1.0) -> list[float]:
    """For each node the log of the sum over all paths to it, each to the power of `alpha`."""
    sums = [0.0] + [-math.inf] * len(edges)
    for start, here in enumerate(edges):
        for end, score, _ in here:
            sums[end] = _log_add(sums[end], sums[start] + alpha * score)
    return sums


def _log_add(a: float, b: float) -> float:
    if a < b:
        a, b = b, a
    return a if b == -math.inf else a + math.log1p(math.exp(b - a))


def expected_edges(edges: Lattice[Key]) -> tuple[float, list[tuple[Key | None, float]]]:
    """The log-probability of the word, and each edge's key with the probability that a path takes it (forward-backward)."""
    to = log_sums(edges)
    after = [-math.inf] * len(edges) + [0.0]
    found: list[tuple[Key | None, float]] = []
    total = to[-1]
    for start in range(len(edges) - 1, -1, -1):
        for end, score, key in edges[start]:
            after[start] = _log_add(after[start], score + after[end])
            found.append((key, math.exp(to[start] + score + after[end] - total)))
    return total, found


def random_path(edges: Lattice[Key], alpha: float, draw: random.Random) -> Path[Key]:
    """A path drawn with probability proportional to its own to the power of `alpha`: 0 draws any path, infinity the best.

    Forward sums, then from the end backwards each edge by its share of the sum (exact; Kudo draws from the n best).
    """
    sums = log_sums(edges, alpha)
    into: list[list[tuple[int, float, Key | None]]] = [[] for _ in sums]
    for start, here in enumerate(edges):
        for end, score, key in here:
            into[end].append((start, score, key))
    path: Path[Key] = []
    end = len(edges)
    while end:
        shares = [math.exp(sums[start] + alpha * score - sums[end]) for start, score, _ in into[end]]
        start, _, key = draw.choices(into[end], shares)[0]
        path.append((start, end, key))
        end = start
    return path[::-1]
