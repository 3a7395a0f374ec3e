"""Byte-pair encoding: how merges are learnt, and how they are applied. Read from top to bottom.

The idea (Sennrich et al. 2016; on bytes, Radford et al. 2019): a piece of text starts as its bytes, one symbol each. Training
looks for the two neighbouring symbols that occur most often, makes them one new symbol, and repeats. What is learnt is the
list of merges, in order. Encoding replays it: of all neighbours in a piece, the pair that was learnt *earliest* is merged
first, until no known pair is left.

Everything comes twice. The first half is what the words above say, as plain loops; the second half gives the same merges and
the same ids (the tests hold them to it) in a time that does not grow with the square of anything. Symbols are integers:
their ids. Bulk work runs in Rust (see rust.py), equal id for id to both.

**The tie rule.** Several pairs may be equally frequent. As in the Rust library, the highest count wins, then the smallest
(left id, right id). With another rule (minbpe: the pair met first) the same text gives another vocabulary.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

Pair = tuple[int, int]
Words = Mapping[tuple[int, ...], int]
"""The training text: each distinct piece, as ids, with its number of occurrences."""
Table = Mapping[Pair, tuple[int, int]]
"""What encoding reads: pair -> (rank, new id). The rank is the place in the list of merges; low merges first."""


def merge_table(merges: Sequence[Pair], new_ids: Iterable[int]) -> dict[Pair, tuple[int, int]]:
    """The table of a list of merges and the ids that they make. A pair that stands twice has its later rank, as in Rust."""
    return {pair: (rank, new) for rank, (pair, new) in enumerate(zip(merges, new_ids, strict=True))}


# -- the plain loops ----------------------------------------------------------------------------------------------------


def train_slowly(words: Words, num_merges: int, first_id: int, min_count: int = 1) -> list[Pair]:
    """Learn up to `num_merges` merges; the k-th makes the symbol `first_id` + k.

    Every round counts all pairs of the whole text again. Returns fewer merges when no pair occurs `min_count` times.
    """
    texts = {word: list(word) for word in words}
    merges: list[Pair] = []
    while len(merges) < num_merges:
        counts: Counter[Pair] = Counter()
        for word, symbols in texts.items():
            for pair in pairwise(symbols):
                counts[pair] += words[word]
        best = min(counts, key=lambda pair: (-counts[pair], pair), default=None)
        if best is None or counts[best] < min_count:
            break
        texts = {word: merge_everywhere(symbols, best, first_id + len(merges)) for word, symbols in texts.items()}
        merges.append(best)
    return merges


def merge_everywhere(symbols: list[int], pair: Pair, new: int) -> list[int]:
    """Replace `pair` by `new`, from left to right: in "aaa" the first two are merged."""
    merged, i = [], 0
    while i < len(symbols):
        found = tuple(symbols[i : i + 2]) == pair
        merged.append(new if found else symbols[i])
        i += 2 if found else 1
    return merged


def encode_slowly(symbols: Sequence[int], table: Table) -> list[int]:
    """Merge the neighbours with the lowest rank, the leftmost first, until none is in `table`."""
    symbols = list(symbols)
    while len(symbols) > 1:
        known = [(*table[pair], i) for i, pair in enumerate(pairwise(symbols)) if pair in table]
        if not known:
            break
        _, new, i = min(known)
        symbols[i : i + 2] = [new]
    return symbols


# -- the same, fast -----------------------------------------------------------------------------------------------------

BORDER = -1
"""Stands before and after every word in a chain, and in every place that a merge has emptied. No pair contains it."""


class Chain:
    """Words laid end to end as one doubly linked list, so that a merge touches its neighbours and nothing else."""

    def __init__(self, words: Iterable[Sequence[int]]) -> None:
        self.symbols: list[int] = [BORDER]
        for word in words:
            self.symbols += word
            self.symbols.append(BORDER)
        self.before = list(range(-1, len(self.symbols) - 1))
        self.after = list(range(1, len(self.symbols) + 1))

    def pair(self, place: int) -> Pair:
        """The symbol at `place` and the one after it."""
        return self.symbols[place], self.symbols[self.after[place]]

    def merge(self, place: int, new: int) -> None:
        """Put `new` at `place`, in the stead of the pair there."""
        gone = self.after[place]
        self.symbols[place], self.symbols[gone] = new, BORDER
        self.after[place] = self.after[gone]
        self.before[self.after[place]] = place

    def pairs(self) -> Iterable[tuple[int, Pair]]:
        """Every place with its pair, borders left out. Only for a chain in which nothing is merged yet."""
        symbols = self.symbols
        pairs = enumerate(pairwise(symbols))
        return ((place, pair) for place, pair in pairs if BORDER not in pair)


def train(words: Words, num_merges: int, first_id: int, min_count: int = 1) -> list[Pair]:
    """`train_slowly`, with counts kept up to date instead of taken anew: the work is proportional to what changes.

    A count that is in the heap can only have fallen since (a pair is born in one merge, whole): a pair that comes out with a
    count that is no longer true goes back with the true one.
    """
    index = PairIndex(words)
    heap = [(-count, pair) for pair, count in index.counts.items()]
    heapq.heapify(heap)
    merges: list[Pair] = []
    while heap and len(merges) < num_merges:
        count, pair = heapq.heappop(heap)
        now = index.counts[pair]
        if now < min_count:
            continue
        if now != -count:
            heapq.heappush(heap, (-now, pair))
            continue
        for born in index.merge(pair, first_id + len(merges)):
            heapq.heappush(heap, (-index.counts[born], born))
        merges.append(pair)
    return merges


class PairIndex:
    """For every pair its count, weighted by how often its words occur, and the places in the chain where it stood.

    The places of a pair come in rising order: all are born in one merge, which goes from left to right.
    """

    def __init__(self, words: Words) -> None:
        self.chain = Chain(words)
        self.weights = [0]
        for word, count in words.items():
            self.weights += [count] * (len(word) + 1)
        self.counts: Counter[Pair] = Counter()
        self.places: dict[Pair, list[int]] = {}
        for place, pair in self.chain.pairs():
            self._add(pair, place, self.weights[place])

    def _add(self, pair: Pair, place: int, weight: int) -> None:
        self.counts[pair] += weight
        self.places.setdefault(pair, []).append(place)

    def merge(self, pair: Pair, new: int) -> set[Pair]:
        """Replace `pair` by `new` wherever it stands, left to right; returns the pairs that this gave rise to."""
        chain, born = self.chain, set()
        for place in self.places.pop(pair):
            if chain.pair(place) != pair:  # its symbols went into another merge, or overlapped with the last one
                continue
            weight = self.weights[place]
            left, right = chain.before[place], chain.after[chain.after[place]]
            self.counts[chain.symbols[left], pair[0]] -= weight
            self.counts[pair[1], chain.symbols[right]] -= weight
            chain.merge(place, new)
            for start in (left, place):
                fresh = chain.pair(start)
                if BORDER not in fresh:
                    self._add(fresh, start, weight)
                    born.add(fresh)
        return born


SHORT = 24
"""Up to so many symbols the plain loop is the faster one."""


def encode(symbols: Sequence[int], table: Table) -> list[int]:
    """`encode_slowly` for pieces of any length: the heap holds every known pair, the chain says which still stand."""
    if len(symbols) <= SHORT:
        return encode_slowly(symbols, table)
    chain = Chain([symbols])
    heap = [(*table[pair], place) for place, pair in chain.pairs() if pair in table]
    heapq.heapify(heap)
    while heap:
        rank, new, place = heapq.heappop(heap)
        if table.get(chain.pair(place)) != (rank, new):
            continue
        chain.merge(place, new)
        for start in (chain.before[place], place):
            known = table.get(chain.pair(start))
            if known is not None:
                heapq.heappush(heap, (*known, start))
    return [symbol for symbol in chain.symbols if symbol != BORDER]
