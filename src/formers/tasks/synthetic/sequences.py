"""Random sequences that say their own answers: induction, key-value recall, copying, and moons on their orbits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from formers.config import below_one, require
from formers.tasks.synthetic.base import Row, Task


@dataclass(frozen=True)
class Induction(Task):
    """A sequence of `length` tokens of `symbols` comes twice; the second time each token follows from the one before.

    Random tokens stand before and between, `spread` in all, so that the two are at no fixed distance and places tell
    nothing. Two layers of attention solve it, and one does not: the token after an earlier one like this has to be found by
    the token before it (Olsson et al., 2209.11895). A head of a mosaic has just that as its key.
    """

    name: ClassVar[str] = "induction"
    summary: ClassVar[str] = "a random sequence comes twice: what followed the first time?"

    symbols: int = 64
    length: int = 32
    spread: int = 32

    def __post_init__(self) -> None:
        problems = below_one(self, ("symbols", "length")) + ["spread is negative"] * (self.spread < 0)
        require("Induction", problems)

    @property
    def vocab_size(self) -> int:
        return self.symbols

    @property
    def seq_len(self) -> int:
        return 2 * self.length + self.spread - 1

    @property
    def chance(self) -> float:
        return 1 / self.symbols

    def row(self, generator: np.random.Generator) -> Row:
        text = generator.integers(0, self.symbols, 2 * self.length + self.spread)
        between = int(generator.integers(0, self.spread + 1))
        first = self.spread - between
        again = first + self.length + between
        text[again:] = text[first : first + self.length]
        asked = np.arange(len(text)) > again  # the first token of the second time comes as a surprise
        return Row.of(text, asked)


@dataclass(frozen=True)
class Recall(Task):
    """Keys with values, then keys alone, in any order, each to be answered with its value."""

    name: ClassVar[str] = "recall"
    summary: ClassVar[str] = "pairs of keys and values, then keys: which value?"

    keys: int = 64
    values: int = 64
    pairs: int = 16
    questions_asked: int = 16

    def __post_init__(self) -> None:
        problems = below_one(self, ("keys", "values", "pairs", "questions_asked"))
        if self.pairs > self.keys:
            problems.append(f"pairs is {self.pairs}, wanted at most keys = {self.keys}")
        require("Recall", problems)

    @property
    def vocab_size(self) -> int:
        return self.keys + self.values

    @property
    def seq_len(self) -> int:
        return 2 * (self.pairs + self.questions_asked) - 1

    @property
    def chance(self) -> float:
        return 1 / self.values

    def row(self, generator: np.random.Generator) -> Row:
        keys = generator.permutation(self.keys)[: self.pairs]
        values = generator.integers(self.keys, self.vocab_size, self.pairs)
        which = np.concatenate([np.arange(self.pairs), generator.integers(0, self.pairs, self.questions_asked)])
        text = np.stack([keys[which], values[which]], 1).reshape(-1)
        place = np.arange(len(text))
        return Row.of(text, (place >= 2 * self.pairs) & (place % 2 == 1))


@dataclass(frozen=True)
class Copying(Task):
    """A sequence of random length, a mark, the same sequence, a mark, and so on with new sequences to the row's end."""

    name: ClassVar[str] = "copying"
    summary: ClassVar[str] = "a sequence, a mark, and the sequence again"

    symbols: int = 32
    shortest: int = 4
    longest: int = 24
    length: int = 128

    def __post_init__(self) -> None:
        problems = below_one(self, ("symbols", "shortest"))
        if not self.shortest <= self.longest <= (self.length - 2) // 2:
            problems.append(f"shortest {self.shortest}, longest {self.longest} do not fit a length of {self.length}")
        require("Copying", problems)

    @property
    def vocab_size(self) -> int:
        return self.symbols + 2

    @property
    def seq_len(self) -> int:
        return self.length - 1

    @property
    def chance(self) -> float:
        return 1 / self.symbols

    def row(self, generator: np.random.Generator) -> Row:
        again, done = self.symbols, self.symbols + 1
        text, asked = np.empty(0, dtype=np.int64), np.empty(0, dtype=bool)
        while len(text) < self.length:
            piece = generator.integers(0, self.symbols, int(generator.integers(self.shortest, self.longest + 1)))
            text = np.concatenate([text, piece, [again], piece, [done]])
            asked = np.concatenate([asked, np.zeros(len(piece) + 1, bool), np.ones(len(piece), bool), [False]])
        return Row.of(text[: self.length], asked[: self.length])


@dataclass(frozen=True)
class Moons(Task):
    """Three moons, each on an orbit of its own period, seen in turn: where on its orbit does each stand next?

    An orbit is a sequence of random places that comes again and again. A place follows from the row once its moon has been
    around; the sky as a whole comes again only after the common multiple of the periods. Whoever tells the moons apart
    knows after the longest period (Memory Mosaics, 2405.06394, section 6: predictive disentanglement).
    """

    name: ClassVar[str] = "moons"
    summary: ClassVar[str] = "three periods at once: predicted after the longest, or only after their common multiple?"
    groups: ClassVar[str] = "sky seen before"

    moons: int = 3
    places: int = 16
    shortest: int = 3
    longest: int = 11
    times: int = 48

    def __post_init__(self) -> None:
        problems = below_one(self, ("moons", "places", "shortest", "times"))
        if self.longest - self.shortest + 1 < self.moons:
            problems.append(f"periods {self.shortest} to {self.longest} are too few for {self.moons} moons")
        if self.times <= self.longest:
            problems.append(f"times is {self.times}, wanted more than the longest period, {self.longest}")
        require("Moons", problems)

    @property
    def vocab_size(self) -> int:
        return self.moons * self.places

    @property
    def seq_len(self) -> int:
        return self.moons * self.times - 1

    @property
    def chance(self) -> float:
        return 1 / self.places

    def row(self, generator: np.random.Generator) -> Row:
        periods = self.shortest + generator.permutation(self.longest - self.shortest + 1)[: self.moons]
        time, common = np.arange(self.times), int(np.lcm.reduce(periods))
        orbits = [generator.integers(0, self.places, period) for period in periods]
        sky = np.stack([m * self.places + orbit[time % len(orbit)] for m, orbit in enumerate(orbits)], 1)
        known = time[:, None] >= periods[None]
        whole = np.broadcast_to((time >= common)[:, None], known.shape)
        return Row.of(sky.reshape(-1), known.reshape(-1), whole.reshape(-1).astype(np.int64))
