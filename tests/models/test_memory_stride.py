"""A memory of every so manieth token: what is stored, what it costs, and that how the text was cut does not show."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import formers
from formers.generation.memorised import Memorised, memorise
from formers.inspection.anatomy import cost
from formers.laws import certify
from formers.parts.masks import Summary
from formers.parts.memory import Memory
from formers.parts.positions import Positions
from formers.parts.taps import listen
from tests.laws.test_memory_defects import LENGTH
from tests.laws.test_memory_defects import model as small
from tests.models.test_memorizing import EXACT, TEXT, memory_layer, model, read, text


def memory_of(state: Any) -> Memory:
    return state.nodes[1][0].memory


def stored(memory: Memory, row: int = 0) -> list[int]:
    return sorted(index for index in memory.index[row].tolist() if index >= 0)


@pytest.mark.parametrize("cuts", [[TEXT], [1] * TEXT, [11, 13, 7, 6]], ids=["whole", "ones", "primes"])
def test_stride_four_stores_every_fourth_position_and_finds_no_other(cuts: list[int]) -> None:
    made = model(memory_stride=4, neighbours=1000)
    with listen(made, "*.found") as seen:
        _, state = read(made, text(), cuts)
    assert stored(memory_of(state)) == stored(memory_of(state), 1) == list(range(3, TEXT, 4))
    found = torch.cat([index[0, 0].T for index in seen["trunk.blocks.1.attention.found"]], 1).T
    for place in range(TEXT):
        assert set(found[place].tolist()) - {-1} == set(range(3, place // 5 * 5, 4))


@pytest.mark.parametrize("stride", [2, 3, 7])
@pytest.mark.parametrize("size", [4, 1000])
def test_it_is_a_memory_of_all_that_shows_every_so_manieth(stride: int, size: int) -> None:
    """The slow twin stores every token and hides what the stride leaves out; rows stand apart, and a document ends."""
    made, twin = model(memory_stride=stride, memory_size=size), model(memory_size=size * stride)
    layer = memory_layer(twin)
    layer.memory = replace(layer.memory, shows=layer.memory.shows & Summary(stride, 1))
    ids, first = text(), 19
    index = torch.stack([torch.cat([torch.arange(first), torch.arange(TEXT - first)]), torch.arange(-4, TEXT - 4)])
    document = (torch.arange(TEXT) >= first).long() * torch.tensor([[1], [0]])
    positions = Positions(index.clamp(min=-1), document)
    with torch.no_grad():
        wanted = twin(ids, positions=positions).logits[positions.present]
        assert (made(ids, positions=positions).logits[positions.present] - wanted).abs().max() < EXACT
        for cuts in ([7] * 5 + [2], [1] * TEXT):
            state, found, start = made.init_state(2, TEXT), [], 0
            for length in cuts:
                piece = slice(start, start + length)
                out = made(ids[:, piece], positions=positions.slice(start, start + length), state=state)
                found.append(out.logits)
                state, start = out.state.commit(), start + length
            assert (torch.cat(found, 1)[positions.present] - wanted).abs().max() < EXACT
    assert (model(memory_size=size)(ids).logits - made(ids).logits).abs().max() > 1e-3


def test_entries_bytes_and_look_ups_are_a_quarter_for_the_same_reach() -> None:
    """64 x 4 tokens back from 5 of a segment: 261 entries, or 64 and the 2 that a segment may add."""
    every, fourth = model(memory_size=256), model(memory_size=64, memory_stride=4)
    assert every.config.remembered.reach == fourth.config.remembered.reach == 256
    sizes = [memory_of(made.init_state(1, 10**6)) for made in (every, fourth)]
    assert [memory.slots for memory in sizes] == [261, 66]
    assert (sizes[0].nbytes - 8) / 261 == (sizes[1].nbytes - 8) / 66  # 8: how many were written
    held = [cost(made).memories[0] for made in (every, fourth)]
    assert [one.bytes for one in held] == [memory.nbytes for memory in sizes]
    assert held[0].look_up_per_token * 66 == held[1].look_up_per_token * 261
    assert (held[0].stride, held[1].stride) == (1, 4)


def test_a_short_text_takes_room_for_its_entries_alone() -> None:
    assert memory_of(model(memory_stride=4).init_state(1, TEXT)).slots == 10  # of 37 tokens


def test_all_laws_hold() -> None:
    report = certify(small(memory_stride=2), fresh=True, length=LENGTH)
    assert report.ok, report.failed
    assert not [v.name for v in report.laws.values() if v.status == "not applicable" and "tokenizer" not in v.detail
                and v.name != "segments equal whole"]  # fmt: skip


def test_a_stride_that_is_counted_from_the_call_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    law = "step by step equals whole"
    assert certify(small(memory_stride=2), laws=[law], length=LENGTH).ok

    def from_the_call(memory: Memory, positions: Positions) -> torch.Tensor:
        return positions.present & (torch.arange(positions.length) % memory.stride == memory.stride - 1)

    monkeypatch.setattr(Memory, "_writes", from_the_call)
    found = certify(small(memory_stride=2), laws=[law], length=LENGTH).laws[law]
    assert (found.status, found.blame) == ("fail", "trunk.blocks.1.attention"), found


def test_a_memorised_text_keeps_its_stride_on_disk_and_its_place(tmp_path: Path) -> None:
    made, ids = model(memory_stride=4, memory_layers=(1,)).float(), text(1, 60)[0].tolist()
    memorise(made, ids, tmp_path / "text")
    kept = Memorised(made, tmp_path / "text")
    assert kept.tokens == 60
    assert kept.memories["block 1"].stride == 4
    assert stored(kept.memories["block 1"]) == list(range(3, 60, 4))
    with torch.no_grad():
        state = kept.state(20)
        assert int(state.next_index[0]) == 60
        assert stored(memory_of(made(text(1, 9), state=state).state.commit())) == list(range(3, 68, 4))
    assert formers.generate(made, [[1, 2, 3]], cache=kept, max_new_tokens=9).shape == (1, 12)
