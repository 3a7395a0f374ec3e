"""Random histories of a memory agree with lists of entries, whatever is forgotten first."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest
import torch
from torch import Tensor

from formers.parts.forgetting import LeastRecentlyUsed, LeastUsed, Oldest, OldestDocument, Policy
from formers.parts.masks import EarlierSegment, SameDocument
from formers.parts.memory import Memory, recall
from formers.parts.positions import Positions

SHOWS = EarlierSegment(4) & SameDocument()
POLICIES: dict[str, Policy] = {
    "oldest": Oldest(),
    "least used": LeastUsed(),
    "least used, the newest spared": LeastUsed(grace=4),
    "least recently used": LeastRecentlyUsed(),
    "oldest document": OldestDocument(),
}


# --- the brute-force model ------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Entry:
    number: int
    index: int
    document: int
    key: Tensor  # [heads, d]
    value: Tensor
    hits: int = 0
    last_hit: int = 0


class ListMemory:
    """Lists of entries, one for each row: what a memory is meant to be."""

    def __init__(self, rows: int, slots: int, policy: Policy) -> None:
        self.rows: list[list[Entry]] = [[] for _ in range(rows)]
        self.written, self.slots, self.policy = [0] * rows, slots, policy

    def add(self, row: int, tokens: list[tuple[int, int, Tensor, Tensor]]) -> None:
        new = []
        for index, document, key, value in tokens:
            if index >= 0:
                new.append(Entry(self.written[row], index, document, key, value))
                self.written[row] += 1
        new = new[-self.slots :]
        for entry in new:
            entry.last_hit = self.written[row]
        self._forget(row, len(new) - (self.slots - len(self.rows[row])), {entry.document for entry in new})
        self.rows[row] += new

    def _forget(self, row: int, many: int, coming: set[int]) -> None:
        entries, newest = self.rows[row], max((entry.number for entry in self.rows[row]), default=0)
        latest = {e.document: max(o.number for o in entries if o.document == e.document) for e in entries}

        def rank(entry: Entry) -> tuple[int, ...]:
            if isinstance(self.policy, LeastUsed):
                return int(entry.number > newest - self.policy.grace), entry.hits, entry.number
            if isinstance(self.policy, LeastRecentlyUsed):
                return entry.last_hit, entry.number
            if isinstance(self.policy, OldestDocument):
                return latest[entry.document], entry.number
            return (entry.number,)

        if isinstance(self.policy, LeastUsed):  # those that are spared go by age alone
            spared = [e for e in entries if e.number > newest - self.policy.grace]
            order = sorted((e for e in entries if e not in spared), key=rank) + spared
        else:
            order = sorted(entries, key=rank)
        gone = order[: max(0, many)]
        if isinstance(self.policy, OldestDocument):
            documents = {entry.document for entry in gone} - coming
            gone += [entry for entry in entries if entry.document in documents and entry not in gone]
        self.rows[row] = [entry for entry in entries if all(entry is not other for other in gone)]

    def look_up(self, row: int, head: int, q: Tensor, index: int, document: int, k: int) -> list[Entry]:
        if index < 0:
            return []
        seen = [e for e in self.rows[row] if e.document == document and e.index < index // 4 * 4]
        return sorted(seen, key=lambda e: -float(e.key[head] @ q))[:k]


# --- random histories -----------------------------------------------------------------------------------------------

HEADS, WIDTH, K = 2, 3, 4


def _agree(memory: Memory, model: ListMemory) -> None:
    assert memory.written.tolist() == model.written
    for row, entries in enumerate(model.rows):
        held = {int(n): slot for slot, n in enumerate(memory.number[row]) if n >= 0}
        assert sorted(held) == [entry.number for entry in sorted(entries, key=lambda e: e.number)]
        for entry in entries:
            slot = held[entry.number]
            assert torch.equal(memory.keys.part(row, slice(None), slice(slot, slot + 1))[:, 0], entry.key)
            assert torch.equal(memory.values.part(row, slice(None), slice(slot, slot + 1))[:, 0], entry.value)
            assert (int(memory.index[row, slot]), int(memory.document[row, slot])) == (entry.index, entry.document)
            if memory.hits is not None:
                assert (int(memory.hits[row, slot]), int(memory.last_hit[row, slot])) == (entry.hits, entry.last_hit)


def _call(memory: Memory, model: ListMemory, data: st.DataObject, generator: torch.Generator, commit: bool) -> Memory:
    """Look up and write, in both, for some rows; or look up alone."""
    rows = data.draw(st.lists(st.integers(0, len(model.rows) - 1), unique=True, min_size=1), "rows")
    length = data.draw(st.integers(1, 6), "length")
    document = torch.tensor(data.draw(st.lists(st.integers(0, 2), min_size=len(rows), max_size=len(rows)), "documents"))
    first = data.draw(st.integers(0, 20), "first")
    index = torch.arange(first, first + length)[None].repeat(len(rows), 1)
    index[torch.rand(index.shape, generator=generator) < 0.2] = -1
    positions = Positions(index, document[:, None].expand_as(index).clone())
    q, k, v = (
        torch.randn(len(rows), heads, length, WIDTH, generator=generator, dtype=torch.float64)
        for heads in (2 * HEADS, HEADS, HEADS)
    )
    where = torch.tensor(rows)
    before = {name: t.clone() for name, t in memory.tensors().items()}
    found, staged = recall(memory, q, k, v, positions, mask=SHOWS, most=K, rows=where, write=commit)
    for name, tensor in memory.tensors().items():
        assert torch.equal(tensor, before[name]), f"a look-up changed {name}"
    for i, row in enumerate(rows):
        _found_as_sorted(found, model, i, row, q, positions, (k, v), commit)
    if staged is None:
        assert not commit
        return memory
    for i, row in enumerate(rows):
        tokens = [
            (int(index[i, t]), int(document[i]), k[i, :, t].to(memory.keys.dtype), v[i, :, t].to(memory.values.dtype))
            for t in range(length)
        ]
        model.add(row, tokens)
    return staged.commit()


def _found_as_sorted(
    found: Any, model: ListMemory, i: int, row: int, q: Tensor, p: Positions, fresh: Any, commit: bool
) -> None:
    """What a call finds for one of its rows, against sorting; the model notes the hits where the call will be written."""
    assert p.document is not None
    own = ListMemory(1, 1 << 20, Oldest())
    own.add(
        0, [(int(p.index[i, t]), int(p.document[i, t]), fresh[0][i, :, t], fresh[1][i, :, t]) for t in range(p.length)]
    )
    for head in range(q.shape[1]):
        for t in range(p.length):
            question = (head // 2, q[i, head, t], int(p.index[i, t]), int(p.document[i, t]))
            both = model.look_up(row, *question, k=K) + own.look_up(0, *question, k=K)
            wanted = sorted(both, key=lambda e, g=question: -float(e.key[g[0]] @ g[1]))[:K]
            assert found.index[i, head, t].tolist() == [e.index for e in wanted] + [-1] * (K - len(wanted))
            for place, entry in enumerate(wanted):
                assert torch.equal(found.keys[i, head, t, place], entry.key[head // 2])
                assert torch.equal(found.values[i, head, t, place], entry.value[head // 2])
                if commit and any(entry is held for held in model.rows[row]):
                    entry.hits += 1
                    entry.last_hit = model.written[row]


def _remove(memory: Memory, model: ListMemory, data: st.DataObject) -> Memory:
    row = data.draw(st.integers(0, len(model.rows) - 1), "row")
    if data.draw(st.booleans(), "by document"):
        document = data.draw(st.integers(0, 2), "document")
        model.rows[row] = [e for e in model.rows[row] if e.document != document]
        return memory.remove(row, document=document)
    numbers = data.draw(st.lists(st.integers(0, 40), max_size=8), "numbers")
    model.rows[row] = [e for e in model.rows[row] if e.number not in numbers]
    return memory.remove(row, numbers=numbers)


def _clear(memory: Memory, model: ListMemory, data: st.DataObject) -> Memory:
    rows = data.draw(st.lists(st.booleans(), min_size=len(model.rows), max_size=len(model.rows)), "cleared")
    for row, cleared in enumerate(rows):
        if cleared:
            model.rows[row], model.written[row] = [], 0
    return memory.reset(torch.tensor(rows))


def history(policy: Policy, data: st.DataObject, through: Callable[[Memory], Memory]) -> None:
    slots = data.draw(st.integers(1, 9), "slots")
    memory = Memory.empty(2, HEADS, slots, WIDTH, WIDTH, dtype=torch.float64, policy=policy)
    model, generator = (
        ListMemory(2, slots, policy),
        torch.Generator().manual_seed(data.draw(st.integers(0, 99), "seed")),
    )
    for step in data.draw(st.lists(st.sampled_from("wwwwlrcs"), min_size=1, max_size=9), "steps"):
        if step in "wl":
            memory = _call(memory, model, data, generator, commit=step == "w")
        elif step == "r":
            memory = _remove(memory, model, data)
        elif step == "c":
            memory = _clear(memory, model, data)
        else:
            memory = through(memory)
        _agree(memory, model)


def _copied(memory: Memory) -> Memory:
    """As a checkpoint stores and reads it."""
    return memory.with_tensors({name: tensor.clone() for name, tensor in memory.tensors().items()})


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES.keys())
@hypothesis.given(data=st.data())
def test_random_histories_agree_with_lists(policy: Policy, data: st.DataObject) -> None:
    """`make check` tries 300 histories for each policy."""
    history(policy, data, _copied)
