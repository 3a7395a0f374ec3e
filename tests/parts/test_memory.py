"""The memory keeps what a list would keep, and finds what sorting would find."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from formers.errors import ConfigError, StateError
from formers.parts.forgetting import LeastUsed, Oldest, Policy
from formers.parts.masks import EarlierSegment, Everything
from formers.parts.memory import Memory, memory_bytes, recall
from formers.parts.positions import Positions

# --- capacity, removal, rows ------------------------------------------------------------------------------------------


def _tokens(batch: int, length: int, first: int = 0, heads: int = 2, d: int = 8) -> tuple[Tensor, Tensor, Positions]:
    k, v = torch.randn(batch, heads, length, d), torch.randn(batch, heads, length, d)
    return k, v, Positions.offset(first, length)


def _found_itself(memory: Memory, k: Tensor, v: Tensor) -> Tensor:
    """[batch, heads, tokens]: whether each key (of length one, so none is nearer) is found with its own value."""
    batch, _, length, _ = k.shape
    asked = Positions.offset(10**6, length).rows(batch)
    found, _ = recall(memory, k, k, v, asked, mask=EarlierSegment(10**6), most=1, write=False)
    return (found.keys[..., 0, :] == k).all(-1) & (found.values[..., 0, :] == v).all(-1) & found.present[..., 0]


@pytest.mark.parametrize("piece", [1, 7, 64, 100, 160])
def test_past_capacity_the_newest_are_found_with_their_own_values(piece: int) -> None:
    """2.5 times the capacity is written; the newest `capacity` are all found, the others never."""
    slots = 64
    k, v, p = _tokens(3, 160)
    k = k / k.norm(dim=-1, keepdim=True)
    memory = Memory.empty(3, 2, slots, 8, 8)
    for start in range(0, 160, piece):
        part = slice(start, min(start + piece, 160))
        memory = memory.add(k[:, :, part], v[:, :, part], p.slice(part.start, part.stop))
    found = _found_itself(memory, k, v)
    assert found[:, :, -slots:].all()
    assert not found[:, :, :-slots].any()


def test_of_a_thousand_entries_the_removed_are_never_found_and_the_others_always() -> None:
    k, v, p = _tokens(1, 1000)
    k = k / k.norm(dim=-1, keepdim=True)
    gone = torch.randperm(1000)[:300]
    memory = Memory.empty(1, 2, 1000, 8, 8).add(k, v, p).remove(0, numbers=gone)
    found, there = _found_itself(memory, k, v), torch.ones(1000, dtype=torch.bool).index_fill(0, gone, False)
    assert found[:, :, there].all()
    assert not found[:, :, ~there].any()
    assert memory.held.tolist() == [700]


def test_cleared_rows_find_nothing_and_the_others_everything() -> None:
    k, v, p = _tokens(2, 30)
    k = k / k.norm(dim=-1, keepdim=True)
    memory = Memory.empty(2, 2, 30, 8, 8).add(k, v, p).reset(torch.tensor([True, False]))
    found = _found_itself(memory, k, v)
    assert not found[0].any()
    assert found[1].all()


def test_rows_added_in_two_halves_find_what_one_whole_finds() -> None:
    q = torch.randn(4, 4, 12, 8)
    whole, halves = (Memory.empty(4, 2, 40, 8, 8, policy=LeastUsed()) for _ in range(2))
    for step in range(5):
        k, v, p = _tokens(4, 12, 12 * step)
        found, staged = recall(whole, q, k, v, p, mask=EarlierSegment(12), most=5)
        whole = staged.commit()
        for rows in (torch.tensor([2, 0]), torch.tensor([1, 3])):
            part, staged = recall(halves, q[rows], k[rows], v[rows], p, mask=EarlierSegment(12), most=5, rows=rows)
            halves = staged.commit()
            for name in ("keys", "values", "index", "document"):
                assert torch.equal(getattr(part, name), getattr(found, name)[rows])
    assert found.present.all()
    for name, tensor in whole.tensors().items():
        assert torch.equal(tensor, halves.tensors()[name]), name


def test_one_row_can_serve_a_whole_batch_but_not_be_written_by_it() -> None:
    k, v, p = _tokens(1, 20)
    memory = Memory.empty(1, 2, 20, 8, 8).add(k, v, p)
    q, rows, asked = torch.randn(3, 2, 4, 8), torch.zeros(3, dtype=torch.long), Positions.offset(20, 4)
    fresh = torch.randn(3, 2, 4, 8)
    shared, _ = recall(memory, q, fresh, fresh, asked, mask=EarlierSegment(20), most=3, rows=rows, write=False)
    for i in range(3):
        one = slice(i, i + 1)
        alone, _ = recall(memory, q[one], fresh[one], fresh[one], asked, mask=EarlierSegment(20), most=3, write=False)
        assert torch.equal(shared.keys[one], alone.keys)
    with pytest.raises(StateError, match="each once"):
        memory.add(fresh, fresh, asked, rows=rows)


def test_read_only_passes_leave_size_and_contents_as_they_are() -> None:
    k, v, p = _tokens(2, 20)
    memory = dataclasses.replace(Memory.empty(2, 2, 30, 8, 8, policy=LeastUsed()).add(k, v, p), read_only=True)
    before = {name: tensor.clone() for name, tensor in memory.tensors().items()}
    for _ in range(2):
        more = Positions.offset(20, 4)
        found, staged = recall(memory, k[:, :, :4], k[:, :, :4], v[:, :, :4], more, mask=EarlierSegment(20), most=3)
        assert found.present.all()
        assert staged is None
    assert memory.reset(torch.tensor([True, True])) is memory
    assert all(torch.equal(tensor, before[name]) for name, tensor in memory.tensors().items())
    with pytest.raises(StateError, match="read-only"):
        memory.add(k, v, p)
    with pytest.raises(StateError, match="read-only"):
        memory.remove(0, numbers=[1])


def test_what_is_not_committed_leaves_no_trace() -> None:
    k, v, p = _tokens(1, 8)
    memory = Memory.empty(1, 2, 8, 8, 8, policy=LeastUsed()).add(k, v, p)
    before = {name: tensor.clone() for name, tensor in memory.tensors().items()}
    recall(memory, k, k, v, Positions.offset(8, 8), mask=EarlierSegment(8), most=3)
    assert all(torch.equal(tensor, before[name]) for name, tensor in memory.tensors().items())


# --- storage ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("storage", [torch.float32, torch.bfloat16, torch.int8], ids=str)
def test_what_is_found_is_bitwise_what_is_stored(storage: torch.dtype) -> None:
    k, v, p = _tokens(2, 50)
    memory = Memory.empty(2, 2, 40, 8, 8, storage=storage).add(k, v, p)
    found, _ = recall(memory, k, k, v, Positions.offset(50, 50), mask=EarlierSegment(50), most=3, write=False)
    for row in range(2):
        for head in range(2):
            stored = torch.cat(
                [x.part(row, slice(head, head + 1), slice(None))[0].float() for x in (memory.keys, memory.values)], 1
            )
            got = torch.cat([found.keys[row, head], found.values[row, head]], -1).flatten(0, 1)
            assert (got[:, None] == stored[None]).all(-1).any(-1).all()


@pytest.mark.parametrize(("storage", "off"), [(torch.float32, 0.0), (torch.bfloat16, 2**-8), (torch.int8, 1 / 254)])
def test_storage_rounds_by_as_much_as_it_says(storage: torch.dtype, off: float) -> None:
    k, v, p = _tokens(1, 40)
    k[0, 0, 0] = 0.0
    memory = Memory.empty(1, 2, 40, 8, 8, storage=storage).add(k, v, p)
    read = memory.keys.part(0, slice(None), slice(None))[:, memory.number[0].argsort()].float()
    largest = k[0].abs().amax(-1, keepdim=True)
    assert ((read - k[0]).abs() <= off * largest * 1.001).all()
    assert torch.equal(memory.keys.rounded(k[0]).float(), read)
    assert (storage == torch.float32) == torch.equal(read, k[0])


@pytest.mark.parametrize("storage", [torch.float32, torch.bfloat16, torch.int8], ids=str)
def test_what_is_found_does_not_depend_on_how_the_text_was_cut(storage: torch.dtype) -> None:
    """Fresh entries read as they will once they are stored."""
    k, v, p = _tokens(1, 24)
    q, found = torch.randn(1, 2, 24, 8), []
    for pieces in ([24], [12, 12], [5, 7, 1, 11]):
        memory, parts, start = Memory.empty(1, 2, 24, 8, 8, storage=storage), [], 0
        for length in pieces:
            part = slice(start, start + length)
            where = p.slice(part.start, part.stop)
            got, staged = recall(
                memory, q[:, :, part], k[:, :, part], v[:, :, part], where, mask=EarlierSegment(4), most=3
            )
            memory, start = staged.commit(), start + length
            parts.append(torch.cat([got.keys, got.values, got.index[..., None].float()], -1) * got.present[..., None])
        found.append(torch.cat(parts, 2))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    assert found[0].abs().sum() > 0


@pytest.mark.parametrize("storage", [torch.float32, torch.bfloat16, torch.int8], ids=str)
@pytest.mark.parametrize("policy", [Oldest(), LeastUsed()], ids=repr)
def test_bytes_are_those_of_the_formula(storage: torch.dtype, policy: Policy) -> None:
    memory = Memory.empty(3, 2, 70, 8, 5, storage=storage, policy=policy)
    assert memory.nbytes == memory_bytes(3, 2, 70, 8, 5, dtype=storage, policy=policy)


# --- bad input ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("storage", [torch.float32, torch.float16, torch.int8], ids=str)
@pytest.mark.parametrize("which", ["keys", "values"])
def test_numbers_that_cannot_be_stored_are_refused_and_nothing_is_lost(storage: torch.dtype, which: str) -> None:
    k, v, p = _tokens(1, 6)
    memory = Memory.empty(1, 2, 6, 8, 8, storage=storage).add(k, v, p)
    before = {name: tensor.clone() for name, tensor in memory.tensors().items()}
    bad = {"keys": k.clone(), "values": v.clone()}
    bad[which][0, 1, 3, 2] = 1e30 if storage == torch.float16 else torch.nan
    with pytest.raises(StateError, match=f"{which} that are NaN or infinite"):
        memory.add(bad["keys"], bad["values"], p)
    assert all(torch.equal(tensor, before[name]) for name, tensor in memory.tensors().items())
    padded = Positions(torch.tensor([[0, 1, 2, -1, 4, 5]]))
    memory.add(bad["keys"], bad["values"], padded)  # padding is not written, whatever stands there


def test_more_neighbours_than_entries_are_absent() -> None:
    k, v, p = _tokens(1, 3)
    memory = Memory.empty(1, 2, 5, 8, 8).add(k, v, p)
    found, _ = recall(memory, k, k, v, Positions.offset(3, 3), mask=EarlierSegment(3), most=50)
    assert found.keys.shape == (1, 2, 3, 50, 8)
    assert found.present.sum(-1).eq(3).all()


def test_what_does_not_fit_a_memory_is_refused_and_nothing_is_lost() -> None:
    memory = Memory.empty(2, 3, 20, 5, 4)
    k, v, where = torch.randn(2, 3, 7, 5), torch.randn(2, 3, 7, 4), Positions.whole(7)
    memory = memory.add(k, v, where)
    before = {name: tensor.clone() for name, tensor in memory.tensors().items()}
    for bad, rows, said in (
        ((k[..., :4], v), None, "keys of 3 heads of 4 numbers"),
        ((k[:, :2], v[:, :2]), None, "keys of 2 heads of 5 numbers"),
        ((k, v[..., :3]), None, "values of 3 heads of 3 numbers"),
        ((k, v), [0, 2], r"rows \[0, 2\] of a memory"),
        ((k, v), [-1, 0], r"rows \[-1, 0\] of a memory"),
        ((k, v), [1, 1], "each once"),
    ):
        with pytest.raises(StateError, match=said):
            memory.add(*bad, where, rows=None if rows is None else torch.tensor(rows))
    for row in (2, -1):
        with pytest.raises(StateError, match=f"row {row} of a memory"):
            memory.remove(row, numbers=[1])
    assert all(torch.equal(tensor, before[name]) for name, tensor in memory.tensors().items())
    with pytest.raises(ConfigError, match=r"vectors held as torch\.int16"):
        Memory.empty(1, 1, 4, 2, 2, storage=torch.int16)


def test_a_memory_without_entries_is_refused() -> None:
    with pytest.raises(ConfigError, match="0 entries"):
        Memory.empty(1, 1, 0, 4, 4)


def test_no_gradient_reaches_what_is_stored() -> None:
    k, v, p = _tokens(1, 4)
    k, v = k.requires_grad_(), v.requires_grad_()
    found, staged = recall(Memory.empty(1, 2, 9, 8, 8), k, k, v, p, mask=Everything(), most=3)
    memory = staged.commit()
    assert not found.keys.requires_grad
    assert not any(tensor.requires_grad for tensor in memory.tensors().values())
