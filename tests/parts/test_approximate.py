"""Approximate search finds most of what exact search finds, says how much, and never what is gone or hidden."""

from __future__ import annotations

import sys

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from formers.errors import ConfigError
from formers.parts.masks import EarlierSegment, SameDocument
from formers.parts.memory import Memory, recall
from formers.parts.positions import Positions
from formers.parts.replay import Record
from formers.parts.search import Asked, search_exactly

pytest.importorskip("faiss", reason="the extra `search` is not installed")
from formers.parts.approximate import Approximate, Index

TOPICS = torch.randn(60, 16, generator=torch.Generator().manual_seed(5))


def _vectors(*shape: int) -> Tensor:
    """Vectors about topics, as keys are."""
    return TOPICS[torch.randint(0, len(TOPICS), shape)] + 0.5 * torch.randn(*shape, 16)


def _memory(entries: int, slots: int, search: Approximate, **kind) -> Memory:
    memory = Memory.empty(2, 2, slots, 16, 16, search=search, **kind)
    return memory.add(_vectors(2, 2, entries), torch.randn(2, 2, entries, 16), Positions.whole(entries))


def _share(memory: Memory, asked: Asked) -> float:
    """Of what exact search finds."""
    found, true = memory.search.search(asked, memory.store), search_exactly(asked, memory.keys, memory.positions)
    same = (found.slots[..., None, :] == true.slots[..., None]) & found.present[..., None, :]
    return float((same.any(-1) & true.present).sum() / true.present.sum())


@pytest.mark.parametrize("fast_bf16", [True, False], ids=["bf16_fast", "bf16_slow"])
@pytest.mark.parametrize("storage", [torch.float32, torch.int8], ids=str)
def test_most_of_the_nearest_are_found_and_how_many_is_known(
    storage: torch.dtype, fast_bf16: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Products with centres are made in the type that the processor is fast in."""
    monkeypatch.setattr("formers.parts.approximate.has_fast_bf16", lambda device: fast_bf16)
    search = Approximate(probes=8, wanted=0.0, least=100, measured_on=40)
    memory = _memory(3000, 3000, search, storage=storage)
    asked = Asked(_vectors(2, 4, 40), Positions.offset(3000, 40), EarlierSegment(3000), 16)
    share = _share(memory, asked)
    assert share > 0.9
    assert search.recall == pytest.approx(share, abs=0.01)


def test_with_all_lists_probed_it_finds_what_exact_search_finds() -> None:
    memory = _memory(1500, 2000, Approximate(lists=20, probes=20, least=1))
    asked = Asked(_vectors(2, 2, 11), Positions.offset(1500, 11), EarlierSegment(1500), 9)
    assert _share(memory, asked) > 0.98  # the lists hold bf16


def test_where_too_little_is_found_more_lists_are_looked_into() -> None:
    asked = Asked(_vectors(2, 4, 40), Positions.offset(3000, 40), EarlierSegment(3000), 16)
    shares = {}
    for wanted in (0.0, 0.99):
        search = Approximate(lists=100, probes=2, wanted=wanted, least=100, measured_on=40)
        shares[wanted] = _share(_memory(3000, 3000, search), asked)
        assert (search.probes > 2) == bool(wanted)
        assert search.recall == pytest.approx(shares[wanted], abs=0.01)
    assert shares[0.0] < 0.9
    assert shares[0.99] > 0.98


def test_few_entries_are_searched_exactly() -> None:
    memory = _memory(300, 1000, Approximate(probes=1, least=301))
    asked = Asked(_vectors(2, 2, 11), Positions.offset(300, 11), EarlierSegment(300), 9)
    assert _share(memory, asked) == 1.0
    assert not memory.built


def test_what_is_overwritten_removed_cleared_or_hidden_is_never_found() -> None:
    search = Approximate(probes=64, least=10)
    memory = _memory(600, 600, search)
    q = _vectors(2, 2, 20)
    shows = EarlierSegment(10) & SameDocument()
    for step in range(12):
        first = 600 + 70 * step
        document = torch.full((2, 70), step // 4)
        positions = Positions(torch.arange(first, first + 70)[None].repeat(2, 1), document)
        found, _ = recall(
            memory, q, q, q, Positions(positions.index[:, :20], document[:, :20]), mask=shows, most=9, write=False
        )
        there = found.present
        oldest = memory.index.masked_fill(memory.number < 0, 1 << 30).amin(-1)
        assert (found.index[there] >= oldest[:, None, None, None].expand_as(found.index)[there]).all()
        assert (found.document[there] == step // 4).all()
        assert (found.index[there] < first + 20).all()
        stored = torch.cat([memory.keys.part(0, slice(0, 1), slice(None))[0], q[0, 0]])
        assert (found.keys[0, 0][there[0, 0]][:, None] == stored).all(-1).any(-1).all()
        memory = memory.add(_vectors(2, 2, 70), torch.randn(2, 2, 70, 16), positions)
        if step == 5:
            memory = memory.remove(0, document=1)
            assert not _any_found(memory, 0, q, document=1)
    memory = memory.reset(torch.tensor([True, False]))
    assert not _any_found(memory, 0, q, document=2)
    assert _any_found(memory, 1, q, document=2)


def _any_found(memory: Memory, row: int, q: Tensor, document: int) -> bool:
    where = Positions(torch.full((1, 20), 10**6), torch.full((1, 20), document))
    asked = Asked(q[row : row + 1], where, EarlierSegment(10) & SameDocument(), 9, torch.tensor([row]))
    return bool(memory.search.search(asked, memory.store).present.any())


def test_a_row_that_was_cleared_and_filled_again_finds_its_new_entries() -> None:
    """Numbers begin anew with a cleared row, so its index has to as well."""
    memory = _memory(500, 500, Approximate(lists=10, probes=10, least=10))
    asked = Asked(_vectors(2, 2, 20), Positions.offset(10**6, 20), EarlierSegment(10**6), 9)
    memory.search.search(asked, memory.store)
    memory = memory.reset(torch.tensor([True, True]))
    memory = memory.add(_vectors(2, 2, 500), torch.randn(2, 2, 500, 16), Positions.whole(500))
    assert _share(memory, asked) > 0.98


def test_an_index_is_made_anew_when_half_as_many_are_dead_as_live(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    begin = Index.__init__

    def counted(self, *arguments) -> None:
        made.append(1)
        begin(self, *arguments)

    monkeypatch.setattr(Index, "__init__", counted)
    memory = _memory(400, 400, Approximate(lists=8, probes=8, least=10, measure_every=0))
    asked = Asked(_vectors(2, 2, 5), Positions.offset(10**6, 5), EarlierSegment(10**6), 9)
    counts = []
    for step in range(9):
        memory.search.search(asked, memory.store)
        counts.append(len(made) // 2)
        more = Positions.offset(400 + 60 * step, 60)
        memory = memory.add(_vectors(2, 2, 60), torch.randn(2, 2, 60, 16), more)
    assert counts == [1, 1, 1, 1, 1, 2, 2, 2, 2]  # 240 dead, 400 live at the sixth look-up
    assert _share(memory, asked) > 0.98


def test_rows_of_one_store_can_be_named() -> None:
    memory = _memory(500, 500, Approximate(lists=10, probes=10, least=10))
    q, where = _vectors(2, 2, 20), Positions.offset(10**6, 20)
    crossed = memory.search.search(Asked(q, where, EarlierSegment(10**6), 9, torch.tensor([1, 0])), memory.store)
    true = search_exactly(Asked(q.flip(0), where, EarlierSegment(10**6), 9), memory.keys, memory.positions)
    assert float((crossed.slots[..., None, :] == true.slots.flip(0)[..., None]).any(-1).float().mean()) > 0.98


def test_without_faiss_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ConfigError, match=r"pip install formers\[search\]"):
        Approximate()


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match="probes=0"):
        Approximate(probes=0)
    with pytest.raises(ConfigError, match=r"wanted=1\.0"):
        Approximate(wanted=1.0)


def test_centres_point_at_the_topics() -> None:
    memory = _memory(3000, 3000, search := Approximate(lists=60, probes=1, least=10))
    search.search(Asked(_vectors(2, 2, 1), Positions.offset(3000, 1), EarlierSegment(3000), 1), memory.store)
    centres = memory.built[0].centres[0]
    assert (F.normalize(TOPICS, dim=-1) @ centres.T).amax(-1).mean() > 0.9


def test_a_recomputation_is_given_what_its_forward_found() -> None:
    """Two look-ups of one search: the second finds too little, and from then on queries look into more lists."""
    memory = _memory(
        3000, 3000, Approximate(lists=100, probes=1, wanted=0.99, least=100, measure_every=2, measured_on=40)
    )
    search = memory.search
    assert isinstance(search, Approximate)
    search.calls = 1  # so that the second look-up measures
    asked = [Asked(_vectors(2, 4, 40), Positions.offset(3000, 40), EarlierSegment(3000), 16) for _ in range(2)]
    record, calls = Record(torch.device("cpu")), []
    with record.recording():
        before = [search.search(each, memory.store) for each in asked]
        calls.append((search.calls, search.probes))
    with record.replaying():
        again = [search.search(each, memory.store) for each in asked]
        calls.append((search.calls, search.probes))
    assert search.probes > 1
    assert calls[0] == calls[1]
    for a, b in zip(before, again, strict=True):
        assert torch.equal(a.slots, b.slots)
        assert torch.equal(a.scores, b.scores)
