"""Languages: one that nests, and one that is new in every row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from formers.config import below_one, require
from formers.tasks.synthetic.base import NOT_ASKED, Row, Task


@dataclass(frozen=True)
class Brackets(Task):
    """Brackets of several kinds, open and closed in order: where one closes, of which kind is it? By depth.

    The kind follows from the bracket that was opened last and is open still, however much stands between. Whether the next
    one opens or closes is chance; the score asks for the kind alone.
    """

    name: ClassVar[str] = "brackets"
    summary: ClassVar[str] = "nested brackets: which kind closes, by depth"
    groups: ClassVar[str] = "depth"

    kinds: int = 4
    deepest: int = 8
    length: int = 128

    def __post_init__(self) -> None:
        require("Brackets", below_one(self, ("kinds", "deepest", "length")))

    @property
    def vocab_size(self) -> int:
        return 2 * self.kinds

    @property
    def seq_len(self) -> int:
        return self.length - 1

    @property
    def chance(self) -> float:
        return 1 / self.kinds

    def row(self, generator: np.random.Generator) -> Row:
        opens, kind = generator.random(self.length) < 0.5, generator.integers(0, self.kinds, self.length)
        text, depth, still_open = np.empty(self.length, dtype=np.int64), np.zeros(self.length, dtype=np.int64), []
        for i in range(self.length):
            if not still_open or (opens[i] and len(still_open) < self.deepest):
                still_open.append(int(kind[i]))
                text[i] = kind[i]
            else:
                depth[i] = len(still_open)
                text[i] = self.kinds + still_open.pop()
        row = Row.of(text, np.ones(self.length, dtype=bool), np.where(depth > 0, depth, NOT_ASKED))
        closing = np.broadcast_to(np.arange(self.vocab_size) >= self.kinds, (self.seq_len, self.vocab_size))
        return Row(row.ids, row.targets, row.group, among=closing)


@dataclass(frozen=True)
class Automata(Task):
    """Words of a language that no other row has: those of a random automaton, to be learnt from the words before.

    An automaton has `fewest` to `most` states, and from each 1 to `arcs` arcs to other states, as likely as each other, each
    with a symbol of its own among the `symbols`; a word begins in the first state. Right is any symbol that the automaton
    allows; the second half of the row is asked (after RegBench, Akyurek et al., 2401.12973).
    """

    name: ClassVar[str] = "automata"
    summary: ClassVar[str] = "words of a random automaton: which symbols may come next?"

    symbols: int = 16
    fewest: int = 4
    most: int = 8
    arcs: int = 3
    word: int = 12
    length: int = 256

    def __post_init__(self) -> None:
        problems = below_one(self, ("symbols", "arcs", "word", "length"))
        if self.fewest < 2:
            problems.append(f"fewest is {self.fewest}, wanted at least 2 states")
        if self.most < self.fewest:
            problems.append(f"most is {self.most}, wanted at least fewest = {self.fewest}")
        if self.arcs > self.symbols:
            problems.append(f"arcs is {self.arcs}, wanted at most symbols = {self.symbols}")
        require("Automata", problems)

    @property
    def vocab_size(self) -> int:
        return self.symbols + 1

    @property
    def seq_len(self) -> int:
        return self.length - 1

    @property
    def chance(self) -> float:
        return (1 + self.arcs) / 2 / self.symbols

    def row(self, generator: np.random.Generator) -> Row:
        end = self.symbols
        states = int(generator.integers(self.fewest, self.most + 1))
        arcs = [generator.permutation(self.symbols)[: generator.integers(1, self.arcs + 1)] for _ in range(states)]
        leads = (np.arange(states)[:, None] + generator.integers(1, states, (states, self.symbols))) % states
        text = np.full(self.length, end)
        allowed, state, chosen = np.zeros((self.length, self.vocab_size), bool), 0, generator.random(self.length)
        for i in range(self.length):
            if i % (self.word + 1) == self.word:  # words are of one length, and a mark divides them
                allowed[i, end], state = True, 0
                continue
            symbol = arcs[state][int(chosen[i] * len(arcs[state]))]
            text[i], allowed[i, arcs[state]] = symbol, True
            state = int(leads[state, symbol])
        late = np.arange(self.length) >= self.length // 2
        row = Row.of(text, np.ones(self.length, dtype=bool), np.where(late & (text != end), 0, NOT_ASKED))
        return Row(row.ids, row.targets, row.group, right=allowed[1:])
