"""A text that is memorised once: prompts after it find what they would have found had they read it themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import formers
from formers.errors import ConfigError, DataError, RunError, StateError, TargetError
from formers.generation import generate
from formers.generation.memorised import Memorised, memories_of, memorise
from tests.parity.harness import random_ids, randomise

SIZES: dict[str, Any] = {
    "vocab_size": 43, "d_model": 26, "num_layers": 3, "num_heads": 2, "d_ff": 31, "segment_length": 5, "cache_length": 0,
    "memory_layers": (0, 2), "memory_size": 100, "neighbours": 7,
}  # fmt: skip


def model(**changes: Any) -> Any:
    made = formers.build("memorizing", **SIZES | changes).double().eval()
    randomise(made, 1)
    return made


def grafted() -> Any:
    decoder = formers.build("gpt2", vocab_size=43, d_model=26, num_layers=2, num_heads=2, max_length=16).double()
    made = formers.graft_memory(decoder, [1], 100, neighbours=7, segment_length=5, merge="gate").eval()
    randomise(made, 1)
    return made


TEXT = random_ids(1, 60, 43, seed=3)[0].tolist()


@pytest.mark.parametrize("make", [model, lambda: model(memory_size=20), grafted], ids=["all", "newest 20", "grafted"])
@pytest.mark.parametrize("length", [60, 58])
def test_a_prompt_after_it_is_continued_as_after_reading_it(make: Any, length: int, tmp_path: Path) -> None:
    """With no cache of the segment before, the memory is all that is left of a text at the start of a segment."""
    made, prompt = make(), random_ids(1, 12, 43, seed=4)
    memorise(made, TEXT[:length], tmp_path / "m")
    state = Memorised(made, tmp_path / "m").state(12)
    with torch.no_grad():
        found = made(prompt, state=state).logits
        read = made.init_state(1, 200)
        for piece in torch.tensor([TEXT[:length]]).split(7, 1):
            read = made(piece, state=read).state.commit()
        read.next_index, read.start = torch.tensor([60]), None  # a text of 58 goes on at the next segment
        wanted = made(prompt, state=read).logits
    if length == 60:
        wanted_whole = made(torch.cat([torch.tensor([TEXT]), prompt], 1)).logits[:, 60:]
        assert (found - wanted_whole).abs().max() < 1e-9
    assert (found - wanted).abs().max() < 1e-9
    assert (found - made(prompt).logits).abs().max() > 1e-3


def test_generation_goes_on_from_it_and_leaves_it_as_it_was(tmp_path: Path) -> None:
    made, settings = model(), {"max_new_tokens": 15, "temperature": 0.0}
    memorise(made, TEXT, tmp_path / "m")
    cache = Memorised(made, tmp_path / "m")
    prompts = random_ids(2, 7, 43, seed=4)
    together = generate(made, prompts, cache=cache, **settings)
    for row, prompt in enumerate(prompts):
        whole = generate(made, TEXT + prompt.tolist(), **settings)[0, len(TEXT) :]
        assert torch.equal(together[row], whole)
        assert torch.equal(generate(made, prompt, cache=cache, **settings)[0], whole)


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    made = model()
    memorise(made, TEXT, tmp_path / "m")
    with pytest.raises(RunError, match="holds files already"):
        memorise(made, TEXT, tmp_path / "m")
    memorise(made, TEXT[:9], tmp_path / "m", replace=True)
    assert Memorised(made, tmp_path / "m").tokens == 9
    with pytest.raises(StateError, match="memorise the text again with this model"):
        Memorised(grafted(), tmp_path / "m")
    with pytest.raises(TargetError, match="has no memory"):
        memorise(model(memory_layers=()), TEXT, tmp_path / "n")
    with pytest.raises(DataError, match="outside the vocabulary: 43"):
        memorise(made, [1, 43], tmp_path / "n")
    cache = Memorised(made, tmp_path / "m")
    with pytest.raises(ConfigError, match="one length"):
        generate(made, [[1], [1, 2]], cache=cache, max_new_tokens=2)
    with pytest.raises(ConfigError, match="another model"):
        generate(model(), [1], cache=cache, max_new_tokens=2)


def test_memories_go_by_the_block_that_they_are_of() -> None:
    assert set(memories_of(model().init_state(1, 10))) == {"block 0", "block 2"}
