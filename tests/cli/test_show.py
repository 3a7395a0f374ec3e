"""`formers show`: what it says of a memory is what a memory takes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from formers.cli.parse import changed_settings
from formers.hub import resolve
from formers.parts.recollection import MemoryNode
from tests.cli.commands import Formers


@pytest.fixture
def grafted(formers: Formers, run: Path) -> Path:
    assert formers("graft", run, "--size", "300", "--segment", "16", "--out", "remembering").code == 0
    return Path("remembering")


def printed(formers: Formers, *arguments: object) -> dict[str, tuple[int, str]]:
    """Bytes of each layer's memory, and the formula that stands beside them."""
    said = " ".join(formers("show", *arguments).out.split())
    found = re.findall(r"memory, (\S+) ([\d,]+) bytes a row when full \([^)]*\): (.*?); a look-up", said)
    return {layer: (int(count.replace(",", "")), formula) for layer, count, formula in found}


def filled(target: object, changes: tuple[str, ...]) -> list[int]:
    """Bytes of all tensors of each layer's memory, after a text that is longer than it holds."""
    model = resolve(str(target), changes=changed_settings(changes)).model.eval()
    with torch.no_grad():
        state = model.init_state(1, 10**6)
        for piece in torch.randint(0, 200, (1, 2048)).split(512, 1):
            state = model(piece, state=state).state.commit()
    nodes = [node for block in state.nodes for node in block if isinstance(node, MemoryNode)]
    assert all(bool((node.memory.number >= 0).all()) for node in nodes)
    return [sum(t.untyped_storage().nbytes() for t in node.memory.tensors().values()) for node in nodes]


@pytest.mark.parametrize("storage", ["null", "bfloat16", "int8"])
@pytest.mark.parametrize("target", ["memorizing.nano", "grafted"])
def test_the_bytes_of_a_memory_are_those_that_a_full_one_takes(
    target: str, storage: str, formers: Formers, request: pytest.FixtureRequest
) -> None:
    where = request.getfixturevalue("grafted") if target == "grafted" else target
    changes = (f"memory_storage={storage}",)
    said, taken = printed(formers, where, "--set", *changes), filled(where, changes)
    assert len(said) == len(taken) > 0
    for (count, formula), held in zip(said.values(), taken, strict=True):
        assert count == pytest.approx(held, rel=0.05)
        assert value_of(formula) == count


def value_of(formula: str) -> int:
    """``1,088 entries x (2 heads x 2 x 128 bytes, a key and a value of 32 numbers, + 24, its place ..) + 8``"""
    numbers = re.fullmatch(
        r"([\d,]+) entries x \((\d+) heads x 2 x ([\d,]+) bytes, [^+]*\+ (\d+), [^)]*\) \+ 8", formula
    )
    assert numbers, formula
    entries, heads, vector, beside = (int(number.replace(",", "")) for number in numbers.groups())
    return entries * (heads * 2 * vector + beside) + 8


def test_a_setting_that_is_none_is_refused(formers: Formers) -> None:
    assert "memory_storage" in formers.refuses("show", "memorizing.nano", "--set", "memory_storage=int4")
