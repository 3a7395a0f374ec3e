"""Whose memory a query looks into: its own row's, which is what stands by default, or those of the whole batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from formers.errors import StateError
from formers.laws import certify
from formers.parts import recollection
from formers.parts.attend import attend
from formers.parts.forgetting import LeastUsed
from formers.parts.masks import EarlierSegment
from formers.parts.memory import Memory, recall
from formers.parts.positions import Positions
from formers.parts.recollection import BATCH_BREAKS
from formers.parts.taps import listen
from tests.laws.test_memory_defects import LENGTH
from tests.laws.test_memory_defects import model as small
from tests.models.test_memorizing import EXACT, TEXT, model, read, text

LAYER = "trunk.blocks.1.attention"
CUTS = [[TEXT], [8] * 4 + [5], [1] * TEXT, [11, 13, 7, 6]]


@pytest.mark.parametrize("scope", ["row", "batch"])
@pytest.mark.parametrize("cuts", [[TEXT], [11, 13, 7, 6]], ids=["whole", "primes"])
def test_another_row_is_retrieved_from_where_the_batch_shares_and_never_by_default(scope: str, cuts: list[int]) -> None:
    made, ids = model(memory_scope=scope), text()
    other = torch.stack([ids[0], (ids[1] + 1) % 43])
    moved = (read(made, ids, cuts)[0] - read(made, other, cuts)[0])[0].abs().amax(-1)
    assert not moved[:5].any()  # nothing is remembered yet
    assert bool((moved[5:] > 1e-6).all()) if scope == "batch" else not moved.any()


@pytest.mark.parametrize("scope", ["row", "batch"])
def test_every_row_that_is_found_is_a_stored_row_bit_for_bit(scope: str, monkeypatch: pytest.MonkeyPatch) -> None:
    caught: list[Any] = []

    def catch(*args: Any, **kwargs: Any) -> Any:
        caught.append(original(*args, **kwargs))
        return caught[-1]

    original = recollection.recall
    monkeypatch.setattr(recollection, "recall", catch)
    made = model(memory_scope=scope)
    with listen(made, f"{LAYER}.keys", f"{LAYER}.values") as seen:
        read(made, text(3) % 14 * 3 + torch.arange(3)[:, None], [11, 13, 7, 6])  # no token stands in two rows
    k, v = (torch.cat(seen[f"{LAYER}.{name}"], 2) for name in ("keys", "values"))
    head, whose = torch.arange(2)[None, :, None, None], []
    for found, _ in caught:
        place = found.index.clamp(min=0)
        same = [(found.keys == k[row][head, place]) & (found.values == v[row][head, place]) for row in range(3)]
        whose.append(torch.stack([(one.all(-1) & found.present).sum(-1) for one in same]))
    rows = torch.cat(whose, 3)  # [whose, who asks, heads, queries]
    total = torch.cat([found.present.sum(-1) for found, _ in caught], 2)
    assert torch.equal(rows.sum(0), total)  # each is some row's
    from_others = torch.stack([rows[[o for o in range(3) if o != asks], asks].sum() for asks in range(3)])
    assert bool((from_others > 0).all()) if scope == "batch" else not from_others.any()


@pytest.mark.parametrize("cuts", CUTS, ids=["whole", "eights", "ones", "primes"])
@pytest.mark.parametrize("changes", [{}, {"num_kv_heads": 1}, {"memory_size": 8}, {"memory_storage": "int8"}])
def test_rows_in_step_find_the_same_however_the_text_was_cut(changes: dict[str, Any], cuts: list[int]) -> None:
    made, ids = model(memory_scope="batch", **changes), text(3)
    with torch.no_grad():
        whole = made(ids).logits
    assert (read(made, ids, cuts)[0] - whole).abs().max() < EXACT


def dense(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The slow twin: every row's queries attend to the keys of all rows side by side."""
    keys, values = (torch.cat(list(t), 1)[None].expand(len(q), -1, -1, -1) for t in (k, v))
    there = Positions(torch.arange(TEXT).repeat(len(q))[None])
    return attend(q, keys, values, Positions.whole(TEXT), there, mask=EarlierSegment(5), runner="dense")


@pytest.mark.parametrize("cuts", CUTS, ids=["whole", "eights", "ones", "primes"])
@pytest.mark.parametrize("groups", [2, 1])
def test_given_all_entries_it_is_dense_attention_over_all_rows(cuts: list[int], groups: int) -> None:
    made = model(memory_scope="batch", neighbours=1000, num_kv_heads=groups)
    with listen(made, *(f"{LAYER}.{name}" for name in ("queries", "keys", "values", "remembered"))) as seen:
        read(made, text(3), cuts)
    q, k, v, found = (torch.cat(seen[f"{LAYER}.{name}"], 2) for name in ("queries", "keys", "values", "remembered"))
    assert (found - dense(q, k, v)).abs().max() < EXACT


def test_a_row_that_ends_takes_its_own_entries_along_and_no_others() -> None:
    made, ids, more = model(memory_scope="batch"), text(), text(seed=1)
    index = torch.stack([torch.arange(TEXT), torch.arange(20, 20 + TEXT)])
    for reset in (0, 1):
        _, state = read(made, ids, [20], made.init_state(2, 100))
        memory = state.reset(torch.tensor([reset == 0, reset == 1])).nodes[1][0].memory
        assert memory.held.tolist() == [20 * (reset == 1), 20 * (reset == 0)]
    _, state = read(made, ids[:, :20], [20], made.init_state(2, 100))
    state = state.reset(torch.tensor([True, False]))
    with torch.no_grad(), listen(made, f"{LAYER}.found") as seen:
        made(more, positions=Positions(index), state=state)
    first, second = seen[f"{LAYER}.found"][0]
    assert bool((first[:, 5:10] >= 0).any())  # row 0 finds what row 1 had read
    assert bool((second >= 0).any())


def test_certify_says_which_laws_say_nothing_and_the_others_hold() -> None:
    made = small(memory_scope="batch")
    report = certify(made, fresh=True, length=LENGTH)
    assert report.ok, report.failed
    for law in BATCH_BREAKS:
        assert report.laws[law].status == "not applicable"
        assert "other rows, which are other documents" in report.laws[law].detail
    assert report.laws["causal by perturbation"].status == "pass"


@pytest.mark.parametrize("law", BATCH_BREAKS)
def test_each_law_that_it_excepts_itself_from_would_fail(law: str) -> None:
    assert certify(small(), laws=[law], length=LENGTH).ok
    made = small(memory_scope="batch")
    made.law_exceptions = {}
    assert not certify(made, laws=[law], length=LENGTH).ok


def test_without_a_memory_layer_nothing_is_shared_and_nothing_is_excepted() -> None:
    assert model(memory_scope="batch", memory_layers=()).law_exceptions == {}
    assert model().law_exceptions == {}


def test_a_shared_memory_that_goes_by_what_is_found_is_refused() -> None:
    q, k = torch.randn(2, 2, 3, 4), torch.randn(2, 2, 3, 4)
    memory = Memory.empty(2, 2, 10, 4, 4, policy=LeastUsed())
    with pytest.raises(StateError, match="shared memory of which LeastUsed"):
        recall(memory, q, k, k, Positions.whole(3), mask=EarlierSegment(1), most=2, shared=True)
