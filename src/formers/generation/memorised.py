"""A text that is memorised once and remembered by every prompt.

    memorise(model, ids, folder)
    generate(model, prompt, cache=Memorised(model, folder))      # its look-ups find what stands in that text

What is kept are the memories alone (hub/memories.py). A prompt begins a segment of its own behind the text: it sees nothing of
the text near by, and all that the memory holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from formers.errors import ConfigError, StateError
from formers.generation.prompts import Prompts
from formers.generation.readers import device_of, evaluating
from formers.hub.memories import fingerprint, load_memories, save_memories
from formers.inspection.lookups import memory_layers, segment_length
from formers.parts.memory import Memory
from formers.parts.positions import Positions
from formers.parts.recollection import MemoryNode
from formers.parts.states import State


def memories_of(state: State) -> dict[str, Memory]:
    """The memories of a state, by the block that they are of."""
    return {f"block {i}": node.memory for i, node in _memory_nodes(state)}


def _memory_nodes(state: State) -> list[tuple[int, MemoryNode]]:
    return [(i, node) for i, block in enumerate(state.nodes) for node in block if isinstance(node, MemoryNode)]


@torch.no_grad()
def memorise(model: Any, ids: Sequence[int], folder: Path | str, *, replace: bool = False) -> dict[str, Memory]:
    """Read a text, a segment a call, and write what the model's memories then hold to `folder`; they are returned, too.

    Raises TargetError for a model without a memory, DataError for ids outside its vocabulary, RunError where the folder holds
    something and `replace` is off.
    """
    prompts, segment = Prompts.read([ids]), segment_length(memory_layers(model))
    prompts.check_vocabulary(model)
    state = model.init_state(1, prompts.longest)
    with evaluating(list(model.modules())):
        for piece in prompts.padded(0, device_of(model)).split(segment, 1):
            state = model.body(piece, None, state)[1].commit()
    memories = memories_of(state)
    save_memories(folder, memories, model=fingerprint(model), replace=replace)
    return memories


class Memorised:
    """What a folder of `memorise` holds, as the beginning of prompts (`cache` of ``formers.generate``). It is copied for each
    generation, which goes on writing into its own; where a memory is full the oldest entries go.

    tokens  of the text that was memorised

    Raises TargetError, RunError or StateError where there is no such folder, it is damaged, or it is of another model.
    """

    def __init__(self, model: nn.Module, folder: Path | str) -> None:
        self.model, self.segment, self.room = model, segment_length(memory_layers(model)), 1
        like = memories_of(model.init_state(1, 1))  # type: ignore[operator]
        self.memories = load_memories(folder, model=fingerprint(model), like=like)
        rows = max(len(memory.written) for memory in self.memories.values())
        if rows != 1:
            raise StateError(f"{folder} holds memories of {rows} texts side by side", "of one", "memorise one text")
        self.tokens = max(int(memory.index.max()) + 1 for memory in self.memories.values())

    def check(self, model: nn.Module, room: int) -> None:
        """Raise ConfigError where this cannot serve a generation; `room` for prompt and continuation."""
        if model is not self.model:
            raise ConfigError("what another model memorised", "Memorised of the model that generates")
        self.room = room

    def shared(self, rows: Sequence[tuple[int, ...]]) -> tuple[int, State]:
        """No id of any row is read yet, and the state that remembers the text."""
        if len({len(row) for row in rows}) > 1:
            raise ConfigError(
                "prompts of different lengths after a memorised text", "prompts of one length, or one by one"
            )
        return 0, self.state(self.room).fork(len(rows))

    @torch.no_grad()
    def state(self, room: int) -> State:
        """A state of one row that remembers the text and has room for so many tokens after it."""
        first = -(-self.tokens // self.segment) * self.segment
        state: State = self.model.init_state(1, first + room)  # type: ignore[operator]
        for i, node in _memory_nodes(state):
            node.memory = _added(node.memory, self.memories[f"block {i}"])
        # nothing is promised of a start: the caches near by are empty, though the text goes on at `first`
        return State(state.nodes, torch.full_like(state.next_index, first), None, None)


def _added(into: Memory, stored: Memory) -> Memory:
    """The entries of `stored`, the oldest first."""
    held = (stored.number[0] >= 0).nonzero()[:, 0]
    held = held[stored.number[0, held].argsort()]

    def part(vectors: Any) -> Tensor:
        return vectors.part(0, slice(None), slice(None))[None, :, held].to(into.index.device)

    positions = Positions(stored.index[:, held].to(into.index.device))
    return into.add(part(stored.keys), part(stored.values), positions)
